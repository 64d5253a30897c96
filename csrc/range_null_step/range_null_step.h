// The arithmetic of one step of DDNM, DDNM+ or DDRM for one pixel, shared by the host and the
// device.
//
// With P = A+A, a projector onto rank-one blocks (rddm_fast/ops/inverse/range_null_step.py):
//
//   x_s = (I - P) (n_t x_t + n_e epsilon + n_z z) + P (r_t x_t + r_e epsilon + r_z z) + k_y A+y
//
// Where a block is one pixel of one channel, P is 1 or 0, and the pixel takes one of the two sums.
// Otherwise x_s = null + v <v, range - null> / <v, v> + k_y A+y, and the difference is one sum with
// the coefficients d = r - n.
//
// A term whose coefficient is exactly 0 is left out, not multiplied: the image may be infinite.
#pragma once

#include "common/inline.h"

namespace rddm {

// Three coefficients: of x_t, of epsilon and of the noise z.
template <class T>
struct RangeNullSum {
  T k_t, k_e, k_z;

  static RangeNullSum of(double t, double e, double z) { return {T(t), T(e), T(z)}; }
};

// The numbers of a step in the op's precision T.
template <class T>
struct RangeNullNumbers {
  RangeNullSum<T> null, range, difference;
  T k_y;

  static constexpr int kCount = 7;

  // `n` are kCount numbers, in the order of NUMBERS in rddm_fast/ops/inverse/range_null_step.py.
  static RangeNullNumbers of(const double* n) {
    using Sum = RangeNullSum<T>;
    return {Sum::of(n[0], n[1], n[2]), Sum::of(n[3], n[4], n[5]),
            Sum::of(n[3] - n[0], n[4] - n[1], n[5] - n[2]), T(n[6])};
  }
};

template <class T>
RDDM_INLINE T combined(const RangeNullSum<T>& k, T x_t, T epsilon, T noise) {
  return term(k.k_t, x_t) + term(k.k_e, epsilon) + term(k.k_z, noise);
}

// What a block's pixels get, as a multiple of v: <v, u> / <v, v>, or 0 where nothing is kept.
template <class T>
RDDM_INLINE T along(T inner_product, T square) {
  return square > 0 ? inner_product / square : T(0);
}

}  // namespace rddm
