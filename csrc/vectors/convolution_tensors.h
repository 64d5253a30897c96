// What conv1x1 and conv3x3 share of a call: the checks of their tensors, and the result.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "check.h"
#include "vectors/convolution_data.h"
#include "vectors/packed_weights.h"

namespace rddm {

// Holds the channels-last copies of images that are laid out otherwise.
class ConvolutionTensors {
 public:
  Tensor result;

  ConvolutionTensors(const char* op, const Tensor& x, const std::optional<Tensor>& x_2,
                     const Tensor& weight, const std::optional<Tensor>& bias, ConvolutionData& data)
      : result(x), first_(x) {
    RDDM_CHECK(x.dim() == 4, op, ": x must be images (B, C, H, W)");
    first_ = channels_last(op, x, x, "x");
    if (x_2) second_ = channels_last(op, *x_2, x, "x_2");
    data.source_channels[0] = x.size(1), data.source_channels[1] = x_2 ? x_2->size(1) : 0;
    data.result_channels = weight.size(0);
    RDDM_CHECK(!bias || (is_packed(*bias) && bias->size(0) == data.result_channels), op,
               ": bias must be float32, one value an output channel");
    result = torch::stable::empty({x.size(0), data.result_channels, x.size(2), x.size(3)},
                                  torch::headeronly::ScalarType::Float, std::nullopt, x.device(),
                                  std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
    data.sources[0] = static_cast<const float*>(first_.const_data_ptr());
    if (second_) data.sources[1] = static_cast<const float*>(second_->const_data_ptr());
    data.bias = bias ? static_cast<const float*>(bias->const_data_ptr()) : nullptr;
    data.result = static_cast<float*>(result.mutable_data_ptr());
  }

 private:
  static Tensor channels_last(const char* op, const Tensor& x, const Tensor& model,
                              const char* name) {
    RDDM_CHECK(x.dim() == 4 && x.size(0) == model.size(0) && x.size(2) == model.size(2) &&
                   x.size(3) == model.size(3) &&
                   x.scalar_type() == torch::headeronly::ScalarType::Float,
               op, ": ", name, " must be float32 images of x's size");
    return torch::stable::contiguous(x, torch::headeronly::MemoryFormat::ChannelsLast);
  }

  Tensor first_;
  std::optional<Tensor> second_;
};

}  // namespace rddm
