// The arithmetic of group_norm_silu, for one value or a vector, shared by all that compute it.
//
//   x = x + x_bias                                the bias of the convolution before
//   y = (x - mean) rstd weight + bias             the group norm
//   y = y (scale + 1) + shift                     the time's scale and shift, if there are any
//   y = y sigmoid(y)                              SiLU
//
// For a channel of a sample the first three lines are one multiplication and one addition.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

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

// e^x to 2 units in the last place, by Cephes' polynomial for single precision; T is float or a
// vector of them. It has no call, so the compiler vectorises it. Below -87.7 it is 0, above 88.3
// infinite; NaN stays.
template <class T>
RDDM_INLINE T exponential(T x) {
  const T least = T{} - 88.0f, most = T{} + 89.0f;
  const T clamped = x < least ? least : (x > most ? most : x);
  const T shifted = clamped * 1.44269504088896341f + 12582912.0f;  // rounds to an integer
  const T n = shifted - 12582912.0f;
  T r = clamped - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  T p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n: n stands in the last bits of `shifted`. It reaches 128, infinity, and -127, 0.
  using Whole = std::conditional_t<std::is_same_v<T, float>, uint32_t, decltype(x < x)>;
  return p * std::bit_cast<T>((std::bit_cast<Whole>(shifted) << 23) + 0x3f800000);
}

template <class T>
RDDM_INLINE T silu(T x) {
  return x / (exponential(-x) + 1.0f);
}

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
