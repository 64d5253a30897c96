// The transforms of F(2x2, 3x3) and F(4x4, 3x3): Winograd's minimal filtering (Lavin and Gray,
// 2016), built by Toom and Cook's interpolation. A convolution of an output tile is
//
//     Y = A' [ (G g G') * (B' d B) ] A     g: 3x3 weights, d: the tile's input, *: product by
//     element
//
// F(2, 3) interpolates at 0, 1, -1 and infinity. F(4, 3) takes 0, +-5/8, +-3/2 and infinity: these
// lose less than the usual 0, +-1, +-2, because the transforms' numbers are nearer to each other,
// and every constant of B and A is a float32 number without rounding.
#pragma once

#include "common/inline.h"

namespace rddm {
namespace {

// One dimension of F(m, 3): kOut outputs from kIn inputs. Vec is a scalar or a vector of channels.
struct F2 {
  static constexpr int kOut = 2, kIn = 4;
  static constexpr double kG[kIn][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};

  template <class Vec>
  RDDM_INLINE static void input(const Vec (&d)[kIn], Vec (&v)[kIn]) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }

  template <class Vec>
  RDDM_INLINE static void output(const Vec (&m)[kIn], Vec (&y)[kOut]) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] + m[3];
  }
};

struct F4 {
  static constexpr int kOut = 4, kIn = 6;
  static constexpr double kA = 0.625, kB = 1.5, kAA = kA * kA, kBB = kB * kB;
  // Row of a point p: (1, p, p^2) / the product of p's distances to the other finite points.
  static constexpr double kN0 = kAA * kBB, kNa = 2 * kAA * (kAA - kBB), kNb = 2 * kBB * (kBB - kAA);
  static constexpr double kG[kIn][3] = {
      {1 / kN0, 0, 0},
      {1 / kNa, kA / kNa, kAA / kNa},
      {1 / kNa, -kA / kNa, kAA / kNa},
      {1 / kNb, kB / kNb, kBB / kNb},
      {1 / kNb, -kB / kNb, kBB / kNb},
      {0, 0, 1},
  };

  template <class Vec>
  RDDM_INLINE static void input(const Vec (&d)[kIn], Vec (&v)[kIn]) {
    constexpr float a = kA, b = kB, aa = kAA, bb = kBB, sum = kAA + kBB, product = kAA * kBB;
    const Vec even_a = d[4] - bb * d[2], odd_a = d[3] - bb * d[1];
    const Vec even_b = d[4] - aa * d[2], odd_b = d[3] - aa * d[1];
    v[0] = (d[4] - sum * d[2]) + product * d[0];
    v[1] = even_a + a * odd_a;
    v[2] = even_a - a * odd_a;
    v[3] = even_b + b * odd_b;
    v[4] = even_b - b * odd_b;
    v[5] = (d[5] - sum * d[3]) + product * d[1];
  }

  template <class Vec>
  RDDM_INLINE static void output(const Vec (&m)[kIn], Vec (&y)[kOut]) {
    constexpr float a = kA, b = kB, aa = kAA, bb = kBB, aaa = kA * kAA, bbb = kB * kBB;
    const Vec sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    const Vec sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
    y[1] = a * difference_a + b * difference_b;
    y[2] = aa * sum_a + bb * sum_b;
    y[3] = (m[5] + aaa * difference_a) + bbb * difference_b;
  }

  // The transpose of `output`.
  template <class Vec>
  RDDM_INLINE static void spread(const Vec (&y)[kOut], Vec (&m)[kIn]) {
    constexpr float a = kA, b = kB, aa = kAA, bb = kBB, aaa = kA * kAA, bbb = kB * kBB;
    const Vec even_a = y[0] + aa * y[2], odd_a = a * y[1] + aaa * y[3];
    const Vec even_b = y[0] + bb * y[2], odd_b = b * y[1] + bbb * y[3];
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
  }
};

}  // namespace
}  // namespace rddm
