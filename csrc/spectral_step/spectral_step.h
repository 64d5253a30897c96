// The arithmetic of a step of DDRM (and DDNM+), for one spectral coordinate of singular value s.
//
//   x_0 = (x - sigma_t epsilon) / sqrt(a_t)
//   x_s = k_0 x_0 + k_epsilon epsilon + k_y y_bar + k_z z
//
// The four coefficients depend on whether y says nothing about the coordinate, or is noisier or
// cleaner than x_s. A term whose coefficient is exactly 0 is left out, not multiplied.
#pragma once

#include <cmath>

#include "common/inline.h"

namespace rddm {

// The numbers of a step in the op's precision T, in the order of FIELDS in
// rddm_fast/ops/inverse/spectral_step.py.
template <class T>
struct SpectralNumbers {
  T sigma_t, inv_root_a_t, root_a_s, sigma_s, threshold;
  T k_noise, k_z, k_y_per_s, eta_b;

  static constexpr int kCount = 9;

  // `n` are kCount numbers.
  static SpectralNumbers of(const double* n) {
    return {T(n[0]), T(n[1]), T(n[2]), T(n[3]), T(n[4]), T(n[5]), T(n[6]), T(n[7]), T(n[8])};
  }
};

template <class T>
struct SpectralResult {
  T next, x_0;
};

// The coefficients of a coordinate: they depend on its singular value alone.
template <class T>
struct SpectralTerms {
  T k_0, k_epsilon, k_y, k_z;
};

// With Strict, a coordinate at the threshold counts as unobserved.
template <bool Strict, class T>
RDDM_INLINE SpectralTerms<T> spectral_terms(const SpectralNumbers<T>& c, T s) {
  const T level = s * c.sigma_s;
  const bool observed = s > 0;
  const bool cleaner = observed && (Strict ? level > c.threshold : level >= c.threshold);
  const bool noisier = observed && level < c.threshold;
  const T k_y = cleaner ? c.eta_b * c.root_a_s : (noisier ? c.k_y_per_s * s : T(0));
  const T k_0 = cleaner ? (1 - c.eta_b) * c.root_a_s : c.root_a_s - k_y;
  const T k_epsilon = cleaner || noisier ? T(0) : c.k_noise;
  const T of_y = c.eta_b * c.threshold / s;  // infinite or NaN where s is 0, and then not used
  const T left = c.sigma_s * c.sigma_s - of_y * of_y;
  const T k_z = cleaner ? std::sqrt(left > 0 ? left : T(0)) : c.k_z;
  return {k_0, k_epsilon, k_y, k_z};
}

template <class T>
RDDM_INLINE SpectralResult<T> spectral_step(const SpectralNumbers<T>& c, SpectralTerms<T> k, T x,
                                            T epsilon, T y_bar, T z) {
  const T x_0 = (x - c.sigma_t * epsilon) * c.inv_root_a_t;
  return {term(k.k_0, x_0) + term(k.k_epsilon, epsilon) + term(k.k_y, y_bar) + term(k.k_z, z), x_0};
}

}  // namespace rddm
