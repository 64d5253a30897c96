// What both launchers of reverse_step do before their loops.
#pragma once

#include "reverse_step.h"
#include "tensors.h"

namespace rddm {

// The tensors of one call, all in the result's layout. An input that the step does not read is
// absent.
struct ReverseStepInputs {
  Result result;
  Tensor I_t, out0;
  std::optional<Tensor> out1, I_in;
  NoiseArgument noise;
  Objective objective;

  ReverseStepInputs(const Tensor& I_t_, const Tensor& out0_, const std::optional<Tensor>& out1_,
                    const std::optional<Tensor>& I_in_, const std::optional<Tensor>& noise_,
                    std::optional<int64_t> seed, int64_t stream, int64_t objective_, double sigma)
      : result(I_t_, seed && sigma != 0),
        I_t(in_layout_of(I_t_, result.tensor)),
        out0(other(out0_, out0_.scalar_type(), "out0")),
        objective(static_cast<Objective>(objective_)) {
    STD_TORCH_CHECK(objective_ >= 0 && objective_ < kObjectives, "reverse_step: objective ",
                    objective_, " is not one of 0 to ", kObjectives - 1);
    STD_TORCH_CHECK(out1_.has_value() == has_two_outputs(objective),
                    "reverse_step: out1 must be given exactly where the objective has two outputs");
    STD_TORCH_CHECK(sigma == 0 || noise_.has_value() != seed.has_value(),
                    "reverse_step: sigma != 0 needs noise or a seed, one of them");
    if (out1_) out1 = other(*out1_, out0.scalar_type(), "out1");
    if (I_in_ && needs_input(objective)) I_in = other(*I_in_, I_t.scalar_type(), "I_in");
    if (sigma == 0) return;
    if (noise_) {
      noise.tensor = other(*noise_, I_t.scalar_type(), "noise");
    } else {
      noise.drawn = true;
      noise.seed = static_cast<uint64_t>(*seed);
      noise.stream = static_cast<uint64_t>(stream);
      noise.layout = *pixel_layout(result.tensor);
    }
  }

 private:
  Tensor other(const Tensor& x, ScalarType dtype, const char* name) const {
    return matching(x, result.tensor, dtype, "reverse_step", name);
  }
};

}  // namespace rddm
