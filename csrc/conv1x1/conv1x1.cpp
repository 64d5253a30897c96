// conv1x1 on the CPU: every pixel's channels, which may lie in two images, times a matrix, in
// float32.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <vector>

#include "check.h"
#include "conv1x1/pixel_products.h"
#include "vectors/convolution_tensors.h"
#include "vectors/instruction_sets.h"

namespace rddm {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kPart = 224;  // pixels of one share of the work

// The widest vectors that all these numbers of channels divide into; null if none.
const PixelProductSteps* steps_for(std::initializer_list<int64_t> channels, int64_t width) {
  static const auto sets = supported<PixelProductSteps>(RDDM_EVERY_SET(kPixelProducts));
  return widest(sets, width, [&](int64_t own) {
    return std::all_of(channels.begin(), channels.end(), [&](int64_t n) { return n % own == 0; });
  });
}

int64_t packed_values(int64_t result_channels, int64_t channels, int64_t width) {
  return kHeader + divided(result_channels, 2 * width) * 2 * width * channels;
}

Tensor pack_conv1x1_cpu(const Tensor& weight, int64_t first_channels, int64_t width) {
  RDDM_CHECK(weight.dim() == 2 && weight.scalar_type() == ScalarType::Float &&
                 weight.is_contiguous() && weight.numel() > 0,
             "pack_conv1x1: weight must be float32 of shape (K, C)");
  const int64_t n = weight.size(0), channels = weight.size(1);
  const PixelProductSteps* const steps =
      steps_for({n, first_channels, channels - first_channels}, width);
  RDDM_CHECK(steps && first_channels > 0 && first_channels <= channels,
             "pack_conv1x1: the channels divide into no vectors");
  Tensor packed = torch::stable::new_empty(weight, {packed_values(n, channels, steps->width)});
  float* const to = static_cast<float*>(packed.mutable_data_ptr());
  std::fill_n(to, kHeader, 0.f);
  to[0] = float(steps->width), to[1] = float(n), to[2] = float(channels);
  steps->pack(static_cast<const float*>(weight.const_data_ptr()), n, channels, to + kHeader);
  return packed;
}

Tensor conv1x1_cpu(const Tensor& x, const std::optional<Tensor>& x_2, const Tensor& weight,
                   const std::optional<Tensor>& packed, const std::optional<Tensor>& bias) {
  ConvolutionData p;
  const ConvolutionTensors tensors("conv1x1", x, x_2, weight, bias, p);
  const Tensor weights = packed ? *packed : pack_conv1x1_cpu(weight, x.size(1), 0);
  RDDM_CHECK(is_packed(weights) && weights.numel() > kHeader,
             "conv1x1: packed must come from pack_conv1x1");
  const float* const data = static_cast<const float*>(weights.const_data_ptr());
  const PixelProductSteps* const steps =
      steps_for({p.result_channels, p.source_channels[0], p.source_channels[1]}, int64_t(data[0]));
  RDDM_CHECK(steps && data[1] == float(p.result_channels) && data[2] == float(p.channels()) &&
                 weights.numel() == packed_values(p.result_channels, p.channels(), steps->width),
             "conv1x1: packed must come from pack_conv1x1, of this weight and on this machine");
  if (tensors.result.numel() == 0) return tensors.result;
  p.packed = data + kHeader;
  const int64_t pixels = x.size(0) * x.size(2) * x.size(3);
  const int64_t lanes = divided(p.result_channels, 2 * steps->width) * 2 * steps->width;
  const int64_t scratch = steps->pixels * (p.channels() + lanes);
  torch::stable::parallel_for(0, divided(pixels, kPart), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> work(scratch);
    steps->run(p, begin * kPart, std::min(end * kPart, pixels), work.data());
  });
  return tensors.result;
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("conv1x1", TORCH_BOX(&rddm::conv1x1_cpu));
  m.impl("pack_conv1x1", TORCH_BOX(&rddm::pack_conv1x1_cpu));
}
