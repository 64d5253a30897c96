// The steps of the weights' gradient in AMX, compiled for processors that have it (see
// CMakeLists.txt). It includes no header whose functions another file might take over from it.
#include "amx/weight_gradients.h"

#include <immintrin.h>

#include "amx/digits.h"
#include "amx/products.h"

namespace rddm {
namespace {

constexpr int64_t kFour = 4, kSixteen = 16;  // pixels
constexpr int64_t kDepth = 64;               // pixels that the unit sums over at once
constexpr int64_t kChunk =
    4;  // steps of so many pixels, whose digits stay in the first-level cache
constexpr int64_t kMargin = 64;  // bytes in front of a channel's gradients

// The digits of 16 channels of four pixels: for each channel the four pixels' bytes.
struct FourPixels {
  __m512i digits[3];  // the high ones first
};

// A channel's first byte from `a`, the others from `b`.
RDDM_INLINE __m512i first_byte(__m512i a, __m512i b) {
  constexpr int kSelect = 0xca;  // the mask's bits choose
  return _mm512_ternarylogic_epi32(_mm512_set1_epi32(0xff), a, b, kSelect);
}

RDDM_INLINE __m512i joined(__m512i low, __m512i high) {
  return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
}

RDDM_INLINE FourPixels four_pixels(const Vec (&values)[4], Vec scale) {
  __m512i w[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    w[i] = _mm512_add_epi32(_mm512_cvtps_epi32(values[i] * scale), _mm512_set1_epi32(kDigitsBias));
  }
  const __m512i sign = _mm512_set1_epi8(char(0x80));
  const auto pair = [](__m512i a, __m512i b, unsigned byte) {
    if (byte == 0) return first_byte(a, _mm512_slli_epi32(b, 8));
    return first_byte(_mm512_srli_epi32(a, 8 * byte), _mm512_srli_epi32(b, 8 * (byte - 1)));
  };
  FourPixels result;
#pragma GCC unroll 3
  for (unsigned digit = 0; digit < 3; ++digit) {
    const unsigned byte = 2 - digit;
    result.digits[digit] =
        _mm512_xor_si512(sign, joined(pair(w[0], w[1], byte), pair(w[2], w[3], byte)));
  }
  return result;
}

// The pixels of a list of rows, by their place in it.
class Pixels {
 public:
  Pixels(const AmxWeightGradients& g, const float* images, int64_t channels, AmxRows rows)
      : images_(images), channels_(channels), height_(g.height), width_(g.width) {
    image_ = rows.first / (height_ + 1), y_ = rows.first % (height_ + 1);
  }

  // The channels of the next pixel, or null for a zero.
  const float* next() {
    const float* at = nullptr;
    if (x_ < width_ && y_ < height_) {
      at = images_ + ((image_ * height_ + y_) * width_ + x_) * channels_;
    }
    if (++x_ > width_) {
      x_ = 0;
      if (++y_ > height_) y_ = 0, ++image_;
    }
    return at;
  }

 private:
  const float* images_;
  int64_t channels_, height_, width_, image_, y_, x_ = 0;
};

RDDM_INLINE void load_four(const float* const (&pixels)[kFour], int64_t c, __mmask16 here,
                           Vec (&values)[kFour]) {
#pragma GCC unroll 4
  for (int i = 0; i < kFour; ++i) {
    values[i] = pixels[i] ? Vec(_mm512_maskz_loadu_ps(here, pixels[i] + c)) : Vec{};
  }
}

RDDM_INLINE __mmask16 channels_from(int64_t c, int64_t channels) {
  return __mmask16((1u << least(channels - c, kWidth)) - 1);
}

struct Places {
  int64_t rows, line, pixels;  // in whole steps
  int64_t tiles;               // of 16 channels of the image
  int64_t stride;              // between the gradients of two channels
  int64_t image;               // bytes of the image's digits

  Places(const AmxWeightGradients& g, int64_t rows) : rows(rows), line(g.line()) {
    pixels = divided(rows * line, kDepth) * kDepth;
    tiles = divided(g.channels, kTile);
    // An odd number of lines of the cache, or all 16 channels might share some of its sets.
    stride = (divided(kMargin + pixels + 2 * line + kDepth, 64) | 1) * 64;
    image = tiles * pixels / kDepth * kStep;
  }

