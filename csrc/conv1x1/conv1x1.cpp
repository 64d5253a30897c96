// conv1x1 on the CPU: every pixel's channels, which may lie in two images, times a matrix, in
// float32.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "conv1x1/pixel_products.h"
#include "vectors/instruction_sets.h"

namespace rddm {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kHeader = 16;  // Packed weights begin with a line that says what they are.
constexpr int64_t kPart = 224;   // pixels of one share of the work

int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The widest vectors that all these numbers of channels divide into; null if none.
const PixelProductSteps* steps_for(std::initializer_list<int64_t> channels, int64_t width) {
  static const auto sets = supported<PixelProductSteps>({
      &kPixelProductsBaseline,
#if defined(__x86_64__)
      &kPixelProductsAvx2,
      &kPixelProductsAvx512,
#endif
  });
  for (auto set = sets.rbegin(); set != sets.rend(); ++set) {
    const int64_t own = (*set)->width;
    const bool divides =
        std::all_of(channels.begin(), channels.end(), [&](int64_t n) { return n % own == 0; });
    if (divides && (!width || width == own)) return *set;
  }
  return nullptr;
}

int64_t packed_values(int64_t result_channels, int64_t channels, int64_t width) {
  return kHeader + divided(result_channels, 2 * width) * 2 * width * channels;
}

Tensor pack_conv1x1_cpu(const Tensor& weight, int64_t first_channels, int64_t width) {
  STD_TORCH_CHECK(weight.dim() == 2 && weight.scalar_type() == ScalarType::Float &&
                      weight.is_contiguous() && weight.numel() > 0,
                  "pack_conv1x1: weight must be float32 of shape (K, C)");
  const int64_t n = weight.size(0), channels = weight.size(1);
  const PixelProductSteps* const steps =
      steps_for({n, first_channels, channels - first_channels}, width);
  STD_TORCH_CHECK(steps && first_channels > 0 && first_channels <= channels,
                  "pack_conv1x1: the channels divide into no vectors");
  Tensor packed = torch::stable::new_empty(weight, {packed_values(n, channels, steps->width)});
  float* const to = static_cast<float*>(packed.mutable_data_ptr());
  std::fill_n(to, kHeader, 0.f);
  to[0] = float(steps->width), to[1] = float(n), to[2] = float(channels);
  steps->pack(static_cast<const float*>(weight.const_data_ptr()), n, channels, to + kHeader);
  return packed;
}

Tensor source(const Tensor& x, const Tensor& model, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(0) == model.size(0) && x.size(2) == model.size(2) &&
                      x.size(3) == model.size(3) && x.scalar_type() == ScalarType::Float,
                  "conv1x1: ", name, " must be float32 images of x's size");
  return torch::stable::contiguous(x, torch::headeronly::MemoryFormat::ChannelsLast);
}

Tensor conv1x1_cpu(const Tensor& x, const std::optional<Tensor>& x_2, const Tensor& weight,
                   const std::optional<Tensor>& packed, const std::optional<Tensor>& bias) {
  STD_TORCH_CHECK(x.dim() == 4, "conv1x1: x must be images (B, C, H, W)");
  const Tensor first = source(x, x, "x");
  std::optional<Tensor> second;
  if (x_2) second = source(*x_2, x, "x_2");
  PixelProducts p;
  p.source_channels[0] = x.size(1), p.source_channels[1] = x_2 ? x_2->size(1) : 0;
  p.result_channels = weight.size(0);
  const Tensor weights = packed ? *packed : pack_conv1x1_cpu(weight, x.size(1), 0);
  STD_TORCH_CHECK(weights.dim() == 1 && weights.numel() > kHeader && weights.is_contiguous() &&
                      weights.scalar_type() == ScalarType::Float,
                  "conv1x1: packed must come from pack_conv1x1");
  const float* const data = static_cast<const float*>(weights.const_data_ptr());
  const PixelProductSteps* const steps =
      steps_for({p.result_channels, p.source_channels[0], p.source_channels[1]}, int64_t(data[0]));
  STD_TORCH_CHECK(
      steps && data[1] == float(p.result_channels) && data[2] == float(p.channels()) &&
          weights.numel() == packed_values(p.result_channels, p.channels(), steps->width),
      "conv1x1: packed must come from pack_conv1x1, of this weight and on this machine");
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == p.result_channels &&
                            bias->is_contiguous() && bias->scalar_type() == ScalarType::Float),
                  "conv1x1: bias must be float32, one value an output channel");
  Tensor result = torch::stable::empty({x.size(0), p.result_channels, x.size(2), x.size(3)},
                                       ScalarType::Float, std::nullopt, x.device(), std::nullopt,
                                       torch::headeronly::MemoryFormat::ChannelsLast);
  if (result.numel() == 0) return result;
  p.sources[0] = static_cast<const float*>(first.const_data_ptr());
  if (second) p.sources[1] = static_cast<const float*>(second->const_data_ptr());
  p.packed = data + kHeader;
  p.bias = bias ? static_cast<const float*>(bias->const_data_ptr()) : nullptr;
  p.result = static_cast<float*>(result.mutable_data_ptr());
  const int64_t pixels = x.size(0) * x.size(2) * x.size(3);
  const int64_t lanes = divided(p.result_channels, 2 * steps->width) * 2 * steps->width;
  const int64_t scratch = steps->pixels * (p.channels() + lanes);
  torch::stable::parallel_for(0, divided(pixels, kPart), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> work(scratch);
    steps->run(p, begin * kPart, std::min(end * kPart, pixels), work.data());
  });
  return result;
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("conv1x1", TORCH_BOX(&rddm::conv1x1_cpu));
  m.impl("pack_conv1x1", TORCH_BOX(&rddm::pack_conv1x1_cpu));
}
