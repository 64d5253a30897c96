// What the walks of linear attention and of its gradients do with a block of pixels, beside their
// products.
#pragma once

#include "vectors/pixels.h"

namespace rddm {
namespace {

constexpr int kAtOnce = kWidth < 8 ? kWidth : 8;  // rows of outer products

// Adds the sums over n pixels of Rows keys times some vectors of values.
template <int Rows, int Vectors>
RDDM_INLINE void outer_products(const float* keys, const float* values, int64_t n, float* to,
                                int64_t stride) {
  Vec sums[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) sums[r][j] = load(to + r * stride + j * kWidth);
  }
  for (int64_t p = 0; p < n; ++p, keys += kWidth, values += kWidth) {
    Vec v[Vectors];
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) v[j] = load(values + j * kGroup);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Vec k = all(keys[r]);
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; ++j) sums[r][j] += k * v[j];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) store(to + r * stride + j * kWidth, sums[r][j]);
  }
}

// Softmax over a head's features, pixel by pixel.
RDDM_INLINE void softmax(int64_t inner, int64_t features, int64_t n, float* queries) {
  for (int64_t head = 0; head < inner; head += features) {
    for (int64_t p = 0; p < n; ++p) {
      float* const own = queries + head * kPixels + p * kWidth;
      Vec top = load(own), total{};
      for (int64_t c = kWidth; c < features; c += kWidth)
        top = larger(load(own + c * kPixels), top);
      const Vec largest = all(largest_of(top));
      for (int64_t c = 0; c < features; c += kWidth) {
        const Vec e = exp_of(load(own + c * kPixels) - largest);
        store(own + c * kPixels, e);
        total += e;
      }
      const Vec scale = all(1 / sum_of(total));
      for (int64_t c = 0; c < features; c += kWidth) {
        store(own + c * kPixels, load(own + c * kPixels) * scale);
      }
    }
  }
}

}  // namespace
}  // namespace rddm
