// The steps of the gradient of weights, for the instruction set that this file is compiled for.
#include "conv3x3/winograd_gradients.h"

#include "conv3x3/winograd_input.h"

namespace rddm {
namespace {

constexpr int kOut = F4::kOut, kIn = F4::kIn, kPositions = kIn * kIn;
constexpr int64_t kPart = part_size(kPositions);
// Output channels whose sums stay in registers beside two vectors of input channels.
constexpr int kResults = kWidth == 16 ? 8 : 4;

// A dY A' of a tile; returns the sum of its pixels. Unless it is Inside the image, `height` rows
// and `width` columns of it are, and it may have too few channels for a vector: `some`.
template <bool Inside>
__attribute__((noinline)) Vec spread_tile(const float* from, int64_t channels, int64_t line,
                                          int64_t height, int64_t width, int64_t some, float* to) {
  Vec half[kOut][kIn], sum{};
#pragma GCC unroll 4
  for (int i = 0; i < kOut; ++i) {
    Vec row[kOut];
#pragma GCC unroll 4
    for (int j = 0; j < kOut; ++j) {
      const float* const pixel = from + i * line + j * channels;
      if constexpr (Inside) {
        row[j] = load(pixel);
      } else {
        row[j] = i >= height || j >= width ? Vec{} : some ? load_some(pixel, some) : load(pixel);
      }
      sum += row[j];
    }
    F4::spread(row, half[i]);
  }
#pragma GCC unroll 6
  for (int j = 0; j < kIn; ++j) {
    Vec column[kOut], spread[kIn];
#pragma GCC unroll 4
    for (int i = 0; i < kOut; ++i) column[i] = half[i][j];
    F4::spread(column, spread);
#pragma GCC unroll 6
    for (int i = 0; i < kIn; ++i) store(to + (i * kIn + j) * kRows * kWidth, spread[i]);
  }
  return sum;
}

void spread(const WinogradGradients& g, const WinogradGradientBlock& block, float* bias) {
  const Winograd& w = g.grad;
  const WinogradBlock& b = block.grad;
  const int64_t channels = g.result_channels(), line = w.width * channels;
  const int64_t some = channels < kWidth ? channels : 0;
  for (int64_t group = 0; group < groups_of(channels); ++group) {
    const float* const image = w.sources[0] + channel_of(group, channels);
    Vec sum{};
    for (int64_t part = 0; part < b.parts; ++part) {
      float* const to = b.v + (group * b.parts + part) * kPart;
      const int64_t begin = b.begin(part);
      for_rows(w, b.first + begin, b.begin(part + 1) - begin,
               [&](int64_t n, int64_t row, int64_t column, int64_t run, int64_t at) {
                 const int64_t y = row * kOut;
                 for (int64_t i = 0; i < run; ++i) {
                   const int64_t x = (column + i) * kOut;
                   const float* const from = image + ((n * w.height + y) * w.width + x) * channels;
                   const bool inside = !some && y + kOut <= w.height && x + kOut <= w.width;
                   const auto tile = inside ? &spread_tile<true> : &spread_tile<false>;
                   sum += tile(from, channels, line, w.height - y, w.width - x, some,
                               to + (at + i) * kWidth);
                 }
               });
    }
    if (bias) store(bias + group * kWidth, load(bias + group * kWidth) + sum);
  }
}

// The sums of kResults output channels by Vectors vectors of input channels, of one position.
template <int Vectors>
RDDM_INLINE void add_products(const WinogradBlock& b, const float* u, const float* v,
                              int64_t v_group, bool first, float* to) {
  Vec sums[kResults][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < kResults; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) {
      sums[r][j] = first ? Vec{} : load(to + (r * Vectors + j) * kWidth);
    }
  }
  for (int64_t part = 0; part < b.parts; ++part) {
    const int64_t tiles = b.begin(part + 1) - b.begin(part);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t at = part * kPart + tile * kWidth;
      Vec d[Vectors];
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; ++j) d[j] = load(v + j * v_group + at);
#pragma GCC unroll 8
      for (int r = 0; r < kResults; ++r) {
        const Vec grad = u[at + r] - Vec{};
#pragma GCC unroll 2
        for (int j = 0; j < Vectors; ++j) sums[r][j] += grad * d[j];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kResults; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) store(to + (r * Vectors + j) * kWidth, sums[r][j]);
  }
}

// Vectors of a panel of input channels.
int64_t vectors_of(const WinogradGradients& g, int64_t panel) {
  return least(2, groups_of(g.channels()) - 2 * panel);
}

template <int Vectors>
void add_panel(const WinogradGradients& g, const WinogradGradientBlock& block, bool first,
               float* to) {
  const WinogradBlock &x = block.x, &grad = block.grad;
  const int64_t groups = groups_of(g.result_channels());
  for (int position = 0; position < kPositions; ++position) {
    const int64_t at = position * kRows * kWidth;
    for (int64_t group = 0; group < groups; ++group) {
      for (int result = 0; result < kWidth; result += kResults) {
        const float* const u = grad.v + group * grad.parts * kPart + at + result;
        add_products<Vectors>(x, u, x.v + at, x.parts * kPart, first, to);
        to += kResults * Vectors * kWidth;
      }
    }
  }
}

void add(const WinogradGradients& g, const WinogradGradientBlock& block, int64_t panel, bool first,
         float* sums) {
  // The panel's vectors lie at the beginning of the block's memory.
  WinogradBlock b = block.x;
  const int64_t vectors = vectors_of(g, panel);
  for (int64_t j = 0; j < vectors; ++j) {
    const int64_t group = 2 * panel + j;
    b.v = block.x.v + (j - group) * b.parts * kPart;
    transform_input<F4>(g.x, b, group);
  }
  vectors == 2 ? add_panel<2>(g, block, first, sums) : add_panel<1>(g, block, first, sums);
}

void finish(const WinogradGradients& g, int64_t panel, const float* sums, float* weight) {
  const int64_t vectors = vectors_of(g, panel), line = vectors * kWidth;
  const int64_t results = groups_of(g.result_channels()) * kWidth, channels = g.channels();
  for (int64_t row = 0; row < results; ++row) {
    if (row % kWidth >= g.result_channels()) continue;
    const int64_t k = channel_of(row / kWidth, g.result_channels()) + row % kWidth;
    for (int64_t j = 0; j < vectors; ++j) {
      const float* const m = sums + row * line + j * kWidth;
      double half[3][kIn][kWidth];
      for (int tap = 0; tap < 3; ++tap) {
        for (int column = 0; column < kIn; ++column) {
          for (int lane = 0; lane < kWidth; ++lane) {
            double sum = 0;
            for (int i = 0; i < kIn; ++i) {
              sum += F4::kG[i][tap] * double(m[(i * kIn + column) * results * line + lane]);
            }
            half[tap][column][lane] = sum;
          }
        }
      }
      float* const to = weight + k * 9 * channels + channel_of(2 * panel + j, channels);
      for (int tap = 0; tap < 9; ++tap) {
        float gradient[kWidth];
        for (int lane = 0; lane < kWidth; ++lane) {
          double sum = 0;
          for (int i = 0; i < kIn; ++i) sum += half[tap / 3][i][lane] * F4::kG[i][tap % 3];
          gradient[lane] = float(sum);
        }
        for (int64_t c = 0; c < least(kWidth, channels); ++c) to[tap * channels + c] = gradient[c];
      }
    }
  }
}

}  // namespace

const WinogradGradientSteps RDDM_OF_SET(kWinogradGradients) = {
    RDDM_SET_NAME, kWidth, kRows, &is_supported, &spread, &add, &finish};

}  // namespace rddm
