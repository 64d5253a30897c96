// The arithmetic of one reverse step, for one pixel, shared by the host and the device.
//
// It is read_out of rddm_fast/theory/objective.py, followed by a linear combination:
//
//   (I_res, epsilon, I_0) = read_out(objective, I_t, out0, out1, I_in)
//   I_next = offset + k_t I_t + k_res I_res + k_noise epsilon + k_0 I_0 + k_in I_in + sigma noise
//
// A term whose coefficient is exactly 0 is left out, not multiplied. At the last step epsilon may
// be infinite (beta_bar = 0), and 0 * inf would make a result NaN that does not depend on it.
#pragma once

#include "common/inline.h"
#include "common/objective.h"

namespace rddm {

// The numbers of a step in the op's precision T, in the order of FIELDS in
// rddm_fast/ops/step_table.py. The inverses turn the read-out's two divisions into
// multiplications. alpha_bar - 1 is given, because the subtraction loses digits near 1.
template <class T>
struct StepCoefficients {
  T alpha_bar, alpha_bar_minus_1, beta_bar, inv_beta_bar, inv_one_minus_alpha_bar;
  T k_t, k_res, k_noise, k_0, k_in, sigma, offset;
  T clip_res, clip_0;

  static constexpr int kCount = 14;

  // `n` are kCount numbers.
  static StepCoefficients of(const double* n) {
    return {T(n[0]), T(n[1]), T(n[2]), T(n[3]),  T(n[4]),  T(n[5]),  T(n[6]),
            T(n[7]), T(n[8]), T(n[9]), T(n[10]), T(n[11]), T(n[12]), T(n[13])};
  }
};

// Comparisons instead of min and max: a NaN fails both and is returned, as torch.clamp returns it.
template <class T>
RDDM_INLINE T clamp(T x, T limit) {
  return x < -limit ? -limit : (x > limit ? limit : x);
}

static_assert(sizeof(StepCoefficients<float>) == StepCoefficients<float>::kCount * sizeof(float));

// The terms that a step adds. On the host, a loop that is compiled for its terms runs a quarter
// faster: it is memory-bound, and the fewer instructions per cache line, the more lines in flight.
enum class StepTerms {
  kAny,  // those whose coefficients are not 0; each of the others is compiled for one set:
  kDeterministic,  // I_t, I_res, epsilon
  kStochastic,     // I_t, I_res, epsilon and the noise
  kClean,          // I_0 and the offset
};

template <class T>
StepTerms terms_of(const StepCoefficients<T>& c) {
  if (c.k_in != 0) return StepTerms::kAny;
  const bool generalised =
      c.k_t != 0 && c.k_res != 0 && c.k_noise != 0 && c.k_0 == 0 && c.offset == 0;
  if (generalised) return c.sigma == 0 ? StepTerms::kDeterministic : StepTerms::kStochastic;
  const bool clean = c.k_t == 0 && c.k_res == 0 && c.k_noise == 0 && c.k_0 != 0 && c.sigma == 0;
  return clean ? StepTerms::kClean : StepTerms::kAny;
}

template <class T>
struct StepResult {
  T next, I_0;
};

// I_0 is computed only if the terms are kAny or kClean.
template <Objective O, StepTerms Terms, class T>
RDDM_INLINE StepResult<T> reverse_step(const StepCoefficients<T>& c, T I_t, T out0, T out1, T I_in,
                                       T noise) {
  T I_res, epsilon, I_0;
  if constexpr (O == Objective::kPredNoise) {
    epsilon = out0;
    I_0 = clamp((I_t - c.alpha_bar * I_in - c.beta_bar * epsilon) * c.inv_one_minus_alpha_bar,
                c.clip_0);
    I_res = clamp(I_in - I_0, c.clip_res);
  } else {
    I_res = clamp(x0_known(O) ? I_in - out0 : out0, c.clip_res);
    if constexpr (!has_two_outputs(O)) {
      epsilon = (I_t - I_in - c.alpha_bar_minus_1 * I_res) * c.inv_beta_bar;
      I_0 = clamp(I_in - I_res, c.clip_0);
    } else {
      epsilon = added(O) ? out1 - out0 : out1;
      I_0 = clamp(x0_known(O) ? out0 : I_t - c.alpha_bar * I_res - c.beta_bar * epsilon, c.clip_0);
    }
  }

  if constexpr (Terms == StepTerms::kClean) {
    return {c.offset + c.k_0 * I_0, I_0};
  } else if constexpr (Terms == StepTerms::kAny) {
    T result = c.offset;
    if (c.k_t != 0) result += c.k_t * I_t;
    if (c.k_res != 0) result += c.k_res * I_res;
    if (c.k_noise != 0) result += c.k_noise * epsilon;
    if (c.k_0 != 0) result += c.k_0 * I_0;
    if (c.k_in != 0) result += c.k_in * I_in;
    if (c.sigma != 0) result += c.sigma * noise;
    return {result, I_0};
  } else {
    T result = c.k_t * I_t + c.k_res * I_res + c.k_noise * epsilon;
    if constexpr (Terms == StepTerms::kStochastic) result += c.sigma * noise;
    return {result, I_0};
  }
}

}  // namespace rddm
