// joint_loss on two-byte images, for the instruction set that this file is compiled for.
#include "joint_loss/narrow_losses.h"

#include <utility>

#include "vectors/stored.h"

namespace rddm {
namespace {

#if defined(RDDM_CONVERTS_STORED)

constexpr int kLanes = 16, kVectors = kLanes / kWidth;

// One output's sums by lane.
struct Lanes {
  Vec of[kVectors] = {};

  double total() const {
    double sum = 0;
    for (const Vec& lanes : of) {
      for (int lane = 0; lane < kWidth; ++lane) sum += double(lanes[lane]);
    }
    return sum;
  }
};

template <Objective O, bool Squared, Stored S>
LossSums walk(const NarrowLossImages& images, float scale0, float scale1, uint16_t* derivative0,
              uint16_t* derivative1, int64_t n) {
  const StoredInput I_0(images.I_0), I_in(images.I_in), noise(images.noise), out0(images.out0),
      out1(images.out1);
  const Vec factor0 = all(scale0), factor1 = all(scale1);
  Lanes sums0, sums1;
  const auto add = [&](int vector, const JointLossTerms<Vec>& t) {
    sums0.of[vector] += t.value0;
    if constexpr (has_two_outputs(O)) sums1.of[vector] += t.value1;
  };
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t begin = 0; begin < whole; begin += kLanes) {
#pragma GCC unroll 2
    for (int vector = 0; vector < kVectors; ++vector) {
      const int64_t i = begin + vector * kWidth;
      const auto t = joint_loss<O, Squared, Vec>(I_0.at<S>(i), I_in.at<S>(i), noise.at<S>(i),
                                                 out0.at<S>(i), out1.at<S>(i), factor0, factor1);
      put_narrowed<S>(derivative0 + i, t.derivative0);
      if constexpr (has_two_outputs(O)) put_narrowed<S>(derivative1 + i, t.derivative1);
      add(vector, t);
    }
  }
  // What is left: beyond the end all images are 0, and so are the distances.
  for (int64_t i = whole, vector = 0; i < n; i += kWidth, ++vector) {
    const int64_t rest = least(kWidth, n - i);
    const auto t = joint_loss<O, Squared, Vec>(I_0.last<S>(i, rest), I_in.last<S>(i, rest),
                                               noise.last<S>(i, rest), out0.last<S>(i, rest),
                                               out1.last<S>(i, rest), factor0, factor1);
    put_narrowed<S>(derivative0 + i, t.derivative0, rest);
    if constexpr (has_two_outputs(O)) put_narrowed<S>(derivative1 + i, t.derivative1, rest);
    add(int(vector), t);
  }
  return {sums0.total(), sums1.total()};
}

template <bool Squared, Stored S, int... O>
NarrowLosses::Walk walk_of(Objective objective, std::integer_sequence<int, O...>) {
  static constexpr NarrowLosses::Walk walks[] = {&walk<Objective(O), Squared, S>...};
  return walks[int(objective)];
}

template <Stored S>
NarrowLosses::Walk walk_of(Objective objective, bool squared) {
  constexpr auto objectives = std::make_integer_sequence<int, kObjectives>();
  return squared ? walk_of<true, S>(objective, objectives)
                 : walk_of<false, S>(objective, objectives);
}

NarrowLosses::Walk walk_for(Objective objective, bool squared, bool bfloat16) {
  return bfloat16 ? walk_of<Stored::kBfloat16>(objective, squared)
                  : walk_of<Stored::kFloat16>(objective, squared);
}

#else

NarrowLosses::Walk walk_for(Objective, bool, bool) { return nullptr; }

#endif

}  // namespace

const NarrowLosses RDDM_OF_SET(kNarrowLosses) = {RDDM_SET_NAME, &is_supported, &walk_for};

}  // namespace rddm
