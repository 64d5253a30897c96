// The gradients of linear attention over the pixels of a channels-last image, in two walks, for
// each instruction set. They work on ranges of pixels of one image and know no threads:
// pixel_attention.cpp divides the work.
//
// With p(k) = softmax(k) over the pixels, context = p(k)' v and projection = scale context to_out,
// out = softmax(q) projection + bias. The first walk sums the projection's gradient, softmax(q)'
// grad, and the bias's. From that follow the gradients of the context and of to_out. The second
// walk turns the context's into those of each pixel's keys and values. Softmax over the pixels
// needs one sum over them, p(k) times its gradient: it is context times the context's gradient.
#pragma once

#include <cstdint>

#include "vectors/instruction_sets.h"

namespace rddm {

struct AttentionGradients {
  int64_t pixels = 0, channels = 0;  // of an image
  int64_t heads = 0, features = 0;   // features of a head
  float scale = 0;                   // of the context
  const float* qkv = nullptr;        // packed: the weights of queries, keys and values
  const float* back = nullptr;       // packed: the same, transposed
  const float* out = nullptr;        // to_out, transposed: (inner, channels)

  int64_t inner() const { return heads * features; }
  int64_t qkv_size() const { return 3 * inner() * channels; }
  int64_t projection_size() const { return (inner() + 1) * channels; }  // and the bias behind it
};

// What an image's gradients are made of.
struct AttentionGradientImage {
  const float *x, *grad;
  float* x_grad;
  const float* keys;     // (inner), log of the sum of exp(key) over the pixels
  const float* context;  // (inner, features)
};

// What the second walk multiplies with, of an image.
struct ContextGradients {
  float* projection;  // packed: from the channels to inner
  float* values;      // packed for each head: from the keys' features to the values'
  float* keys;        // packed for each head: from the values' features to the keys'
  float* sums;        // (inner): context times its gradient

  ContextGradients(const AttentionGradients& a, float* data)
      : projection(data),
        values(projection + a.inner() * a.channels),
        keys(values + a.inner() * a.features),
        sums(keys + a.inner() * a.features) {}
  static int64_t size(const AttentionGradients& a) {
    return a.inner() * (a.channels + 2 * a.features + 1);
  }
};

struct AttentionGradientSteps {
  const char* name;
  int width;   // float32 values of a vector
  int pixels;  // taken at once
  bool (*is_supported)();
  // As AttentionSteps' pack, without gains.
  void (*pack)(const float* weight, int64_t n, int64_t channels, float* to);
  // Adds to the gradients of the projection (inner, channels), and of the bias behind it. Scratch
  // memory is for `pixels` pixels of twice the channels and of inner.
  void (*sum_projection)(const AttentionGradients&, const AttentionGradientImage&, int64_t first,
                         int64_t last, float* to, float* scratch);
  // The context's gradients from the projection's, and adds to to_out's (inner, channels). Scratch
  // memory is for inner by channels and by features, and features by features.
  void (*turn)(const AttentionGradients&, const AttentionGradientImage&, const float* projection,
               ContextGradients, float* out, float* scratch);
  // The images' gradients, and adds to the weights' (3 inner, channels). Scratch memory is for
  // `pixels` pixels of the channels, of the channels as a multiple of two vectors, and of 6 inner.
  void (*apply)(const AttentionGradients&, const AttentionGradientImage&, ContextGradients,
                int64_t first, int64_t last, float* qkv, float* scratch);
};

RDDM_DECLARE_FOR_EVERY_SET(AttentionGradientSteps, kAttentionGradients);

}  // namespace rddm
