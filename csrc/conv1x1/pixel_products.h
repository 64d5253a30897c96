// Products of the pixels of channels-last images with a matrix: the step of each instruction set.
// It knows no threads: conv1x1.cpp divides the work.
#pragma once

#include <cstdint>

namespace rddm {

struct PixelProducts {
  const float* sources[2] = {nullptr, nullptr};  // images, one behind the other
  int64_t source_channels[2] = {0, 0};
  const float* packed = nullptr;  // by PixelProductSteps::pack
  const float* bias = nullptr;    // or null
  float* result = nullptr;
  int64_t result_channels = 0;

  int64_t channels() const { return source_channels[0] + source_channels[1]; }
};

// All numbers of channels are multiples of a vector's.
struct PixelProductSteps {
  const char* name;
  int width;   // float32 values of a vector
  int pixels;  // taken at once
  bool (*is_supported)();
  // Transposes weights (n, channels) to [panel][channel][panel's two vectors], with zeros where n
  // does not fill the last panel.
  void (*pack)(const float* weight, int64_t n, int64_t channels, float* to);
  // The results of the pixels from `first` to `last`. Scratch memory is for `pixels` pixels of all
  // channels and of the results' panels.
  void (*run)(const PixelProducts&, int64_t first, int64_t last, float* scratch);
};

extern const PixelProductSteps kPixelProductsBaseline;
#if defined(__x86_64__)
extern const PixelProductSteps kPixelProductsAvx2, kPixelProductsAvx512;
#endif

}  // namespace rddm
