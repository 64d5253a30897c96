// Products of the pixels of channels-last images with a matrix: the step of each instruction set.
// It knows no threads: conv1x1.cpp divides the work.
#pragma once

#include "vectors/convolution_data.h"
#include "vectors/instruction_sets.h"

namespace rddm {

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
  void (*run)(const ConvolutionData&, int64_t first, int64_t last, float* scratch);
};

RDDM_DECLARE_FOR_EVERY_SET(PixelProductSteps, kPixelProducts);

}  // namespace rddm
