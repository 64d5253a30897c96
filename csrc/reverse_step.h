// The arithmetic of one reverse step, for one pixel, shared by the host and the device.
//
// It is rddm_fast/theory/objective.py's read_out followed by a linear combination:
//
//   (I_res, epsilon, I_0) = read_out(objective, I_t, out0, out1, I_in)
//   I_next = offset + k_t I_t + k_res I_res + k_noise epsilon + k_0 I_0 + sigma noise
//
// A term whose coefficient is exactly 0 is left out rather than multiplied: at the last step
// epsilon may be infinite (beta_bar = 0) and 0 * inf would poison a result that does not depend on
// it.
#pragma once

#include <cstdint>

#include "inline.h"

namespace rddm {

// The codes of rddm_fast.theory.objective.Objective.
enum class Objective : int {
  kPredResNoise = 0,
  kPredResAddNoise = 1,
  kPredX0Noise = 2,
  kPredX0AddNoise = 3,
  kPredRes = 4,
  kPredNoise = 5,
  kPredX0 = 6,
};
inline constexpr int kObjectives = 7;

constexpr bool has_two_outputs(Objective objective) {
  return objective <= Objective::kPredX0AddNoise;
}

constexpr bool needs_input(Objective objective) { return objective > Objective::kPredResAddNoise; }

// What a step multiplies by, in the precision T that it computes in: built once a call, in double,
// or a row of a table (rddm_fast/ops/step_table.py). The two divisions of the read-out
// become multiplications and 1 - alpha_bar loses nothing.
template <class T>
struct StepCoefficients {
  T alpha_bar, alpha_bar_minus_1, beta_bar, inv_beta_bar, inv_one_minus_alpha_bar;
  T k_t, k_res, k_noise, k_0, sigma, offset;
  T clip_res, clip_0;

  static constexpr int kCount = 13;

  static StepCoefficients from(double alpha_bar, double beta_bar, double one_minus_alpha_bar,
                               double k_t, double k_res, double k_noise, double k_0, double sigma,
                               double offset, double clip_res, double clip_0) {
    return {T(alpha_bar),
            T(alpha_bar - 1.0),
            T(beta_bar),
            T(1.0 / beta_bar),
            T(1.0 / one_minus_alpha_bar),
            T(k_t),
            T(k_res),
            T(k_noise),
            T(k_0),
            T(sigma),
            T(offset),
            T(clip_res),
            T(clip_0)};
  }
};

// Comparisons rather than min and max: a NaN fails both and is returned, as by torch.clamp.
template <class T>
RDDM_INLINE T clamp(T x, T limit) {
  return x < -limit ? -limit : (x > limit ? limit : x);
}

static_assert(sizeof(StepCoefficients<float>) == StepCoefficients<float>::kCount * sizeof(float));

// Which terms a step adds. A host's loop that is compiled for the usual ones runs a quarter faster:
// memory-bound as it is, the fewer instructions a cache line takes, the more lines are under way.
enum class StepTerms {
  kAny,            // those whose coefficients are not 0; the others are compiled for one set each:
  kDeterministic,  // I_t, I_res, epsilon
  kStochastic,     // these and the noise
  kClean,          // I_0 and the offset
};

template <class T>
StepTerms terms_of(const StepCoefficients<T>& c) {
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

// I_0 is computed where the terms are any or kClean.
template <Objective O, StepTerms Terms, class T>
RDDM_INLINE StepResult<T> reverse_step(const StepCoefficients<T>& c, T I_t, T out0, T out1, T I_in,
                                       T noise) {
  constexpr bool x0_known =
      O == Objective::kPredX0Noise || O == Objective::kPredX0AddNoise || O == Objective::kPredX0;
  constexpr bool added = O == Objective::kPredResAddNoise || O == Objective::kPredX0AddNoise;

  T I_res, epsilon, I_0;
  if constexpr (O == Objective::kPredNoise) {
    epsilon = out0;
    I_0 = clamp((I_t - c.alpha_bar * I_in - c.beta_bar * epsilon) * c.inv_one_minus_alpha_bar,
                c.clip_0);
    I_res = clamp(I_in - I_0, c.clip_res);
  } else {
    I_res = clamp(x0_known ? I_in - out0 : out0, c.clip_res);
    if constexpr (!has_two_outputs(O)) {
      epsilon = (I_t - I_in - c.alpha_bar_minus_1 * I_res) * c.inv_beta_bar;
      I_0 = clamp(I_in - I_res, c.clip_0);
    } else {
      epsilon = added ? out1 - out0 : out1;
      I_0 = clamp(x0_known ? out0 : I_t - c.alpha_bar * I_res - c.beta_bar * epsilon, c.clip_0);
    }
  }

  if constexpr (Terms == StepTerms::kClean) return {c.offset + c.k_0 * I_0, I_0};
  if constexpr (Terms == StepTerms::kDeterministic || Terms == StepTerms::kStochastic) {
    T result = c.k_t * I_t + c.k_res * I_res + c.k_noise * epsilon;
    if constexpr (Terms == StepTerms::kStochastic) result += c.sigma * noise;
    return {result, I_0};
  }
  T result = c.offset;
  if (c.k_t != 0) result += c.k_t * I_t;
  if (c.k_res != 0) result += c.k_res * I_res;
  if (c.k_noise != 0) result += c.k_noise * epsilon;
  if (c.k_0 != 0) result += c.k_0 * I_0;
  if (c.sigma != 0) result += c.sigma * noise;
  return {result, I_0};
}

}  // namespace rddm
