// The two walks of linear attention's gradients, for the instruction set that this file is compiled
// for: once for each (see CMakeLists.txt). It includes no header whose functions another file might
// take over from it.
#include "pixel_attention/attention_gradients.h"

#include "attention_layer/attention_pixels.h"

namespace rddm {
namespace {

void pack(const float* weight, int64_t n, int64_t channels, float* to) {
  pack_panels(weight, nullptr, n, channels, to);
}

// n pixels of an image, as a block.
RDDM_INLINE void take(const float* x, int64_t channels, int64_t n, float* to) {
  for (int64_t p = 0; p < n; ++p, x += channels) {
    for (int64_t c = 0; c < channels; c += kWidth) {
      store(to + c * kPixels + p * kWidth, load(x + c));
    }
  }
}

// Adds the products of two blocks, summed over their pixels, to (n_keys, n_values).
RDDM_INLINE void add_products(const float* keys, int64_t n_keys, const float* values,
                              int64_t n_values, int64_t n, float* to) {
  for (int64_t k = 0; k < n_keys; k += kAtOnce) {
    const float* const own = keys + k / kWidth * kGroup + k % kWidth;
    int64_t v = 0;
    for (; v + kPanel <= n_values; v += kPanel) {
      outer_products<kAtOnce, 2>(own, values + v * kPixels, n, to + k * n_values + v, n_values);
    }
    if (v < n_values) {
      outer_products<kAtOnce, 1>(own, values + v * kPixels, n, to + k * n_values + v, n_values);
    }
  }
}

void sum_projection(const AttentionGradients& a, const AttentionGradientImage& image, int64_t first,
                    int64_t last, float* to, float* scratch) {
  const int64_t inner = a.inner();
  float* const v = scratch;
  float* const g = v + a.channels * kPixels;
  float* const queries = g + a.channels * kPixels;
  float* const bias = to + inner * a.channels;
  for (int64_t done = first; done < last; done += kPixels) {
    const int64_t n = least(kPixels, last - done), at = done * a.channels;
    take(image.x + at, a.channels, n, v);
    take(image.grad + at, a.channels, n, g);
    project({a.channels, 0}, v, n, a.qkv, inner, queries, image.x + at + kPixels * a.channels,
            kPixels * a.channels);
    softmax(inner, a.features, n, queries);
    add_products(queries, inner, g, a.channels, n, to);
    for (int64_t c = 0; c < a.channels; c += kWidth) {
      Vec sum = load(bias + c);
      for (int64_t p = 0; p < n; ++p) sum += load(g + c * kPixels + p * kWidth);
      store(bias + c, sum);
    }
  }
}

void turn(const AttentionGradients& a, const AttentionGradientImage& image, const float* projection,
          ContextGradients to, float* out, float* scratch) {
  const int64_t inner = a.inner(), channels = a.channels, features = a.features;
  float* const own = scratch;                      // the projection itself (inner, channels)
  float* const grads = own + inner * channels;     // the context's (inner, features)
  float* const turned = grads + inner * features;  // a head's, transposed
  for (int64_t i = 0; i < inner; ++i) {
    const int64_t head = i / features * features;
    for (int64_t c = 0; c < channels; c += kWidth) {
      const Vec given = load(projection + i * channels + c);
      Vec sum{};
      for (int64_t e = 0; e < features; ++e) {
        const int64_t at = (head + e) * channels + c;
        const Vec value = all(image.context[i * features + e] * a.scale);
        sum += value * load(a.out + at);
        store(out + at, load(out + at) + value * given);
      }
      store(own + i * channels + c, sum);
    }
    to.sums[i] = 0;
    for (int64_t e = 0; e < features; ++e) {
      Vec sum{};
      for (int64_t c = 0; c < channels; c += kWidth) {
        sum += load(projection + i * channels + c) * load(a.out + (head + e) * channels + c);
      }
      const float grad = sum_of(sum) * a.scale;
      grads[i * features + e] = grad;
      // Of the rounded gradients: the second walk subtracts this from products with the same ones.
      to.sums[i] += image.context[i * features + e] * grad;
    }
  }
  pack_panels(own, nullptr, inner, channels, to.projection);
  for (int64_t head = 0; head < inner; head += features) {
    const float* const given = grads + head * features;
    pack_panels(given, nullptr, features, features, to.keys + head * features);
    for (int64_t i = 0; i < features; ++i) {
      for (int64_t e = 0; e < features; ++e) turned[e * features + i] = given[i * features + e];
    }
    pack_panels(turned, nullptr, features, features, to.values + head * features);
  }
}

// The gradient of softmax over a head's features, pixel by pixel, from the softmax and its own.
RDDM_INLINE void softmax_gradient(int64_t inner, int64_t features, int64_t n, const float* queries,
                                  float* grads) {
  for (int64_t head = 0; head < inner; head += features) {
    for (int64_t p = 0; p < n; ++p) {
      const float* const q = queries + head * kPixels + p * kWidth;
      float* const d = grads + head * kPixels + p * kWidth;
      Vec sum{};
      for (int64_t c = 0; c < features; c += kWidth) {
        sum += load(q + c * kPixels) * load(d + c * kPixels);
      }
      const Vec mean = all(sum_of(sum));
      for (int64_t c = 0; c < features; c += kWidth) {
        store(d + c * kPixels, load(q + c * kPixels) * (load(d + c * kPixels) - mean));
      }
    }
  }
}

void apply(const AttentionGradients& a, const AttentionGradientImage& image,
           ContextGradients gradients, int64_t first, int64_t last, float* qkv, float* scratch) {
  const int64_t inner = a.inner(), features = a.features, block = inner * kPixels;
  float* const v = scratch;
  float *const q = v + a.channels * kPixels, *const k = q + block, *const values = k + block;
  float *const q_grad = values + block, *const k_grad = q_grad + block,
               *const values_grad = k_grad + block;
  float* const g = values_grad + block;  // and then the result: a whole number of panels
  for (int64_t done = first; done < last; done += kPixels) {
    const int64_t n = least(kPixels, last - done), at = done * a.channels;
    take(image.x + at, a.channels, n, v);
    take(image.grad + at, a.channels, n, g);
    project({a.channels, 0}, v, n, a.qkv, 3 * inner, q, image.x + at + kPixels * a.channels,
            kPixels * a.channels);
    softmax(inner, features, n, q);
    project({a.channels, 0}, g, n, gradients.projection, inner, q_grad,
            image.grad + at + kPixels * a.channels, kPixels * a.channels);
    softmax_gradient(inner, features, n, q, q_grad);
    for (int64_t c = 0; c < inner; c += kWidth) {
      const Vec keys = load(image.keys + c);
      float* const own = k + c * kPixels;
      for (int64_t p = 0; p < n; ++p) {
        store(own + p * kWidth, exp_of(load(own + p * kWidth) - keys));
      }
    }
    for (int64_t head = 0; head < inner; head += features) {
      project({features, 0}, k + head * kPixels, n, gradients.values + head * features, features,
              values_grad + head * kPixels, gradients.values, 0);
      project({features, 0}, values + head * kPixels, n, gradients.keys + head * features, features,
              k_grad + head * kPixels, gradients.keys, 0);
    }
    for (int64_t c = 0; c < inner; c += kWidth) {
      const Vec sums = load(gradients.sums + c);
      for (int64_t p = 0; p < n; ++p) {
        const int64_t here = c * kPixels + p * kWidth;
        store(k_grad + here, load(k + here) * (load(k_grad + here) - sums));
      }
    }
    add_products(q_grad, 3 * inner, v, a.channels, n, qkv);
    project({3 * inner, 0}, q_grad, n, a.back, a.channels, g, a.back, 0);
    float* const to = image.x_grad + at;
    for (int64_t p = 0; p < n; ++p) {
      for (int64_t c = 0; c < a.channels; c += kWidth) {
        store(to + p * a.channels + c, load(g + c * kPixels + p * kWidth));
      }
    }
  }
}

}  // namespace

const AttentionGradientSteps RDDM_OF_SET(kAttentionGradients) = {
    RDDM_SET_NAME, kWidth, kPixels, &is_supported, &pack, &sum_projection, &turn, &apply};

}  // namespace rddm
