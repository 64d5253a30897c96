// The arithmetic of group_norm_silu, for one value, shared by all that compute it.
//
//   x = x + x_bias                                the bias of the convolution before
//   y = (x - mean) rstd weight + bias             the group norm
//   y = y (scale + 1) + shift                     the time's scale and shift, if there are any
//   y = y sigmoid(y)                              SiLU
//
// For a channel of a sample the first three lines are one multiplication and one addition.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/inline.h"

namespace rddm {

struct Affine {
  float factor, term;
};

RDDM_INLINE Affine normalised(float mean, float rstd, float weight, float bias, float scale,
                              float shift) {
  const float factor = rstd * weight;
  return {factor * (scale + 1), (bias - mean * factor) * (scale + 1) + shift};
}

// e^x to 2 units in the last place, by Cephes' polynomial for single precision. It has no call, so
// the compiler vectorises it. Below -87.3 it is 0, above 88.7 infinite; NaN stays.
RDDM_INLINE float exponential(float x) {
  const float clamped = x < -88.0f ? -88.0f : (x > 89.0f ? 89.0f : x);
  const float shifted = clamped * 1.44269504088896341f + 12582912.0f;  // rounds to an integer
  const float n = shifted - 12582912.0f;
  float r = clamped - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors: n reaches 128 and -127, which one exponent cannot hold.
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const int32_t whole = bits - 0x4b400000, half = whole >> 1;
  const int32_t low = (half + 127) << 23, high = (whole - half + 127) << 23;
  float two_low, two_high;
  std::memcpy(&two_low, &low, sizeof low);
  std::memcpy(&two_high, &high, sizeof high);
  return p * two_low * two_high;
}

RDDM_INLINE float silu(float x) { return x / (1.0f + exponential(-x)); }

// The statistics of some values; Chan's formula joins those of others.
struct Moments {
  double count = 0, mean = 0, squares = 0;  // the sum of squared deviations from the mean

  void join(const Moments& other) {
    if (other.count == 0) return;
    const double total = count + other.count, apart = other.mean - mean;
    mean += apart * (other.count / total);
    squares += other.squares + apart * apart * (count * other.count / total);
    count = total;
  }
};

}  // namespace rddm
