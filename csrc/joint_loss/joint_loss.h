// The arithmetic of the joint loss (RDDM, eq. 12 and section 4.3), for one pixel or a vector of
// pixels, shared by the host and the device.
//
// The objective's targets (rddm_fast/theory/objective.py) follow from I_0, I_in and epsilon. Each
// output contributes |output - target| or its square, times a weight, and the derivative of that.
#pragma once

#include "common/inline.h"
#include "common/objective.h"

namespace rddm {

template <class T>
struct JointLossTerms {
  T value0, value1;            // |d| or d^2 of each output
  T derivative0, derivative1;  // each times its output's scale
};

template <bool Squared, class T>
RDDM_INLINE T distance(T d) {
  return Squared ? d * d : (d < 0.f ? -d : d);
}

// 0 at 0, like torch.sign; NaN stays.
template <bool Squared, class T>
RDDM_INLINE T distance_derivative(T d) {
  if constexpr (Squared) return d + d;
  const T one = T{} + 1.f;
  return d > 0.f ? one : (d < 0.f ? -one : d);
}

template <Objective O, bool Squared, class T>
RDDM_INLINE JointLossTerms<T> joint_loss(T I_0, T I_in, T epsilon, T out0, T out1, T scale0,
                                         T scale1) {
  const T target0 = O == Objective::kPredNoise ? epsilon : (x0_known(O) ? I_0 : I_in - I_0);
  const T target1 = added(O) ? target0 + epsilon : epsilon;
  const T d0 = out0 - target0, d1 = has_two_outputs(O) ? out1 - target1 : T{};
  return {distance<Squared>(d0), distance<Squared>(d1), scale0 * distance_derivative<Squared>(d0),
          scale1 * distance_derivative<Squared>(d1)};
}

}  // namespace rddm
