// attention_layer on the CPU: channel norm, linear attention with its projections, channel norm and
// the residual, in two walks over the pixels that keep all between them in the cache.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "attention_layer/attention_walks.h"
#include "check.h"

namespace rddm {
namespace {

using torch::headeronly::ScalarType;

// `width` is 0, or the vectors' length to pack for.
Tensor pack_attention_layer_cpu(const Tensor& norm_g, const Tensor& to_qkv, const Tensor& to_out,
                                int64_t heads, int64_t width) {
  const auto is_matrix = [](const Tensor& t) {
    return t.dim() == 2 && t.scalar_type() == ScalarType::Float && t.is_contiguous();
  };
  RDDM_CHECK(is_matrix(to_qkv) && is_matrix(to_out) && heads > 0 &&
                 to_qkv.size(0) == 3 * to_out.size(1) && to_out.size(1) % heads == 0 &&
                 to_qkv.size(1) == to_out.size(0) && norm_g.dim() == 1 &&
                 norm_g.size(0) == to_out.size(0) && norm_g.is_contiguous() &&
                 norm_g.scalar_type() == ScalarType::Float,
             "pack_attention_layer: weights must be float32: norm_g (C,), to_qkv (3 heads "
             "features, C), to_out (C, heads features)");
  const int64_t channels = to_out.size(0), inner = to_out.size(1);
  const AttentionSteps* const steps = attention_steps(channels, inner / heads, width);
  RDDM_CHECK(steps, "pack_attention_layer: the channels and features divide into no vectors");
  Tensor packed =
      torch::stable::new_empty(to_out, {kHeader + attention_weights_size(*steps, inner, channels)});
  float* const to = static_cast<float*>(packed.mutable_data_ptr());
  std::fill_n(to, kHeader, 0.f);
  to[0] = float(steps->width), to[1] = float(channels), to[2] = float(inner), to[3] = float(heads);
  pack_attention(*steps, static_cast<const float*>(to_qkv.const_data_ptr()),
                 static_cast<const float*>(norm_g.const_data_ptr()),
                 static_cast<const float*>(to_out.const_data_ptr()), inner, channels, to + kHeader);
  return packed;
}

Tensor attention_layer_cpu(const Tensor& x, const Tensor& norm_g, const Tensor& to_qkv,
                           const Tensor& to_out, const Tensor& bias, const Tensor& g, int64_t heads,
                           double eps, const std::optional<Tensor>& packed) {
  const bool is_bfloat16 = x.scalar_type() == ScalarType::BFloat16;
  RDDM_CHECK(x.dim() == 4 && (is_bfloat16 || x.scalar_type() == ScalarType::Float),
             "attention_layer: x must be images (B, C, H, W) in float32 or bfloat16");
  const Tensor weights =
      packed ? *packed : pack_attention_layer_cpu(norm_g, to_qkv, to_out, heads, 0);
  RDDM_CHECK(is_packed(weights) && weights.numel() > kHeader,
             "attention_layer: packed must come from pack_attention_layer");
  const float* const data = static_cast<const float*>(weights.const_data_ptr());
  const int64_t channels = x.size(1), inner = int64_t(data[2]);
  const AttentionSteps* const steps =
      inner % heads ? nullptr : attention_steps(channels, inner / heads, int64_t(data[0]));
  RDDM_CHECK(steps && data[1] == float(channels) && data[3] == float(heads) && inner > 0,
             "attention_layer: packed must come from pack_attention_layer, of these weights "
             "and on this machine");
  RDDM_CHECK(weights.numel() == kHeader + attention_weights_size(*steps, inner, channels),
             "attention_layer: packed must come from pack_attention_layer");
  for (const Tensor* row : {&bias, &g}) {
    RDDM_CHECK(is_packed(*row) && row->size(0) == channels,
               "attention_layer: bias and g must be float32, one value a channel");
  }
  const Tensor images = torch::stable::contiguous(x, torch::headeronly::MemoryFormat::ChannelsLast);
  Tensor result = torch::stable::empty_like(images);
  if (x.numel() == 0) return result;
  Attention a;
  a.pixels = x.size(2) * x.size(3), a.channels = channels;
  a.heads = heads, a.features = inner / heads, a.eps = float(eps);
  a.scale = float(1 / std::sqrt(double(a.features)) / double(a.pixels));
  use_packed(data + kHeader, a);
  a.bias = static_cast<const float*>(bias.const_data_ptr());
  a.gain = static_cast<const float*>(g.const_data_ptr());
  AttentionWalks walks(*steps, a, {images.const_data_ptr(), result.mutable_data_ptr(), is_bfloat16},
                       x.size(0));
  walks.gather();
  walks.apply();
  return result;
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("attention_layer", TORCH_BOX(&rddm::attention_layer_cpu));
  m.impl("pack_attention_layer", TORCH_BOX(&rddm::pack_attention_layer_cpu));
}
