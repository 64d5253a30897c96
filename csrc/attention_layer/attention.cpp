// The two walks of linear attention, for the instruction set that this file is compiled for: once
// for each (see CMakeLists.txt). It includes no header whose functions another file might take over
// from it.
#include "attention_layer/attention.h"

#include "attention_layer/attention_pixels.h"

namespace rddm {
namespace {

typedef unsigned short Shorts __attribute__((vector_size(2 * kWidth), aligned(2)));
typedef unsigned Words __attribute__((vector_size(4 * kWidth)));

RDDM_INLINE Vec widened(const unsigned short* from) {
  const Words words = __builtin_convertvector(*reinterpret_cast<const Shorts*>(from), Words);
  return reinterpret_cast<Vec>(words << 16);
}

// To nearest even; NaN stays NaN.
RDDM_INLINE void store_rounded(unsigned short* to, Vec x) {
  const Words words = reinterpret_cast<Words>(x);
  const Words rounded = (words + 0x7fffu + ((words >> 16) & 1u)) >> 16;
  const Words kept = (words & 0x7fffffffu) > 0x7f800000u ? Words{} + 0x7fc0u : rounded;
  *reinterpret_cast<Shorts*>(to) = __builtin_convertvector(kept, Shorts);
}

template <bool Half>
RDDM_INLINE Vec load_image(const void* image, int64_t at) {
  if constexpr (Half) return widened(static_cast<const unsigned short*>(image) + at);
  return load(static_cast<const float*>(image) + at);
}

template <bool Half>
RDDM_INLINE void store_image(void* image, int64_t at, Vec x) {
  if constexpr (Half) {
    store_rounded(static_cast<unsigned short*>(image) + at, x);
  } else {
    store(static_cast<float*>(image) + at, x);
  }
}

// The pixels' values; with norms less their mean, divided by their standard deviation over the
// channels.
template <bool Half>
RDDM_INLINE void take(const Attention& a, const void* x, int64_t first, int64_t n, float* to) {
  for (int64_t p = 0; p < n; ++p) {
    const int64_t at = (first + p) * a.channels;
    if (!a.has_norms) {
      for (int64_t c = 0; c < a.channels; c += kWidth) {
        store(to + c * kPixels + p * kWidth, load_image<Half>(x, at + c));
      }
      continue;
    }
    Vec sum{}, squares{};
    for (int64_t c = 0; c < a.channels; c += kWidth) sum += load_image<Half>(x, at + c);
    const Vec mean = all(sum_of(sum) / float(a.channels));
    for (int64_t c = 0; c < a.channels; c += kWidth) {
      const Vec d = load_image<Half>(x, at + c) - mean;
      squares += d * d;
    }
    const Vec scale = all(1 / __builtin_sqrtf(sum_of(squares) / float(a.channels) + a.eps));
    for (int64_t c = 0; c < a.channels; c += kWidth) {
      store(to + c * kPixels + p * kWidth, (load_image<Half>(x, at + c) - mean) * scale);
    }
  }
}

// Where the pixels behind the block at `done` lie, as the address of what is fetched ahead.
template <bool Half>
RDDM_INLINE const float* next_pixels(const Attention& a, const AttentionImage& image,
                                     int64_t done) {
  const int64_t at = (done + kPixels) * a.channels;
  return reinterpret_cast<const float*>(static_cast<const char*>(image.x) + at * (Half ? 2 : 4));
}

void scale_row(float* row, int64_t n, float scale) {
  for (int64_t i = 0; i < n; i += kWidth) store(row + i, load(row + i) * scale);
}

template <bool Half>
void gather_pixels(const Attention& a, const AttentionImage& image, int64_t first, int64_t last,
                   AttentionContext context) {
  const int64_t inner = a.inner();
  float* const v =
      context.values + a.heads * a.features * a.features;  // scratch behind the context
  float* const keys = v + a.channels * kPixels;
  for (int64_t c = 0; c < inner; c += kWidth) store(context.largest + c, all(-3e38f));
  for (int64_t done = first; done < last; done += kPixels) {
    const int64_t n = least(kPixels, last - done);
    take<Half>(a, image.x, done, n, v);
    project({a.channels, 0}, v, n, a.keys_values, 2 * inner, keys,
            next_pixels<Half>(a, image, done), kPixels * a.channels / (Half ? 2 : 1));
    for (int64_t c = 0; c < inner; c += kWidth) {
      float* const own = keys + c * kPixels;
      const Vec before = load(context.largest + c);
      Vec largest = before, total{};
      for (int64_t p = 0; p < n; ++p) largest = larger(load(own + p * kWidth), largest);
      for (int64_t p = 0; p < n; ++p) {
        const Vec e = exp_of(load(own + p * kWidth) - largest);
        store(own + p * kWidth, e);
        total += e;
      }
      const Vec shrink = exp_of(before - largest);
      store(context.total + c, load(context.total + c) * shrink + total);
      store(context.largest + c, largest);
      for (int64_t i = 0; i < kWidth; ++i) {
        if (shrink[i] != 1) {
          scale_row(context.values + (c + i) * a.features, a.features, shrink[i]);
        }
      }
    }
    const float* const values = keys + inner * kPixels;
    for (int64_t c = 0; c < inner; c += kAtOnce) {
      const float* const own = keys + c / kWidth * kGroup + c % kWidth;
      const int64_t head = c / a.features * a.features;
      for (int64_t e = 0; e < a.features; e += kPanel) {
        outer_products<kAtOnce, 2>(own, values + (head + e) * kPixels, n,
                                   context.values + c * a.features + e, a.features);
      }
    }
  }
}

void gather(const Attention& a, const AttentionImage& image, int64_t first, int64_t last,
            AttentionContext context) {
  image.is_bfloat16 ? gather_pixels<true>(a, image, first, last, context)
                    : gather_pixels<false>(a, image, first, last, context);
}

void join(const Attention& a, AttentionContext context, AttentionContext other) {
  for (int64_t c = 0; c < a.inner(); c += kWidth) {
    const Vec mine = load(context.largest + c), theirs = load(other.largest + c);
    const Vec largest = larger(mine, theirs);
    const Vec shrink = exp_of(mine - largest), shrink_other = exp_of(theirs - largest);
    store(context.largest + c, largest);
    store(context.total + c,
          load(context.total + c) * shrink + load(other.total + c) * shrink_other);
    for (int64_t i = 0; i < kWidth; ++i) {
      float* const row = context.values + (c + i) * a.features;
      const float* const other_row = other.values + (c + i) * a.features;
      for (int64_t e = 0; e < a.features; e += kWidth) {
        store(row + e, load(row + e) * shrink[i] + load(other_row + e) * shrink_other[i]);
      }
    }
  }
}

void finish(const Attention& a, AttentionContext context, float* to) {
  const float* out = a.out;
  for (int64_t panel = 0; panel < a.channels; panel += kPanel, out += a.inner() * kPanel) {
    for (int64_t c = 0; c < a.inner(); ++c, to += kPanel) {
      const float* const values = context.values + c * a.features;
      const float* const weights = out + c / a.features * a.features * kPanel;
      Vec first{}, second{};
      for (int64_t e = 0; e < a.features; ++e) {
        first += values[e] * load(weights + e * kPanel);
        second += values[e] * load(weights + e * kPanel + kWidth);
      }
      const float scale = a.scale / context.total[c];
      store(to, first * scale);
      store(to + kWidth, second * scale);
    }
  }
}

template <bool Half>
void apply_pixels(const Attention& a, const AttentionImage& image, int64_t first, int64_t last,
                  const float* projection, float* scratch) {
  float* const v = scratch;
  float* const queries = v + (a.channels + kPanel - 1) / kPanel * kPanel * kPixels;
  for (int64_t done = first; done < last; done += kPixels) {
    const int64_t n = least(kPixels, last - done);
    take<Half>(a, image.x, done, n, v);
    project({a.channels, 0}, v, n, a.queries, a.inner(), queries, next_pixels<Half>(a, image, done),
            kPixels * a.channels / (Half ? 2 : 1));
    softmax(a.inner(), a.features, n, queries);
    project({a.inner(), 0}, queries, n, projection, a.channels, v, projection, 0);
    for (int64_t p = 0; p < n; ++p) {
      float* const own = v + p * kWidth;
      const int64_t at = (done + p) * a.channels;
      if (!a.has_norms) {
        for (int64_t c = 0; c < a.channels; c += kWidth) {
          store_image<Half>(image.result, at + c, load(own + c * kPixels) + load(a.bias + c));
        }
        continue;
      }
      Vec sum{}, squares{};
      for (int64_t c = 0; c < a.channels; c += kWidth) {
        const Vec y = load(own + c * kPixels) + load(a.bias + c);
        store(own + c * kPixels, y);
        sum += y;
      }
      const Vec mean = all(sum_of(sum) / float(a.channels));
      for (int64_t c = 0; c < a.channels; c += kWidth) {
        const Vec d = load(own + c * kPixels) - mean;
        squares += d * d;
      }
      const Vec scale = all(1 / __builtin_sqrtf(sum_of(squares) / float(a.channels) + a.eps));
      for (int64_t c = 0; c < a.channels; c += kWidth) {
        const Vec y = (load(own + c * kPixels) - mean) * scale * load(a.gain + c);
        store_image<Half>(image.result, at + c, y + load_image<Half>(image.x, at + c));
      }
    }
  }
}

void apply(const Attention& a, const AttentionImage& image, int64_t first, int64_t last,
           const float* projection, float* scratch) {
  image.is_bfloat16 ? apply_pixels<true>(a, image, first, last, projection, scratch)
                    : apply_pixels<false>(a, image, first, last, projection, scratch);
}

}  // namespace

const AttentionSteps RDDM_OF_SET(kAttention) = {
    RDDM_SET_NAME, kWidth, kPixels, &is_supported, &pack_panels, &gather, &join, &finish, &apply};

}  // namespace rddm
