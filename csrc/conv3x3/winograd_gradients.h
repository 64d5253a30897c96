// The gradient of a 3x3 convolution's weights by Winograd's F(4x4, 3x3): the transpose of the
// forward pass (winograd_transforms.h),
//
//     dg = G' [ sum over the tiles of (A dY A') * (B' d B) ] G        *: product by element
//
// It takes a quarter of the multiplications of direct sums. The sums of a share of the tiles lie as
// [panel of input channels][position][output channel of a vector][panel's channels].
#pragma once

#include "conv3x3/winograd.h"

namespace rddm {

// The images of a convolution and the gradient of its result, each as the only source.
struct WinogradGradients {
  Winograd x, grad;

  int64_t channels() const { return x.source_channels[0]; }
  int64_t result_channels() const { return grad.source_channels[0]; }
};

// The transformed tiles of a block; both have the same tiles and parts.
struct WinogradGradientBlock {
  WinogradBlock x, grad;
};

struct WinogradGradientSteps {
  const char* name;
  int width, rows;  // as those of WinogradSteps
  bool (*is_supported)();
  // A dY A' of the block's tiles, for all output channels. Adds their sums to `bias`, unless it is
  // null: [vector of output channels][channel].
  void (*spread)(const WinogradGradients&, const WinogradGradientBlock&, float* bias);
  // B' d B of the block's tiles and their products with the others', for a panel. `first`: they
  // are the first of these sums.
  void (*add)(const WinogradGradients&, const WinogradGradientBlock&, int64_t panel, bool first,
              float* sums);
  // G' sums G of a panel, in float64, into weights (K, 3, 3, C).
  void (*finish)(const WinogradGradients&, int64_t panel, const float* sums, float* weight);
};

RDDM_DECLARE_FOR_EVERY_SET(WinogradGradientSteps, kWinogradGradients);

}  // namespace rddm
