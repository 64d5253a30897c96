// What the launchers of reverse_step and reverse_step_ do before their loops.
#pragma once

#include <vector>

#include "check.h"
#include "common/overlap.h"
#include "common/tensors.h"
#include "reverse_step/reverse_step.h"

namespace rddm {

// The images and options that both ops take.
struct ReverseStepArguments {
  const Tensor& I_t;
  const Tensor& out0;
  const std::optional<Tensor>& out1;
  const std::optional<Tensor>& I_in;
  const std::optional<Tensor>& noise;
  std::optional<int64_t> seed;
  int64_t stream, objective;
};

// The tensors of one call, all in the result's layout. Inputs that the step does not read are
// absent.
struct ReverseStepInputs {
  Result result;
  Tensor I_t, out0;
  std::optional<Tensor> out1, I_in;
  NoiseArgument noise;
  Objective objective;
  // Where the next network input and I_0 are also written, in the outputs' dtype.
  std::optional<Tensor> next_input, clean;
  Placement next_input_placement, clean_placement;

  ReverseStepInputs(const ReverseStepArguments& a, Result result_, bool noisy)
      : result(std::move(result_)),
        I_t(in_layout_of(a.I_t, result.tensor)),
        out0(other(a.out0, a.out0.scalar_type(), "out0")),
        objective(static_cast<Objective>(a.objective)) {
    RDDM_CHECK(a.objective >= 0 && a.objective < kObjectives, "reverse_step: objective ",
               a.objective, " is not one of 0 to ", kObjectives - 1);
    RDDM_CHECK(a.out1.has_value() == has_two_outputs(objective),
               "reverse_step: out1 must be given exactly where the objective has two outputs");
    if (a.out1) out1 = other(*a.out1, out0.scalar_type(), "out1");
    if (a.I_in) I_in = other(*a.I_in, I_t.scalar_type(), "I_in");
    if (!noisy) return;
    if (a.noise) {
      noise.tensor = other(*a.noise, I_t.scalar_type(), "noise");
    } else if (a.seed) {
      noise.drawn = true;
      noise.seed = static_cast<uint64_t>(*a.seed);
      noise.stream = static_cast<uint64_t>(a.stream);
      noise.layout = *pixel_layout(result.tensor);
    }
  }

 private:
  Tensor other(const Tensor& x, ScalarType dtype, const char* name) const {
    return matching(x, result.tensor, dtype, "reverse_step", name);
  }
};

// A call of reverse_step.
inline ReverseStepInputs functional_inputs(const ReverseStepArguments& a,
                                           const std::vector<double>& numbers) {
  using Numbers = StepCoefficients<double>;
  RDDM_CHECK(numbers.size() == Numbers::kCount, "reverse_step: a step has ", Numbers::kCount,
             " numbers, not ", numbers.size());
  const bool noisy = Numbers::of(numbers.data()).sigma != 0;
  RDDM_CHECK(!noisy || a.noise.has_value() != a.seed.has_value(),
             "reverse_step: sigma != 0 needs noise or a seed, one of them");
  return ReverseStepInputs(a, Result(a.I_t, a.seed && noisy), noisy);
}

// Checks a table of coefficients and the number of its row.
inline void check_table(const Tensor& table, const std::optional<Tensor>& index,
                        const Tensor& I_t) {
  using Row = StepCoefficients<float>;
  RDDM_CHECK(table.dim() == 2 && table.size(1) == Row::kCount &&
                 table.scalar_type() == ScalarType::Float && table.is_contiguous() &&
                 table.device() == I_t.device(),
             "reverse_step_: the coefficients must be a contiguous float32 table (S, ", Row::kCount,
             ") on I_t's device");
  RDDM_CHECK(!index || (index->numel() == 1 && index->scalar_type() == ScalarType::Long &&
                        index->device() == I_t.device()),
             "reverse_step_: the index of the step must be one int64 number on I_t's device");
}

// A call of reverse_step_, which overwrites I_t.
inline ReverseStepInputs in_place_inputs(const ReverseStepArguments& a,
                                         const std::optional<Tensor>& seed_tensor,
                                         const Tensor& table, const std::optional<Tensor>& index,
                                         const std::optional<Tensor>& next_input,
                                         const std::optional<Tensor>& clean) {
  RDDM_CHECK(pixel_layout(a.I_t), "reverse_step_: I_t must be contiguous or channels-last");
  RDDM_CHECK(int(a.noise.has_value()) + int(a.seed.has_value()) <= 1,
             "reverse_step_: pass noise or a seed, not both");
  ReverseStepInputs in(a, Result(a.I_t), true);
  check_table(table, index, a.I_t);
  if (seed_tensor) {
    RDDM_CHECK(in.noise.drawn && seed_tensor->numel() == 1 &&
                   seed_tensor->scalar_type() == ScalarType::Long &&
                   seed_tensor->device() == a.I_t.device(),
               "reverse_step_: the seed must be one int64 number on I_t's device");
    in.noise.seed_tensor = *seed_tensor;
  }
  const auto place = [&](const std::optional<Tensor>& to, std::optional<Tensor>& kept,
                         Placement& where, const char* name) {
    if (!to) return;
    RDDM_CHECK(to->scalar_type() == a.out0.scalar_type(), "reverse_step_: ", name,
               " must have out0's dtype");
    where = placement(*to, a.I_t, "reverse_step_", name);
    kept = *to;
  };
  place(next_input, in.next_input, in.next_input_placement, "next_input");
  place(clean, in.clean, in.clean_placement, "clean");
  check_overlap("reverse_step_", {{"I_t", a.I_t}, {"next_input", next_input}, {"clean", clean, 1}},
                {{"out0", a.out0},
                 {"out1", a.out1},
                 {"I_in", a.I_in},
                 {"noise", a.noise},
                 {"table", table},
                 {"step", index},
                 {"seed", seed_tensor}});
  return in;
}

}  // namespace rddm
