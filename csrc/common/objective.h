// What a network's outputs mean: the codes of Objective in rddm_fast/theory/objective.py.
#pragma once

namespace rddm {

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

constexpr bool has_two_outputs(Objective o) { return o <= Objective::kPredX0AddNoise; }

// The first or only output is the clean image.
constexpr bool x0_known(Objective o) {
  return o == Objective::kPredX0Noise || o == Objective::kPredX0AddNoise || o == Objective::kPredX0;
}

// The second output is the first plus the noise.
constexpr bool added(Objective o) {
  return o == Objective::kPredResAddNoise || o == Objective::kPredX0AddNoise;
}

}  // namespace rddm
