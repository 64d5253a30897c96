// Products of pixels with a matrix, for the instruction set that this file is compiled for: once
// for each (see CMakeLists.txt). It includes no header whose functions another file might take over
// from it.
#include "conv1x1/pixel_products.h"

#include "vectors/pixels.h"

namespace rddm {
namespace {

void pack(const float* weight, int64_t n, int64_t channels, float* to) {
  pack_panels(weight, nullptr, n, channels, to);
}

void run(const ConvolutionData& p, int64_t first, int64_t last, float* scratch) {
  float* const m = scratch + p.channels() * kPixels;
  for (int64_t done = first; done < last; done += kPixels) {
    const int64_t n = least(kPixels, last - done);
    float* v = scratch;
    for (int source = 0; source < 2; ++source) {
      const int64_t channels = p.source_channels[source];
      const float* const from = p.sources[source] + done * channels;
      for (int64_t c = 0; c < channels; c += kWidth, v += kGroup) {
        for (int64_t i = 0; i < n; ++i) store(v + i * kWidth, load(from + i * channels + c));
      }
    }
    // The larger part of what the next pixels are: usually both are alike.
    const float* const next = p.sources[0] + (done + kPixels) * p.source_channels[0];
    project(p.source_channels, scratch, n, p.packed, p.result_channels, m, next,
            kPixels * p.source_channels[0]);
    float* const to = p.result + done * p.result_channels;
    for (int64_t k = 0; k < p.result_channels; k += kWidth) {
      const Vec bias = p.bias ? load(p.bias + k) : Vec{};
      const float* const own = m + k * kPixels;
      for (int64_t i = 0; i < n; ++i) {
        store(to + i * p.result_channels + k, load(own + i * kWidth) + bias);
      }
    }
  }
}

}  // namespace

const PixelProductSteps RDDM_OF_SET(kPixelProducts) = {RDDM_SET_NAME, kWidth, kPixels,
                                                       &is_supported, &pack,  &run};

}  // namespace rddm
