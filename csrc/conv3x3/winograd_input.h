// The transform of Winograd's input, B' d B, of the tiles of a block.
#pragma once

#include "conv3x3/winograd.h"
#include "conv3x3/winograd_transforms.h"
#include "vectors/vectors.h"

namespace rddm {
namespace {

// Where a part's values of a vector of channels begin.
constexpr int64_t part_size(int positions) { return int64_t(positions) * kRows * kWidth; }

// Calls it for each run of the tiles from `first` on that lie in one row of an image.
template <class Call>
RDDM_INLINE void for_rows(const Winograd& w, int64_t first, int64_t tiles, Call&& call) {
  for (int64_t done = 0; done < tiles;) {
    const int64_t column = (first + done) % w.tile_columns;
    const int64_t row = (first + done) / w.tile_columns;
    const int64_t run = least(w.tile_columns - column, tiles - done);
    call(row / w.tile_rows, row % w.tile_rows, column, run, done);
    done += run;
  }
}

// The columns of a run of tiles, each transformed once: neighbouring tiles share two of them.
template <class F>
struct Ring {
  static constexpr int kSize = 2 * F::kOut;
  Vec columns[kSize][F::kIn];
};

// The second half of B' d B, of the tile whose first column is number Phase of the ring.
template <class F, int Phase>
RDDM_INLINE void input_tile(const Ring<F>& ring, float* to) {
  constexpr int kIn = F::kIn;
#pragma GCC unroll 6
  for (int i = 0; i < kIn; ++i) {
    Vec d[kIn], v[kIn];
#pragma GCC unroll 6
    for (int j = 0; j < kIn; ++j) d[j] = ring.columns[(Phase + j) % Ring<F>::kSize][i];
    F::input(d, v);
#pragma GCC unroll 6
    for (int j = 0; j < kIn; ++j) store(to + (i * kIn + j) * kRows * kWidth, v[j]);
  }
}

// A tile whose input is all inside the image: `from` is at the first of its new columns. Not
// inlined: in a loop the compiler keeps each address as a variable of its own, on the stack.
template <class F, int Phase>
__attribute__((noinline)) void input_tile_inside(Ring<F>& ring, const float* from, int64_t channels,
                                                 int64_t line, float* to) {
#pragma GCC unroll 4
  for (int j = 2; j < F::kIn; ++j, from += channels) {
    Vec d[F::kIn];
#pragma GCC unroll 6
    for (int i = 0; i < F::kIn; ++i) d[i] = load(from + i * line);
    F::input(d, ring.columns[(Phase + j) % Ring<F>::kSize]);
  }
  input_tile<F, Phase>(ring, to);
}

// Where the vector of a run's channels lies in its image. `some` is 0, or the number of channels of
// a source with too few for a vector.
struct Strip {
  const float* image;
  int64_t channels, some, height, width;

  // The column x of the tiles whose first row of input is `top`; zeros outside the image.
  template <class F>
  RDDM_INLINE void column(int64_t top, int64_t x, Vec (&transformed)[F::kIn]) const {
    Vec d[F::kIn];
    for (int i = 0; i < F::kIn; ++i) {
      const bool inside = x >= 0 && x < width && top + i >= 0 && top + i < height;
      const float* const from = image + ((top + i) * width + x) * channels;
      d[i] = !inside ? Vec{} : some ? load_some(from, some) : load(from);
    }
    F::input(d, transformed);
  }

  template <class F, int Phase>
  RDDM_INLINE void tile(Ring<F>& ring, int64_t top, int64_t left, float* to) const {
    constexpr int kIn = F::kIn;
    if (!some && top >= 0 && top + kIn <= height && left + kIn <= width) {
      const float* const from = image + (top * width + left + 2) * channels;
      input_tile_inside<F, Phase>(ring, from, channels, width * channels, to);
      return;
    }
    for (int j = 2; j < kIn; ++j) {
      column<F>(top, left + j, ring.columns[(Phase + j) % Ring<F>::kSize]);
    }
    input_tile<F, Phase>(ring, to);
  }

  template <class F>
  RDDM_INLINE void run(int64_t row, int64_t column_of_tiles, int64_t tiles, float* to) const {
    const int64_t top = row * F::kOut - 1, left = column_of_tiles * F::kOut - 1;
    Ring<F> ring;
    for (int j = 0; j < 2; ++j) column<F>(top, left + j, ring.columns[j]);
    for (int64_t i = 0; i < tiles; ++i, to += kWidth) {
      const int64_t x = left + i * F::kOut;
      i % 2 ? tile<F, F::kOut>(ring, top, x, to) : tile<F, 0>(ring, top, x, to);
    }
  }
};

template <class F>
void transform_input(const Winograd& w, const WinogradBlock& b, int64_t group) {
  constexpr int64_t kSize = part_size(F::kIn * F::kIn);
  const int64_t before = groups_of(w.source_channels[0]);
  const int source = group >= before;
  const int64_t channels = w.source_channels[source], pixels = w.height * w.width;
  const int64_t some = channels < kWidth ? channels : 0;
  const float* const image =
      w.sources[source] + channel_of(source ? group - before : group, channels);
  for (int64_t part = 0; part < b.parts; ++part) {
    float* const to = b.v + (group * b.parts + part) * kSize;
    const int64_t begin = b.begin(part);
    for_rows(w, b.first + begin, b.begin(part + 1) - begin,
             [&](int64_t n, int64_t row, int64_t column, int64_t run, int64_t at) {
               const float* const own = image + n * pixels * channels;
               const Strip strip{own, channels, some, w.height, w.width};
               strip.run<F>(row, column, run, to + at * kWidth);
             });
  }
}

}  // namespace
}  // namespace rddm