  int64_t panel() const { return 3 * kTile * stride; }  // bytes of 16 channels' gradients
};

int64_t digits_size(const AmxWeightGradients& g, int64_t rows) {
  const Places places(g, rows);
  return places.image + divided(g.result_channels, kTile) * places.panel();
}

// [16 channels][64 pixels][digit][four pixels][channel][pixel]
void split_image(const AmxWeightGradients& g, AmxRows rows, const Places& places, Vec scale,
                 char* to) {
  Pixels pixels(g, g.x, g.channels, rows);
  const int64_t there = places.rows * places.line;
  const int64_t tile = places.pixels / kDepth * kStep;
  for (int64_t p = 0; p < places.pixels; p += kFour) {
    const float* four[kFour];
    for (int64_t i = 0; i < kFour; ++i) four[i] = p + i < there ? pixels.next() : nullptr;
    char* own = to + p / kDepth * kStep + p % kDepth * kTile;
    for (int64_t c = 0; c < g.channels; c += kTile, own += tile) {
      Vec values[kFour];
      load_four(four, c, channels_from(c, g.channels), values);
      const FourPixels split = four_pixels(values, scale);
      for (int digit = 0; digit < 3; ++digit) {
        _mm512_store_si512(own + digit * kTileBytes, split.digits[digit]);
      }
    }
  }
}

// Of panels of 16 channels: [panel][digit][channel][pixel], of one row more on both sides.
void split_gradient(const AmxWeightGradients& g, AmxRows rows, const Places& places, Vec scale,
                    int64_t first_panel, int64_t last_panel, char* to) {
  const int64_t before = rows.first > 0, after = rows.last < g.rows();
  Pixels pixels(g, g.grad, g.result_channels, {rows.first - before, rows.last + after});
  const int64_t skipped = before ? 0 : places.line;
  const int64_t end = places.line + (places.rows + after) * places.line;
  for (int64_t i = 0; i < (last_panel - first_panel) * 3 * kTile; ++i) {
    // The pixel in front of the first row is zero.
    _mm512_store_si512(to + i * places.stride, _mm512_setzero_si512());
  }
  for (int64_t p = 0; p < end; p += kSixteen) {
    const float* sixteen[4][kFour];
    for (int64_t i = 0; i < kSixteen; ++i) {
      sixteen[i / 4][i % 4] = p + i >= skipped && p + i < end ? pixels.next() : nullptr;
    }
    char* own = to + kMargin + p;
    for (int64_t c = first_panel * kTile; c < last_panel * kTile; c += kTile) {
      FourPixels split[4];
      for (int i = 0; i < 4; ++i) {
        Vec values[kFour];
        load_four(sixteen[i], c, channels_from(c, g.result_channels), values);
        split[i] = four_pixels(values, scale);
      }
      for (int digit = 0; digit < 3; ++digit, own += kTile * places.stride) {
        const auto fours = [&](int i) { return split[i].digits[digit]; };
        const __m512i a = _mm512_unpacklo_epi32(fours(0), fours(1));
        const __m512i b = _mm512_unpackhi_epi32(fours(0), fours(1));
        const __m512i c = _mm512_unpacklo_epi32(fours(2), fours(3));
        const __m512i d = _mm512_unpackhi_epi32(fours(2), fours(3));
        // Lane l of vector i has channel 4 l + i.
        const __m512i by_channel[] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c),
                                      _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)};
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          char* const at = own + i * places.stride;
          const int64_t lane = 4 * places.stride;
          const auto store_lane = [&](int64_t l, __m128i x) {
            _mm_store_si128(reinterpret_cast<__m128i*>(at + l * lane), x);
          };
          store_lane(0, _mm512_castsi512_si128(by_channel[i]));
          store_lane(1, _mm512_extracti32x4_epi32(by_channel[i], 1));
          store_lane(2, _mm512_extracti32x4_epi32(by_channel[i], 2));
          store_lane(3, _mm512_extracti32x4_epi32(by_channel[i], 3));
        }
      }
    }
  }
}

// Sums over n steps of pixels for 16 channels of the gradient and 32 of the image.
void multiply(const char* gradients, int64_t stride, const char* pixels, const char* other_pixels,
              int64_t n, int32_t (&sums)[2][3][kTile * kTile]) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  const int64_t digit = kTile * stride;
  for (int64_t i = 0; i < n; ++i, gradients += kDepth, pixels += kStep, other_pixels += kStep) {
    const char *const p = pixels, *const q = other_pixels;
    _tile_loadd(6, gradients + digit, stride);  // middle
    _tile_loadd(7, p, 64);
    _tile_dpbssd(2, 6, 7);
    _tile_loadd(7, q, 64);
    _tile_dpbssd(3, 6, 7);
    _tile_loadd(7, p + kTileBytes, 64);
    _tile_dpbssd(4, 6, 7);
    _tile_loadd(7, q + kTileBytes, 64);
    _tile_dpbssd(5, 6, 7);
    _tile_loadd(6, gradients, stride);  // high
    _tile_dpbssd(3, 6, 7);
    _tile_loadd(7, p + kTileBytes, 64);
    _tile_dpbssd(2, 6, 7);
    _tile_loadd(7, p + 2 * kTileBytes, 64);
    _tile_dpbssd(4, 6, 7);
    _tile_loadd(7, q + 2 * kTileBytes, 64);
    _tile_dpbssd(5, 6, 7);
    _tile_loadd(7, p, 64);
    _tile_dpbssd(0, 6, 7);
    _tile_loadd(7, q, 64);
    _tile_dpbssd(1, 6, 7);
    _tile_loadd(6, gradients + 2 * digit, stride);  // low
    _tile_dpbssd(5, 6, 7);
    _tile_loadd(7, p, 64);
    _tile_dpbssd(4, 6, 7);
  }
  _tile_stored(0, sums[0][0], 64);
  _tile_stored(2, sums[0][1], 64);
  _tile_stored(4, sums[0][2], 64);
  _tile_stored(1, sums[1][0], 64);
  _tile_stored(3, sums[1][1], 64);
  _tile_stored(5, sums[1][2], 64);
}

