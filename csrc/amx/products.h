// The products of a band's digits with those of the weights in AMX, and the results that they make.
// Compiled for processors that have it.
#pragma once

#include "amx/digits.h"

namespace rddm {
namespace {

// All eight tiles have 16 rows of 64 bytes. In memory: GCC 12 would not store all of a local one.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

const TileShapes kTileShapes;

struct Tiles {
  Tiles() { _tile_loadconfig(&kTileShapes); }
  ~Tiles() { _tile_release(); }
};

// The statistics of a panel's results so far; Chan's formula adds n more.
struct Moments {
  Vec mean{}, squares{}, least_of = all(__builtin_inff()), most_of = all(-__builtin_inff());
  float count = 0;

  RDDM_INLINE void add(const Vec* y, int64_t n) {
    if (n <= 0) return;
    Vec sum{}, own_squares{};
    for (int64_t i = 0; i < n; ++i) {
      sum += y[i];
      least_of = _mm512_min_ps(y[i], least_of);
      most_of = _mm512_max_ps(y[i], most_of);
    }
    const Vec own = sum / float(n);
    for (int64_t i = 0; i < n; ++i) own_squares += (y[i] - own) * (y[i] - own);
    const Vec apart = own - mean;
    const float total = count + float(n);
    mean += apart * (float(n) / total);
    squares += own_squares + apart * apart * (count * float(n) / total);
    count = total;
  }
};

constexpr int kParts = 9;  // in which results are finished

// Turns the sums of two tiles of pixels into results, a part at a time: the unit multiplies the
// next tiles meanwhile.
class Finish {
 public:
  alignas(64) int32_t sums[2][3][kTile * kTile];  // of each tile by the order of the products

  Finish(const AmxConvolution& conv, const AmxBand& band, int64_t panel)
      : channels_(conv.result_channels),
        adds_(conv.added.factors),
        wants_moments_(conv.statistics) {
    const int64_t k = panel * kAmxPanel, channels = least(kAmxPanel, channels_ - k);
    high_ = load(conv.packed + k) * all(unit_of(band.largest) * 0x1p32f);
    middle_ = high_ * 0x1p-8f, low_ = high_ * 0x1p-16f;
    bias_ = !conv.bias          ? Vec{}
            : channels < kWidth ? load_some(conv.bias + k, channels)
                                : load(conv.bias + k);
    here_ = __mmask16((1u << channels) - 1);
    past_cache_ = conv.past_cache && channels == kWidth;
    if (adds_) {
      const int64_t at = band.image * divided(channels_, kAmxBlock) * kAmxBlock + k;
      factors_ = load(conv.added.factors + at), terms_ = load(conv.added.terms + at);
    }
  }

  // Of tile i the first n rows are results, from `to` on; the tile before has `again` of them too.
  void begin(int i, float* to, int64_t n, int64_t again) {
    to_[i] = to, n_[i] = n, again_[i] = again;
  }

  RDDM_INLINE void part(int number) {
    if (number == kParts - 1) {
      if (wants_moments_) {
        for (int i = 0; i < 2; ++i) moments.add(y_[i] + again_[i], n_[i] - again_[i]);
      }
      return;
    }
    const int i = number / 4;
    for (int64_t p = number % 4 * 4; p < number % 4 * 4 + 4; ++p) {
      const auto order = [&](int o) -> Vec {
        return _mm512_cvtepi32_ps(_mm512_load_si512(sums[i][o] + p * kTile));
      };
      Vec y = order(0) * high_ + (order(1) * middle_ + (order(2) * low_ + bias_));
      y_[i][p] = y;
      if (p < again_[i] || p >= n_[i]) continue;
      float* const to = to_[i] + p * channels_;
      if (adds_) y += silu(Vec(_mm512_maskz_loadu_ps(here_, to)) * factors_ + terms_);
      past_cache_ ? store_past_cache(to, y) : _mm512_mask_storeu_ps(to, here_, y);
    }
  }

  Moments moments;

 private:
  Vec high_, middle_, low_, bias_, factors_, terms_;
  Vec y_[2][kTile];
  int64_t channels_;
  float* to_[2] = {nullptr, nullptr};
  int64_t n_[2] = {0, 0}, again_[2] = {0, 0};
  __mmask16 here_;
  bool past_cache_, adds_, wants_moments_;
};

// 32 pixels by 16 output channels: sums over all input channels and taps, by the order of the
// digits' products. Tiles 0 and 1 sum high by high digits, 2 and 3 high by middle ones, 4 and 5
// high by low and middle by middle ones. At least three products lie between two that add to the
// same tile. The results of the tiles before are finished on the way.
template <int Taps>
void multiply(const char* pixels, const char* other_pixels, const int64_t (&taps)[9],
              int64_t blocks, int64_t block, const char* weights, Finish& finish) {
  [[maybe_unused]] int64_t part = 0;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (int64_t b = 0; b < blocks; ++b, pixels += block, other_pixels += block) {
    for (int tap = 0; tap < Taps; ++tap, weights += kStep) {
      const char *const p = pixels + taps[tap], *const q = other_pixels + taps[tap];
      _tile_loadd(7, weights, 64);  // middle
      _tile_loadd(6, p, kPixel);
      _tile_dpbssd(2, 6, 7);
      _tile_loadd(6, q, kPixel);
      _tile_dpbssd(3, 6, 7);
      _tile_loadd(6, p + kDigit, kPixel);
      _tile_dpbssd(4, 6, 7);
      _tile_loadd(6, q + kDigit, kPixel);
      _tile_dpbssd(5, 6, 7);
      _tile_loadd(7, weights + kTileBytes, 64);  // high
      _tile_dpbssd(3, 6, 7);
      _tile_loadd(6, p + kDigit, kPixel);
      _tile_dpbssd(2, 6, 7);
      _tile_loadd(6, p + 2 * kDigit, kPixel);
      _tile_dpbssd(4, 6, 7);
      _tile_loadd(6, q + 2 * kDigit, kPixel);
      _tile_dpbssd(5, 6, 7);
      _tile_loadd(6, p, kPixel);
      _tile_dpbssd(0, 6, 7);
      _tile_loadd(6, q, kPixel);
      _tile_dpbssd(1, 6, 7);
      _tile_loadd(7, weights + 2 * kTileBytes, 64);  // low
      _tile_dpbssd(5, 6, 7);
      _tile_loadd(6, p, kPixel);
      _tile_dpbssd(4, 6, 7);
      if constexpr (Taps == 9) {
        if (b == 0) finish.part(tap);
      } else {
        // All in as many steps as there are.
        for (const int64_t end = (b + 1) * kParts / blocks; part < end; ++part) {
          finish.part(int(part));
        }
      }
    }
  }
  _tile_stored(0, finish.sums[0][0], 64);
  _tile_stored(2, finish.sums[0][1], 64);
  _tile_stored(4, finish.sums[0][2], 64);
  _tile_stored(1, finish.sums[1][0], 64);
  _tile_stored(3, finish.sums[1][1], 64);
  _tile_stored(5, finish.sums[1][2], 64);
}

}  // namespace
}  // namespace rddm
