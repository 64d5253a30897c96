// The gradient of a 3x3 convolution's weights in AMX, with the accuracy of float32: the sums over
// all pixels of the result's gradient times the image, for each pair of channels and each tap.
//
// Values are digits as in convolution.h, but here the pixels are what is summed over. All images'
// rows stand in one list, with a row of zeros behind each image and a zero behind each row. So a
// pixel's neighbours lie at fixed distances, and what lies outside an image is zero. The image's
// digits lie as the unit reads its second factor, fours of pixels; those of the gradient lie pixel
// by pixel for each channel, and a tap reads them from another place on.
#pragma once

#include <cstdint>

namespace rddm {

struct AmxWeightGradients {
  const float* x = nullptr;     // channels-last images of `channels`
  const float* grad = nullptr;  // channels-last images of `result_channels`
  int64_t batch = 0, height = 0, width = 0;
  int64_t channels = 0, result_channels = 0;

  int64_t line() const { return width + 1; }
  int64_t rows() const { return batch * (height + 1); }  // of the list
};

// Some rows of the list.
struct AmxRows {
  int64_t first, last;
};

struct AmxWeightGradientSteps {
  // The digits of so many rows, in bytes.
  int64_t (*digits_size)(const AmxWeightGradients&, int64_t rows);
  // Adds what some rows say of panels of 16 result channels to the weights' gradient
  // (result channels, 9, channels) and the bias's. All of it becomes NaN if a value is not finite.
  // `digits` begin with a line of the cache.
  void (*add)(const AmxWeightGradients&, AmxRows, int64_t first_panel, int64_t last_panel,
              char* digits, float* weight, float* bias);
};

#if defined(RDDM_WITH_AMX)
extern const AmxWeightGradientSteps kAmxWeightGradients;
#endif

}  // namespace rddm
