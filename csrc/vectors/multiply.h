// The one loop of matrix products: rows of values by panels of weights, whose sums stay in
// registers.
#pragma once

#include "vectors/vectors.h"

namespace rddm {
namespace {

// Rows rows times Vectors vectors of output channels: sums over all input channels, which are those
// of two sources in a row. v is [vector of channels][row][channel], m is [vector][row][channel].
// Meanwhile it fetches weights that are needed soon, from `next` on, `step` values for each input
// channel.
template <int Rows, int Vectors>
void multiply(const int64_t (&source_channels)[2], const float* v, int64_t v_group, const float* u,
              const float* next, int64_t step, float* m, int64_t m_group) {
  Vec sums[Rows][Vectors] = {};
  for (int source = 0; source < 2; ++source) {
    const int64_t channels = source_channels[source];
    for (int64_t c = 0; c < channels; v += v_group) {
      // The last vector's new channels are its last.
      const int64_t end = least(channels, c + kWidth);
      const int64_t lane = channels < kWidth ? 0 : kWidth - (end - c);
      const float* at = v + lane;
      for (; c < end; ++c, ++at, u += Vectors * kWidth, next += step) {
        __builtin_prefetch(next, 0, 2);
        if (step > kLine) __builtin_prefetch(next + step / 2, 0, 2);
        Vec b[Vectors];
#pragma GCC unroll 2
        for (int j = 0; j < Vectors; ++j) b[j] = load(u + j * kWidth);
#pragma GCC unroll 14
        for (int r = 0; r < Rows; ++r) {
          const Vec a = at[r * kWidth] - Vec{};
#pragma GCC unroll 2
          for (int j = 0; j < Vectors; ++j) sums[r][j] += a * b[j];
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int j = 0; j < Vectors; ++j) {
#pragma GCC unroll 14
    for (int r = 0; r < Rows; ++r) store(m + j * m_group + r * kWidth, sums[r][j]);
  }
}

using Multiply = void (*)(const int64_t (&)[2], const float*, int64_t, const float*, const float*,
                          int64_t, float*, int64_t);

template <int Vectors, int Rows>
constexpr Multiply multiply_rows(int64_t rows) {
  if constexpr (Rows == 1) {
    return &multiply<1, Vectors>;
  } else {
    return rows == Rows ? &multiply<Rows, Vectors> : multiply_rows<Vectors, Rows - 1>(rows);
  }
}

}  // namespace
}  // namespace rddm
