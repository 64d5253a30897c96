// Blocks of pixels of channels-last images, and their products with matrices.
#pragma once

#include "vectors/multiply.h"
#include "vectors/vectors.h"

namespace rddm {
namespace {

constexpr int kPixels = 2 * kRows;  // taken at once: their values stay in the first-level cache
constexpr int kPanel = 2 * kWidth;

// The values of a block of pixels lie as [vector of channels][pixel][channel of the vector].
constexpr int64_t kGroup = kPixels * kWidth;

// Transposes weights (n, channels) to [panel][channel][panel's two vectors], each input channel
// times its gain, if there are gains; zeros where n does not fill the last panel.
void pack_panels(const float* weight, const float* gain, int64_t n, int64_t channels, float* to) {
  for (int64_t first = 0; first < n; first += kPanel) {
    for (int64_t c = 0; c < channels; ++c, to += kPanel) {
      for (int64_t i = 0; i < kPanel; ++i) {
        const bool inside = first + i < n;
        to[i] = inside ? weight[(first + i) * channels + c] * (gain ? gain[c] : 1.f) : 0.f;
      }
    }
  }
}

// The products of n pixels with the panels of n_results output channels. Meanwhile it fetches
// `ahead_size` values from `ahead` on, which are needed next.
RDDM_INLINE void project(const int64_t (&source_channels)[2], const float* v, int64_t n,
                         const float* u, int64_t n_results, float* m, const float* ahead,
                         int64_t ahead_size) {
  const int64_t channels = source_channels[0] + source_channels[1];
  const int64_t calls = (n_results + kPanel - 1) / kPanel * ((n + kRows - 1) / kRows);
  const int64_t step = (ahead_size + calls * channels - 1) / (calls * channels);
  for (int64_t k = 0; k < n_results; k += kPanel, u += channels * kPanel) {
    for (int64_t done = 0; done < n; done += kRows, ahead += step * channels) {
      const int64_t rows = least(kRows, n - done);
      multiply_rows<2, kRows>(rows)(source_channels, v + done * kWidth, kGroup, u, ahead, step,
                                    m + k * kPixels + done * kWidth, kGroup);
    }
  }
}

}  // namespace
}  // namespace rddm
