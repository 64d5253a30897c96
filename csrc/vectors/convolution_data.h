// A convolution's images and weights as the steps of an instruction set read them.
#pragma once

#include <cstdint>

namespace rddm {

struct ConvolutionData {
  const float* sources[2] = {nullptr, nullptr};  // channels-last images, one behind the other
  int64_t source_channels[2] = {0, 0};
  const float* packed = nullptr;  // by the steps' own pack
  const float* bias = nullptr;    // or null
  float* result = nullptr;        // a channels-last image
  int64_t result_channels = 0;

  int64_t channels() const { return source_channels[0] + source_channels[1]; }
};

}  // namespace rddm
