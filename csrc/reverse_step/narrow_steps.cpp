// reverse_step on two-byte images, for the instruction set that this file is compiled for.
#include "reverse_step/narrow_steps.h"

#include <utility>

#include "vectors/stored.h"

namespace rddm {
namespace {

#if defined(RDDM_CONVERTS_STORED)

RDDM_INLINE StepCoefficients<Vec> in_all_lanes(const StepCoefficients<float>& c) {
  return {all(c.alpha_bar),
          all(c.alpha_bar_minus_1),
          all(c.beta_bar),
          all(c.inv_beta_bar),
          all(c.inv_one_minus_alpha_bar),
          all(c.k_t),
          all(c.k_res),
          all(c.k_noise),
          all(c.k_0),
          all(c.k_in),
          all(c.sigma),
          all(c.offset),
          all(c.clip_res),
          all(c.clip_0)};
}

template <Objective O, StepTerms Terms, Stored S>
void walk(const StepCoefficients<float>& coefficients, const NarrowImages& images, uint16_t* next,
          int64_t n) {
  const StepCoefficients<Vec> c = in_all_lanes(coefficients);
  const StoredInput I_t(images.I_t), out0(images.out0), out1(images.out1), I_in(images.I_in),
      noise(images.noise);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const StepResult<Vec> result = reverse_step<O, Terms, Vec>(
        c, I_t.at<S>(i), out0.at<S>(i), out1.at<S>(i), I_in.at<S>(i), noise.at<S>(i));
    put_narrowed<S>(next + i, result.next);
  }
  if (const int64_t rest = n - i; rest > 0) {
    const StepResult<Vec> result = reverse_step<O, Terms, Vec>(
        c, I_t.last<S>(i, rest), out0.last<S>(i, rest), out1.last<S>(i, rest),
        I_in.last<S>(i, rest), noise.last<S>(i, rest));
    put_narrowed<S>(next + i, result.next, rest);
  }
}

template <StepTerms Terms, Stored S, int... O>
NarrowSteps::Walk walk_of(Objective objective, std::integer_sequence<int, O...>) {
  static constexpr NarrowSteps::Walk walks[] = {&walk<Objective(O), Terms, S>...};
  return walks[int(objective)];
}

template <Stored S>
NarrowSteps::Walk walk_of(Objective objective, StepTerms terms) {
  constexpr auto objectives = std::make_integer_sequence<int, kObjectives>();
  switch (terms) {
    case StepTerms::kDeterministic:
      return walk_of<StepTerms::kDeterministic, S>(objective, objectives);
    case StepTerms::kStochastic:
      return walk_of<StepTerms::kStochastic, S>(objective, objectives);
    case StepTerms::kClean:
      return walk_of<StepTerms::kClean, S>(objective, objectives);
    default:
      return nullptr;
  }
}

NarrowSteps::Walk walk_for(Objective objective, StepTerms terms, bool bfloat16) {
  return bfloat16 ? walk_of<Stored::kBfloat16>(objective, terms)
                  : walk_of<Stored::kFloat16>(objective, terms);
}

#else

NarrowSteps::Walk walk_for(Objective, StepTerms, bool) { return nullptr; }

#endif

}  // namespace

const NarrowSteps RDDM_OF_SET(kNarrowSteps) = {RDDM_SET_NAME, &is_supported, &walk_for};

}  // namespace rddm
