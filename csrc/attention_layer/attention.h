// Linear attention over the pixels of a channels-last image, with all that surrounds it in the
// U-Net: what its two walks share, and the walks of each instruction set. They work on ranges of
// pixels of one image and know no threads: attention_layer.cpp divides the work.
#pragma once

#include <cstdint>

#include "vectors/instruction_sets.h"

namespace rddm {

struct Attention {
  int64_t pixels = 0, channels = 0;    // of an image
  int64_t heads = 0, features = 0;     // features of a head
  bool has_norms = true;               // and the residual; without, the attention alone
  float eps = 0;                       // of both norms
  float scale = 0;                     // of the context
  const float* keys_values = nullptr;  // packed: keys' weights, then values'
  const float* queries = nullptr;      // packed
  const float* out = nullptr;          // packed
  const float *bias = nullptr, *gain = nullptr;

  int64_t inner() const { return heads * features; }
};

// What the pixels up to here say of the keys and values: the largest key of each feature, the sums
// of exp(key - largest), and the sums of that times the values (heads, features, features).
struct AttentionContext {
  float *largest, *total, *values;
};

// Images of float32 or bfloat16.
struct AttentionImage {
  const void* x;
  void* result;
  bool is_bfloat16;
};

struct AttentionSteps {
  const char* name;
  int width;   // float32 values of a vector
  int pixels;  // taken at once
  bool (*is_supported)();
  // Transposes weights (n, channels) to [panel][channel][panel's two vectors], each input channel
  // times its gain, if there are gains; zeros where n does not fill the last panel.
  void (*pack)(const float* weight, const float* gain, int64_t n, int64_t channels, float* to);
  // Adds the pixels from `first` to `last` to a context of zeros. Scratch memory for `pixels`
  // pixels of channels, keys and values lies behind it.
  void (*gather)(const Attention&, const AttentionImage&, int64_t first, int64_t last,
                 AttentionContext);
  // Adds another context to the first.
  void (*join)(const Attention&, AttentionContext, AttentionContext other);
  // The context, divided by its totals and scaled, times the output's weights: packed.
  void (*finish)(const Attention&, AttentionContext, float* projection);
  // The results of the pixels.
  // Scratch memory is for `pixels` pixels of channels and queries.
  void (*apply)(const Attention&, const AttentionImage&, int64_t first, int64_t last,
                const float* projection, float* scratch);
};

RDDM_DECLARE_FOR_EVERY_SET(AttentionSteps, kAttention);

}  // namespace rddm
