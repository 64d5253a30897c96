// What both launchers of forward_diffuse do before their loops.
#pragma once

#include "check.h"
#include "common/tensors.h"

namespace rddm {

// The tensors of one call, the images in the result's layout, which is contiguous or channels-last:
// samples follow each other in memory.
struct ForwardDiffuseInputs {
  Result result;
  Tensor I_0, t, alpha_bar, beta_bar;
  std::optional<Tensor> I_in;
  NoiseArgument noise;
  int64_t per_sample;  // elements

  ForwardDiffuseInputs(const Tensor& I_0_, const std::optional<Tensor>& I_in_, const Tensor& t_,
                       const Tensor& alpha_bar_, const Tensor& beta_bar_,
                       const std::optional<Tensor>& noise_, std::optional<int64_t> seed,
                       int64_t stream)
      : result(I_0_, /*counted=*/true),
        I_0(in_layout_of(I_0_, result.tensor)),
        t(torch::stable::contiguous(t_)),
        alpha_bar(torch::stable::contiguous(alpha_bar_)),
        beta_bar(torch::stable::contiguous(beta_bar_)) {
    RDDM_CHECK(I_0.dim() > 0, "forward_diffuse: I_0 must have a batch dimension");
    RDDM_CHECK(noise_.has_value() != seed.has_value(),
               "forward_diffuse: pass noise or a seed, one of them");
    RDDM_CHECK(t.dim() == 1 && t.size(0) == I_0.size(0) && t.scalar_type() == ScalarType::Long,
               "forward_diffuse: t must be int64, one for each sample");
    for (const Tensor& table : {alpha_bar, beta_bar}) {
      RDDM_CHECK(table.dim() == 1 && table.numel() == alpha_bar.numel() &&
                     table.scalar_type() == ScalarType::Float,
                 "forward_diffuse: alpha_bar and beta_bar must be float32 tables of one length");
      RDDM_CHECK(table.device() == I_0.device() && t.device() == I_0.device(),
                 "forward_diffuse: t, alpha_bar and beta_bar must be on I_0's device");
    }
    per_sample = I_0.size(0) ? I_0.numel() / I_0.size(0) : 0;
    if (I_in_) I_in = other(*I_in_, "I_in");
    if (noise_) {
      noise.tensor = other(*noise_, "noise");
    } else {
      noise.drawn = true;
      noise.seed = static_cast<uint64_t>(*seed);
      noise.stream = static_cast<uint64_t>(stream);
      noise.layout = *pixel_layout(result.tensor);
    }
  }

 private:
  Tensor other(const Tensor& x, const char* name) const {
    return matching(x, result.tensor, I_0.scalar_type(), "forward_diffuse", name);
  }
};

}  // namespace rddm
