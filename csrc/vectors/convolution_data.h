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

// Weights in any order of their dimensions, by the strides.
struct PlainWeight {
  const float* data;  // of the first tap; there is a later one in front of it if `tap` is negative
  int64_t result_channels, channels, taps;
  int64_t result_channel, channel, tap;  // strides

  // Whether an output channel's weights lie one behind the other, in some order.
  bool is_by_result() const { return result_channel == channels * taps; }
};

// Contiguous weights (K, C, taps).
constexpr PlainWeight contiguous_weight(const float* data, int64_t result_channels,
                                        int64_t channels, int64_t taps) {
  return {data, result_channels, channels, taps, channels * taps, taps, 1};
}

}  // namespace rddm
