// What both launchers of joint_loss do before their loops.
#pragma once

#include "check.h"
#include "common/overlap.h"
#include "common/tensors.h"
#include "joint_loss/joint_loss.h"

namespace rddm {

// The tensors of one call, all in the layout of `gradient0`, which is that of out0.
struct JointLossInputs {
  Result gradient0, gradient1;
  Tensor out0, I_0;
  std::optional<Tensor> out1, I_in, lam;
  NoiseArgument noise;
  Objective objective;
  bool squared;
  // The factor of the derivatives besides their weight: 1 / numel. For float16 outputs, which
  // cannot hold such small numbers, it is 1, and the backward pass multiplies by 1 / numel.
  double scale;

  JointLossInputs(const Tensor& out0_, const std::optional<Tensor>& out1_, const Tensor& I_0_,
                  const std::optional<Tensor>& I_in_, const std::optional<Tensor>& noise_,
                  std::optional<int64_t> seed, int64_t stream, int64_t objective_, bool squared_,
                  const std::optional<Tensor>& lam_)
      : gradient0(out0_, seed.has_value()),
        gradient1(out1_ ? out0_ : torch::stable::new_empty(out0_, {0}), seed.has_value()),
        out0(in_layout_of(out0_, gradient0.tensor)),
        I_0(other(I_0_, I_0_.scalar_type(), "I_0")),
        objective(static_cast<Objective>(objective_)),
        squared(squared_) {
    RDDM_CHECK(objective_ >= 0 && objective_ < kObjectives, "joint_loss: objective ", objective_,
               " is not one of 0 to ", kObjectives - 1);
    RDDM_CHECK(out1_.has_value() == has_two_outputs(objective),
               "joint_loss: out1 must be given exactly where the objective has two outputs");
    RDDM_CHECK(noise_.has_value() != seed.has_value(),
               "joint_loss: pass noise or a seed, one of them");
    if (out1_) out1 = other(*out1_, out0.scalar_type(), "out1");
    if (I_in_) I_in = other(*I_in_, I_0.scalar_type(), "I_in");
    if (lam_) {
      RDDM_CHECK(lam_->numel() == 1 && lam_->scalar_type() == ScalarType::Float &&
                     lam_->device() == out0.device(),
                 "joint_loss: lam must be one float32 number on the outputs' device");
      lam = *lam_;
    }
    scale = out0.scalar_type() == ScalarType::Half || out0.numel() == 0 ? 1.0 : 1.0 / out0.numel();
    if (noise_) {
      noise.tensor = other(*noise_, I_0.scalar_type(), "noise");
    } else {
      noise.drawn = true;
      noise.seed = static_cast<uint64_t>(*seed);
      noise.stream = static_cast<uint64_t>(stream);
      noise.layout = *pixel_layout(gradient0.tensor);
    }
  }

 private:
  Tensor other(const Tensor& x, ScalarType dtype, const char* name) const {
    return matching(x, gradient0.tensor, dtype, "joint_loss", name);
  }
};

// Checks the arguments of the backward pass, which walks over the memory of both gradients.
inline void check_gradients(const Tensor& gradient0, const std::optional<Tensor>& gradient1,
                            const Tensor& by_loss) {
  const char* const op = "joint_loss_backward_";
  int64_t span = 1;
  for (int64_t d = 0; d < gradient0.dim(); ++d) {
    span += (gradient0.size(d) - 1) * gradient0.stride(d);
  }
  RDDM_CHECK(gradient0.numel() == 0 || span == gradient0.numel(), op,
             ": gradient0 must lie in memory without gaps");
  if (gradient1) {
    matching(*gradient1, gradient0, gradient0.scalar_type(), op, "gradient1");
    RDDM_CHECK(same_layout(*gradient1, gradient0), op,
               ": the gradients must have one memory layout");
  }
  RDDM_CHECK(by_loss.numel() == 1 && by_loss.scalar_type() == ScalarType::Float &&
                 by_loss.device() == gradient0.device(),
             op, ": by_loss must be one float32 number on the gradients' device");
  check_overlap(op, {{"gradient0", gradient0}, {"gradient1", gradient1, 1}},
                {{"by_loss", by_loss}});
}

}  // namespace rddm
