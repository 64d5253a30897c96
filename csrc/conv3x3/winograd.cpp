// The three steps of Winograd's convolution, for the instruction set that this file is compiled
// for: once for each (see CMakeLists.txt). It includes no header whose functions
// another file might take over from it.
#include "conv3x3/winograd.h"

#include "conv3x3/winograd_input.h"
#include "vectors/multiply.h"

namespace rddm {
namespace {

// G g G' of the weights of a vector of output channels, in float64: g[tap][lane].
template <class F>
RDDM_INLINE void pack_lanes(const float (&g)[9][kWidth], float* to, int64_t position_stride) {
  constexpr int kIn = F::kIn;
  double half[kIn][3][kWidth];
  for (int i = 0; i < kIn; ++i) {
    const double* const row = F::kG[i];
    for (int j = 0; j < 3; ++j) {
      for (int lane = 0; lane < kWidth; ++lane) {
        half[i][j][lane] = row[0] * g[j][lane] + row[1] * g[3 + j][lane] + row[2] * g[6 + j][lane];
      }
    }
  }
  for (int i = 0; i < kIn; ++i) {
    for (int j = 0; j < kIn; ++j) {
      const double* const column = F::kG[j];
      float* const at = to + (i * kIn + j) * position_stride;
      for (int lane = 0; lane < kWidth; ++lane) {
        at[lane] = float(half[i][0][lane] * column[0] + half[i][1][lane] * column[1] +
                         half[i][2][lane] * column[2]);
      }
    }
  }
}

template <class F>
void pack_panel(const PlainWeight& w, int64_t panel, float* to) {
  const int64_t first = 2 * panel, groups = least(2, groups_of(w.result_channels) - first);
  const int64_t lanes = groups * kWidth;
  to += F::kIn * F::kIn * w.channels * first * kWidth;
  for (int64_t c = 0; c < w.channels; ++c) {
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t k = channel_of(first + group, w.result_channels);
      const int64_t there = least(kWidth, w.result_channels - k);
      const float* const from = w.data + k * w.result_channel + c * w.channel;
      float g[9][kWidth] = {};  // zeros for a lane of no channel
      for (int64_t tap = 0; tap < 9; ++tap) {
        for (int64_t lane = 0; lane < there; ++lane) {
          g[tap][lane] = from[lane * w.result_channel + tap * w.tap];
        }
      }
      pack_lanes<F>(g, to + c * lanes + group * kWidth, w.channels * lanes);
    }
  }
}

void pack(int tile, const PlainWeight& weight, int64_t panel, float* to) {
  tile == 4 ? pack_panel<F4>(weight, panel, to) : pack_panel<F2>(weight, panel, to);
}

void input(const Winograd& w, const WinogradBlock& b, int64_t group) {
  w.tile == 4 ? transform_input<F4>(w, b, group) : transform_input<F2>(w, b, group);
}

void products(const Winograd& w, const WinogradBlock& b, int64_t panel) {
  const int64_t vectors = least(2, groups_of(w.result_channels) - 2 * panel);
  const int64_t size = w.channels() * vectors * kWidth, part_stride = part_size(w.positions());
  const float* u = w.packed + panel * 2 * w.channels() * kWidth * w.positions();
  const float* v = b.v;
  float* m = b.m;
  // While a position's weights are multiplied, the next one's are fetched, a share by each part.
  const int64_t step = vectors * kWidth / b.parts;
  for (int position = 0; position < w.positions(); ++position) {
    for (int64_t part = 0; part < b.parts; ++part) {
      const int64_t rows = b.begin(part + 1) - b.begin(part);
      const Multiply run =
          vectors == 2 ? multiply_rows<2, kRows>(rows) : multiply_rows<1, kRows>(rows);
      run(w.source_channels, v + part * part_stride, b.parts * part_stride, u,
          u + size + part * size / b.parts, step, m + part * part_stride, b.parts * part_stride);
    }
    u += size, v += kRows * kWidth, m += kRows * kWidth;
  }
}

// A' of a tile's columns.
template <class F>
RDDM_INLINE void output_columns(const float* m, Vec (&half)[F::kOut][F::kIn]) {
  constexpr int kIn = F::kIn, kOut = F::kOut;
#pragma GCC unroll 6
  for (int j = 0; j < kIn; ++j) {
    Vec column[kIn], sums[kOut];
#pragma GCC unroll 6
    for (int i = 0; i < kIn; ++i) column[i] = load(m + (i * kIn + j) * kRows * kWidth);
    F::output(column, sums);
#pragma GCC unroll 4
    for (int i = 0; i < kOut; ++i) half[i][j] = sums[i];
  }
}

template <class F, bool PastCache>
__attribute__((noinline)) void output_tile_inside(const float* m, const Vec& bias, float* to,
                                                  int64_t channels, int64_t line) {
  constexpr int kOut = F::kOut;
  Vec half[kOut][F::kIn];
  output_columns<F>(m, half);
#pragma GCC unroll 4
  for (int i = 0; i < kOut; ++i) {
    Vec y[kOut];
    F::output(half[i], y);
#pragma GCC unroll 4
    for (int j = 0; j < kOut; ++j) {
      float* const pixel = to + i * line + j * channels;
      PastCache ? store_past_cache(pixel, y[j] + bias) : store(pixel, y[j] + bias);
    }
  }
}

// A tile of which `height` rows and `width` columns are inside the image.
template <class F>
__attribute__((noinline)) void output_tile_at_edge(const float* m, const Vec& bias, float* to,
                                                   int64_t channels, int64_t line, int64_t height,
                                                   int64_t width, int64_t some) {
  constexpr int kOut = F::kOut;
  Vec half[kOut][F::kIn];
  output_columns<F>(m, half);
  for (int i = 0; i < kOut && i < height; ++i) {
    Vec y[kOut];
    F::output(half[i], y);
    for (int j = 0; j < kOut && j < width; ++j) {
      const Vec sum = y[j] + bias;
      float* const pixel = to + i * line + j * channels;
      if (!some) store(pixel, sum);
      for (int64_t k = 0; k < some; ++k) pixel[k] = sum[k];
    }
  }
}

template <class F>
void transform_output(const Winograd& w, const WinogradBlock& b, int64_t panel) {
  constexpr int kOut = F::kOut;
  constexpr int64_t kSize = part_size(F::kIn * F::kIn);
  const int64_t channels = w.result_channels, some = channels < kWidth ? channels : 0;
  const int64_t line = w.width * channels;
  const auto inside = w.past_cache ? output_tile_inside<F, true> : output_tile_inside<F, false>;
  const int64_t first_group = 2 * panel, end_group = least(first_group + 2, groups_of(channels));
  for (int64_t part = 0; part < b.parts; ++part) {
    const int64_t begin = b.begin(part);
    for (int64_t group = first_group; group < end_group; ++group) {
      const int64_t channel = channel_of(group, channels);
      const Vec bias = !w.bias ? Vec{} : some ? load_some(w.bias, some) : load(w.bias + channel);
      const float* const m = b.m + ((group - first_group) * b.parts + part) * kSize;
      for_rows(w, b.first + begin, b.begin(part + 1) - begin,
               [&](int64_t n, int64_t row, int64_t column, int64_t run, int64_t at) {
                 const int64_t y = row * kOut, x = column * kOut;
                 float* to = w.result + ((n * w.height + y) * w.width + x) * channels + channel;
                 const int64_t height = w.height - y;
                 int64_t width = w.width - x;
                 for (int64_t tile = 0; tile < run; ++tile) {
                   const float* const products = m + (at + tile) * kWidth;
                   if (height >= kOut && width >= kOut && !some) {
                     inside(products, bias, to, channels, line);
                   } else {
                     output_tile_at_edge<F>(products, bias, to, channels, line, height, width,
                                            some);
                   }
                   to += kOut * channels;
                   width -= kOut;
                 }
               });
    }
  }
}

void output(const Winograd& w, const WinogradBlock& b, int64_t panel) {
  w.tile == 4 ? transform_output<F4>(w, b, panel) : transform_output<F2>(w, b, panel);
#if defined(__SSE__)
  if (w.past_cache)
    _mm_sfence();  // Other threads may read the result when this one says that it is done.
#endif
}

}  // namespace

const WinogradSteps RDDM_OF_SET(kWinograd) = {RDDM_SET_NAME, kWidth, kRows,     &is_supported,
                                              &pack,         &input, &products, &output};

}  // namespace rddm