void add(const AmxWeightGradients& g, AmxRows rows, int64_t first_panel, int64_t last_panel,
         char* digits, float* weight, float* bias) {
  const Places places(g, rows.last - rows.first);
  const auto images_rows = [&](int64_t row) {  // that are in the list before `row`
    return row / (g.height + 1) * g.height + least(row % (g.height + 1), g.height);
  };
  const auto largest = [&](const float* images, int64_t channels, AmxRows of) {
    const int64_t first = images_rows(of.first) * g.width * channels;
    return largest_magnitude(images + first, images_rows(of.last) * g.width * channels - first);
  };
  const float x_largest = largest(g.x, g.channels, rows);
  const float grad_largest =
      largest(g.grad, g.result_channels, {most(rows.first - 1, 0), least(rows.last + 1, g.rows())});
  char* const gradients = digits + places.image;
  split_image(g, rows, places, all(scale_of(x_largest)), digits);
  split_gradient(g, rows, places, all(scale_of(grad_largest)), first_panel, last_panel, gradients);
  const float unit = unit_of(x_largest) * unit_of(grad_largest);
  const Vec high = all(unit * 0x1p32f), middle = high * 0x1p-8f, low = high * 0x1p-16f;
  const int64_t channels = g.channels, tile_size = places.pixels / kDepth * kStep;
  const Tiles tiles;
  alignas(64) int32_t sums[2][3][kTile * kTile];
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    const int64_t k = panel * kTile, n_k = least(kTile, g.result_channels - k);
    const char* const of_panel = gradients + (panel - first_panel) * places.panel() + kMargin;
    for (int64_t tile = 0; tile < places.tiles; tile += 2) {
      const char* const own = digits + tile * tile_size;
      const char* const other = tile + 1 < places.tiles ? own + tile_size : own;
      for (int64_t begin = 0; begin < places.pixels / kDepth; begin += kChunk) {
        const int64_t n = least(kChunk, places.pixels / kDepth - begin);
        for (int64_t tap = 0; tap < 9; ++tap) {
          // What the tap multiplies with this pixel is the result a row up to a row down.
          const int64_t shift = (2 - tap / 3) * places.line + 1 - tap % 3;
          multiply(of_panel + begin * kDepth + shift, places.stride, own + begin * kStep,
                   other + begin * kStep, n, sums);
          for (int j = 0; j < 2 && tile + j < places.tiles; ++j) {
            const int64_t c = (tile + j) * kTile;
            const __mmask16 here = channels_from(c, channels);
            float* to = weight + (k * 9 + tap) * channels + c;
            for (int64_t i = 0; i < n_k; ++i, to += 9 * channels) {
              const auto order = [&](int o) -> Vec {
                return _mm512_cvtepi32_ps(_mm512_load_si512(sums[j][o] + i * kTile));
              };
              const Vec before = _mm512_maskz_loadu_ps(here, to);
              _mm512_mask_storeu_ps(
                  to, here, before + order(0) * high + (order(1) * middle + order(2) * low));
            }
          }
        }
      }
    }
    const __mmask16 here = channels_from(k, g.result_channels);
    Vec sum = _mm512_maskz_loadu_ps(here, bias + k);
    const int64_t end = images_rows(rows.last) * g.width;
    for (int64_t p = images_rows(rows.first) * g.width; p < end; ++p) {
      sum += Vec(_mm512_maskz_loadu_ps(here, g.grad + p * g.result_channels + k));
    }
    _mm512_mask_storeu_ps(bias + k, here, sum);
  }
}

}  // namespace

const AmxWeightGradientSteps kAmxWeightGradients = {&digits_size, &add};

}  // namespace rddm
