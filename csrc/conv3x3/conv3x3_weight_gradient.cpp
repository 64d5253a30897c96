// conv3x3_weight_gradient on the CPU: the gradients of a 3x3 convolution's weights and bias, in
// AMX.
//
// The rows of all images are divided into bands whose digits stay in the second-level cache. Shares
// of consecutive bands sum into gradients of their own, which are added up in order. Where there
// are fewer shares than threads, several take one: each computes some output channels.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "amx/bands.h"
#include "amx/weight_gradients.h"
#include "check.h"
#include "vectors/packed_weights.h"
#include "vectors/scratch.h"

namespace rddm {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kBand = 1 << 20;  // bytes of a band's digits, of 2 MiB of cache
// Values of all shares' gradients together, at most: they should stay in the cache, too. Above it
// one share is left, and threads take output channels.
constexpr int64_t kGradients = 1 << 19;

const AmxWeightGradientSteps* weight_gradient_steps() {
#if defined(RDDM_WITH_AMX)
  return amx_steps() ? &kAmxWeightGradients : nullptr;
#else
  return nullptr;
#endif
}

thread_local Scratch scratch;

void run(const AmxWeightGradientSteps& steps, const AmxWeightGradients& g, float* weight,
         float* bias) {
  const int64_t panels = divided(g.result_channels, kAmxPanel);
  const int64_t weights = g.result_channels * 9 * g.channels, own = weights + g.result_channels;
  // These follow from the sizes alone, so that threads change no bit.
  const int64_t least_bands = divided(steps.digits_size(g, g.rows()), kBand);
  const int64_t bands = std::min(g.rows(), least_bands > 1 ? (least_bands + 1) / 2 * 2 : 1);
  const int64_t shares = std::clamp<int64_t>(kGradients / own, 1, bands);
  const int64_t parts = std::min(panels, divided(torch::stable::get_num_threads(), shares));
  // The first share sums into the results.
  std::fill_n(weight, weights, 0.f);
  std::fill_n(bias, g.result_channels, 0.f);
  std::vector<float> others((shares - 1) * own);
  torch::stable::parallel_for(0, shares * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t share = i / parts, part = i % parts;
      float* const to = share ? others.data() + (share - 1) * own : weight;
      for (int64_t band = share * bands / shares; band < (share + 1) * bands / shares; ++band) {
        const AmxRows rows{band * g.rows() / bands, (band + 1) * g.rows() / bands};
        const int64_t size = steps.digits_size(g, rows.last - rows.first);
        steps.add(g, rows, part * panels / parts, (part + 1) * panels / parts,
                  reinterpret_cast<char*>(scratch.of(divided(size, 4))), to,
                  share ? to + weights : bias);
      }
    }
  });
  for (int64_t share = 1; share < shares; ++share) {
    const float* const from = others.data() + (share - 1) * own;
    for (int64_t i = 0; i < weights; ++i) weight[i] += from[i];
    for (int64_t i = 0; i < g.result_channels; ++i) bias[i] += from[weights + i];
  }
}

std::tuple<Tensor, Tensor> conv3x3_weight_gradient_cpu(const Tensor& grad, const Tensor& x) {
  const AmxWeightGradientSteps* const steps = weight_gradient_steps();
  RDDM_CHECK(steps, "conv3x3_weight_gradient: this machine has no AMX");
  RDDM_CHECK(grad.dim() == 4 && x.dim() == 4 && grad.scalar_type() == ScalarType::Float &&
                 x.scalar_type() == ScalarType::Float && grad.size(0) == x.size(0) &&
                 grad.size(2) == x.size(2) && grad.size(3) == x.size(3),
             "conv3x3_weight_gradient: grad (B, K, H, W) and x (B, C, H, W) must be float32 "
             "images of one size");
  constexpr auto kChannelsLast = torch::headeronly::MemoryFormat::ChannelsLast;
  Tensor weight = torch::stable::empty({grad.size(1), x.size(1), 3, 3}, ScalarType::Float,
                                       std::nullopt, x.device(), std::nullopt, kChannelsLast);
  Tensor bias = torch::stable::new_empty(x, {grad.size(1)});
  const Tensor grads = torch::stable::contiguous(grad, kChannelsLast);
  const Tensor images = torch::stable::contiguous(x, kChannelsLast);
  AmxWeightGradients g;
  g.x = static_cast<const float*>(images.const_data_ptr());
  g.grad = static_cast<const float*>(grads.const_data_ptr());
  g.batch = x.size(0), g.height = x.size(2), g.width = x.size(3);
  g.channels = x.size(1), g.result_channels = grad.size(1);
  if (x.numel() == 0 || grad.numel() == 0) {
    return {torch::stable::zero_(weight), torch::stable::zero_(bias)};
  }
  run(*steps, g, static_cast<float*>(weight.mutable_data_ptr()),
      static_cast<float*>(bias.mutable_data_ptr()));
  return {weight, bias};
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("conv3x3_weight_gradient", TORCH_BOX(&rddm::conv3x3_weight_gradient_cpu));
}
