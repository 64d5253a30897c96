// A band's values as digits for AMX. Compiled for processors that have it.
#pragma once

#include <immintrin.h>

#include "amx/convolution.h"
#include "vectors/vectors.h"

namespace rddm {
namespace {

constexpr int64_t kTile = 16;              // pixels, or output channels, of a tile
constexpr int64_t kTileBytes = 1024;       // 16 rows of 64 bytes
constexpr int64_t kDigit = kAmxBlock;      // bytes
constexpr int64_t kPixel = 3 * kDigit;     // bytes of a block of a pixel
constexpr int64_t kStep = 3 * kTileBytes;  // bytes of the weights of a block and a tap
constexpr float kLevels = 8355000.f;       // below 127 (256^2 + 256 + 1)
constexpr int kDigitsBias = 0x808080;      // makes digits from 0 to 255
constexpr float kSmallest = 1e-30f;        // of a largest magnitude: kLevels over it is finite

constexpr int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

// By what values are multiplied to be whole numbers, and what one of those stands for: NaN if the
// largest magnitude is not finite.
RDDM_INLINE float scale_of(float largest) {
  return kLevels / (largest > kSmallest ? largest : kSmallest);
}
RDDM_INLINE float unit_of(float largest) {
  const float kept = largest > kSmallest ? largest : kSmallest;
  return largest < __builtin_inff() ? kept / kLevels : __builtin_nanf("");
}

// Where a band's digits lie, in bytes.
struct Layout {
  bool has_copies;            // one for each column of taps
  int64_t line, copy, block;  // between rows, copies and blocks of channels

  Layout(const AmxConvolution& c, int64_t rows) : has_copies(c.is_flat() && c.border()) {
    line = (c.is_flat() ? c.width : c.width + 2) * kPixel;
    const int64_t all = (rows + 2 * c.border()) * line;
    copy = has_copies ? all : c.border() * kPixel;
    block = has_copies ? 3 * all : all;
  }
};

// A pixel's values of a block of channels.
struct Values {
  Vec v[kAmxBlock / kWidth];
};

// x sigmoid(x)
RDDM_INLINE Vec silu(Vec x) {
  const Vec e = exp_of(x < 0.f ? x : -x);
  return x * ((x < 0.f ? e : all(1.f)) / (e + 1.f));
}

// Where the bytes of 16 whole numbers go: the high digits first, then the middle and the low ones.
struct DigitOrder {
  alignas(64) uint8_t from[64] = {};

  constexpr DigitOrder() {
    for (int i = 0; i < 16; ++i) {
      for (int digit = 0; digit < 3; ++digit) from[16 * digit + i] = uint8_t(4 * i + 2 - digit);
    }
  }
};

constexpr DigitOrder kDigitOrder;

// The digits of 64 values, the high ones of all first.
RDDM_INLINE void store_digits(const Values& values, Vec scale, char* to) {
  const __m512i order = _mm512_load_si512(kDigitOrder.from);
  __m512i parts[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i whole = _mm512_cvtps_epi32(values.v[i] * scale);
    parts[i] =
        _mm512_permutexvar_epi8(order, _mm512_add_epi32(whole, _mm512_set1_epi32(kDigitsBias)));
  }
  const __m512i bias = _mm512_set1_epi8(char(0x80));
  const __m512i a = _mm512_shuffle_i32x4(parts[0], parts[1], 0x44);
  const __m512i b = _mm512_shuffle_i32x4(parts[2], parts[3], 0x44);
  const __m512i c = _mm512_shuffle_i32x4(parts[0], parts[1], 0xee);
  const __m512i d = _mm512_shuffle_i32x4(parts[2], parts[3], 0xee);
  _mm512_store_si512(to, _mm512_xor_si512(bias, _mm512_shuffle_i32x4(a, b, 0x88)));
  _mm512_store_si512(to + kDigit, _mm512_xor_si512(bias, _mm512_shuffle_i32x4(a, b, 0xdd)));
  _mm512_store_si512(to + 2 * kDigit, _mm512_xor_si512(bias, _mm512_shuffle_i32x4(c, d, 0x88)));
}

// Up to 16 channels of a pixel from channel c on, counted through both sources; zeros beyond them.
RDDM_INLINE Vec load_channels(const AmxConvolution& conv, int64_t pixel, int64_t c) {
  __m512 values = _mm512_setzero_ps();
  for (int source = 0; source < 2; ++source) {
    const int64_t channels = conv.source_channels[source];
    const int64_t own = c - source * conv.source_channels[0];
    if (own >= channels || own <= -kWidth) continue;
    // Lane i has the source's channel own + i.
    const unsigned until = channels - own >= kWidth ? 0xffffu : (1u << (channels - own)) - 1;
    const unsigned from = own < 0 ? 0xffffu << -own : 0xffffu;
    const float* const at = conv.sources[source] + pixel * channels + own;
    values = _mm512_mask_loadu_ps(values, __mmask16(until & from), at);
  }
  return values;
}

// The digits of a row of pixels' channels from c on, to `to` and the pixels behind it.
template <bool Activates>
void split_row(const AmxConvolution& conv, int64_t image, int64_t pixel, int64_t c, Vec scale,
               char* to) {
  const int64_t before = conv.source_channels[0];
  const bool second = c >= before;
  const bool is_whole = c + kAmxBlock <= (second ? conv.channels() : before);
  const int64_t channels = conv.source_channels[second];
  const float* from = conv.sources[second] + pixel * channels + c - (second ? before : 0);
  Values factors, terms;
  if constexpr (Activates) {
    const int64_t at = image * divided(before, kAmxBlock) * kAmxBlock + c;
    for (int i = 0; i < 4; ++i) {
      factors.v[i] = load(conv.before.factors + at + i * kWidth);
      terms.v[i] = load(conv.before.terms + at + i * kWidth);
    }
  }
  for (int64_t x = 0; x < conv.width; ++x, from += channels, to += kPixel) {
    Values values;
    if (is_whole) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) values.v[i] = load(from + i * kWidth);
    } else {
      for (int i = 0; i < 4; ++i) values.v[i] = load_channels(conv, pixel + x, c + i * kWidth);
    }
    if constexpr (Activates) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        values.v[i] = silu(values.v[i] * factors.v[i] + terms.v[i]);
      }
    }
    store_digits(values, scale, to);
  }
}

// The largest magnitude of n values. Of bits, whose order is that of magnitudes: NaN is the last.
float largest_magnitude(const float* x, int64_t n) {
  const __m512i sign = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512(), other = most;
  int64_t i = 0;
  for (; i + 2 * kWidth <= n; i += 2 * kWidth) {
    most = _mm512_max_epi32(most, _mm512_and_si512(sign, _mm512_loadu_si512(x + i)));
    other = _mm512_max_epi32(other, _mm512_and_si512(sign, _mm512_loadu_si512(x + i + kWidth)));
  }
  for (; i < n; i += kWidth) {
    const unsigned here = n - i >= kWidth ? 0xffffu : (1u << (n - i)) - 1;
    const __m512i own = _mm512_maskz_loadu_epi32(__mmask16(here), x + i);
    most = _mm512_max_epi32(most, _mm512_and_si512(sign, own));
  }
  const int bits = _mm512_reduce_max_epi32(_mm512_max_epi32(most, other));
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  return largest;
}

}  // namespace
}  // namespace rddm
