// The steps of the convolution in AMX, compiled for processors that have it (see CMakeLists.txt).
// It includes no header whose functions another file might take over from it.
#include "amx/convolution.h"

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "amx/digits.h"
#include "amx/products.h"

namespace rddm {
namespace {

bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!is_supported() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  // AMX-TILE, AMX-INT8 and AVX512-VBMI
  if (!(d >> 24 & 1) || !(d >> 25 & 1) || !(c >> 1 & 1)) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

int64_t packed_size(int64_t taps, int64_t result_channels, int64_t channels) {
  const int64_t panels = divided(result_channels, kAmxPanel);
  return panels * (kAmxPanel + divided(channels, kAmxBlock) * taps * kStep / 4);
}

// Reads a weight of 16 output channels.
class WeightLanes {
 public:
  WeightLanes(const PlainWeight& w, int64_t panel)
      : first_(w.data + panel * kAmxPanel * w.result_channel),
        w_(w),
        there_(least(kAmxPanel, w.result_channels - panel * kAmxPanel)),
        here_(__mmask16((1u << there_) - 1)) {
    const __m512i numbers = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    lanes_ = _mm512_mullo_epi32(numbers, _mm512_set1_epi32(int(w.result_channel)));
  }

  // Zero for input channels beyond the last.
  RDDM_INLINE __m512 load(int64_t channel, int64_t tap) const {
    const __mmask16 own = channel < w_.channels ? here_ : 0;
    const float* const at = first_ + channel * w_.channel + tap * w_.tap;
    if (w_.result_channel == 1) return _mm512_maskz_loadu_ps(own, at);
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), own, lanes_, at, 4);
  }

  // The largest magnitude of each output channel's weights.
  __m512 largest() const {
    alignas(64) float largest[kAmxPanel] = {};
    if (w_.is_by_result()) {
      const float* const start = w_.tap < 0 ? first_ + (w_.taps - 1) * w_.tap : first_;
      for (int64_t k = 0; k < there_; ++k) {
        largest[k] = largest_magnitude(start + k * w_.result_channel, w_.channels * w_.taps);
      }
      return _mm512_load_ps(largest);
    }
    const __m512i sign = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_setzero_si512();  // Of bits: NaN is the last.
    for (int64_t c = 0; c < w_.channels; ++c) {
      for (int64_t tap = 0; tap < w_.taps; ++tap) {
        most = _mm512_max_epi32(most, _mm512_and_si512(sign, _mm512_castps_si512(load(c, tap))));
      }
    }
    return _mm512_castsi512_ps(most);
  }

  int64_t there() const { return there_; }

 private:
  const float* first_;
  const PlainWeight& w_;
  int64_t there_;
  __mmask16 here_;
  __m512i lanes_;
};

void pack(const PlainWeight& w, int64_t panel, float* to) {
  const int64_t blocks = divided(w.channels, kAmxBlock), first = panel * kAmxPanel;
  const WeightLanes weights(w, panel);
  alignas(64) float scales[kAmxPanel] = {}, largest[kAmxPanel];
  _mm512_store_ps(largest, weights.largest());
  for (int64_t k = 0; k < kAmxPanel; ++k) {
    const bool is_there = k < weights.there();
    scales[k] = is_there ? scale_of(largest[k]) : 0;
    to[first + k] = is_there ? unit_of(largest[k]) : 0;
  }
  const __m512 scale = _mm512_load_ps(scales);
  char* bytes = reinterpret_cast<char*>(to + divided(w.result_channels, kAmxPanel) * kAmxPanel) +
                panel * blocks * w.taps * kStep;
  for (int64_t c = 0; c < blocks * kAmxBlock; c += kAmxBlock) {
    for (int64_t tap = 0; tap < w.taps; ++tap, bytes += kStep) {
      for (int64_t four = 0; four < kAmxBlock; four += 4) {
        __m512i digits[3] = {};  // middle, high, low: in the order of their use
        for (int i = 0; i < 4; ++i) {
          const __m512 values = weights.load(c + four + i, tap);
          const __m512i whole =
              _mm512_add_epi32(_mm512_cvtps_epi32(values * scale), _mm512_set1_epi32(kDigitsBias));
          constexpr unsigned kShifts[] = {8, 16, 0};
          for (int digit = 0; digit < 3; ++digit) {
            const __m512i byte =
                _mm512_and_si512(_mm512_srli_epi32(whole, kShifts[digit]), _mm512_set1_epi32(0xff));
            digits[digit] =
                _mm512_or_si512(digits[digit], _mm512_slli_epi32(byte, 8u * unsigned(i)));
          }
        }
        for (int digit = 0; digit < 3; ++digit) {
          _mm512_storeu_si512(bytes + digit * kTileBytes + four * 16,
                              _mm512_xor_si512(digits[digit], _mm512_set1_epi8(char(0x80))));
        }
      }
    }
  }
}

int64_t band_size(const AmxConvolution& conv, int64_t rows) {
  // The last tile of a band with few pixels reads beyond them.
  return divided(conv.channels(), kAmxBlock) * Layout(conv, rows).block + kTile * kPixel;
}

void split(const AmxConvolution& conv, AmxBand& band) {
  const int64_t begin = conv.first_row(band.number), end = conv.first_row(band.number + 1);
  const int64_t border = conv.border();
  const Layout layout(conv, end - begin);
  if (conv.largest) {
    band.largest = conv.largest[band.image];
  } else {
    const int64_t first = most(begin - border, 0), last = least(end + border, conv.height);
    const int64_t pixel = (band.image * conv.height + first) * conv.width;
    band.largest = 0;
    for (int source = 0; source < 2; ++source) {
      const int64_t channels = conv.source_channels[source];
      const float own = largest_magnitude(conv.sources[source] + pixel * channels,
                                          (last - first) * conv.width * channels);
      if (own > band.largest || own != own) band.largest = own;
    }
  }
  const Vec scale = all(scale_of(band.largest));
  const int64_t inner = conv.width * kPixel;
  const auto split_one = conv.before.factors ? split_row<true> : split_row<false>;
  for (int64_t block = 0; block < divided(conv.channels(), kAmxBlock); ++block) {
    for (int64_t y = begin - border; y < end + border; ++y) {
      char* const to = band.digits + block * layout.block + (y + border - begin) * layout.line;
      char* const own = to + layout.copy;  // the middle copy, or the pixel behind the border
      if (y >= 0 && y < conv.height) {
        const int64_t pixel = (band.image * conv.height + y) * conv.width;
        split_one(conv, band.image, pixel, block * kAmxBlock, scale, own);
      } else {
        __builtin_memset(own, 0, size_t(inner));
      }
      if (!border) continue;
      __builtin_memset(to, 0, kPixel);
      if (layout.has_copies) {
        char* const last = own + layout.copy;
        __builtin_memcpy(to + kPixel, own, size_t(inner - kPixel));
        __builtin_memcpy(last, own + kPixel, size_t(inner - kPixel));
        __builtin_memset(last + inner - kPixel, 0, kPixel);
      } else {
        __builtin_memset(own + inner, 0, kPixel);
      }
    }
  }
}

void products(const AmxConvolution& conv, const AmxBand& band, int64_t first_panel,
              int64_t last_panel) {
  const Tiles tiles;
  const int64_t first_row = conv.first_row(band.number);
  const int64_t rows = conv.first_row(band.number + 1) - first_row;
  const Layout layout(conv, rows);
  const int64_t blocks = divided(conv.channels(), kAmxBlock), results = conv.result_channels;
  const int64_t panels = divided(results, kAmxPanel);
  const char* const weights = reinterpret_cast<const char*>(conv.packed + panels * kAmxPanel);
  int64_t taps[9];
  for (int64_t i = 0; i < 9; ++i) taps[i] = i / 3 * layout.line + i % 3 * layout.copy;
  // A run of pixels is a row, or the whole band. Its last tile ends with its last pixel.
  const int64_t run = conv.is_flat() ? rows * conv.width : conv.width;
  const int64_t runs = conv.is_flat() ? 1 : rows;
  const int64_t run_tiles = divided(run, kTile), all_tiles = runs * run_tiles;
  float* const result = conv.result + (band.image * conv.height + first_row) * conv.width * results;
  const auto run_multiply = conv.taps == 9 ? multiply<9> : multiply<1>;
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    Finish finish(conv, band, panel);
    for (int64_t tile = 0; tile < all_tiles; tile += 2) {
      int64_t firsts[2];  // pixels of a run
      const char* at[2];
      for (int i = 0; i < 2; ++i) {
        const int64_t own = least(tile + i, all_tiles - 1);
        firsts[i] = least(own % run_tiles * kTile, most(run - kTile, 0));
        at[i] = band.digits + own / run_tiles * layout.line + firsts[i] * kPixel;
      }
      run_multiply(at[0], at[1], taps, blocks, layout.block,
                   weights + panel * blocks * conv.taps * kStep, finish);
      for (int i = 0; i < 2; ++i) {
        const int64_t number = tile + i, pixel = number / run_tiles * run + firsts[i];
        const int64_t again = number % run_tiles * kTile - firsts[i];
        if (number < all_tiles) {
          finish.begin(i, result + pixel * results + panel * kAmxPanel, least(kTile, run), again);
        } else {
          finish.begin(i, nullptr, 0, 0);
        }
      }
    }
    for (int part = 0; part < kParts; ++part) finish.part(part);
    if (conv.statistics) {
      AmxStatistics& s = conv.statistics[(band.image * conv.bands + band.number) * panels + panel];
      store(s.mean, finish.moments.mean);
      store(s.squares, finish.moments.squares);
      store(s.least, finish.moments.least_of);
      store(s.most, finish.moments.most_of);
    }
  }
  // Other threads may read the result when this one says that it is done.
  if (conv.past_cache) _mm_sfence();
}

void activate_and_add(AmxActivation a, const float* x, int64_t n, int64_t channels, float* y) {
  for (int64_t p = 0; p < n; ++p, x += channels, y += channels) {
    for (int64_t c = 0; c < channels; c += kWidth) {
      const __mmask16 here = __mmask16((1u << least(channels - c, kWidth)) - 1);
      const Vec own = _mm512_maskz_loadu_ps(here, y + c), rest = _mm512_maskz_loadu_ps(here, x + c);
      _mm512_mask_storeu_ps(y + c, here,
                            silu(own * load(a.factors + c) + load(a.terms + c)) + rest);
    }
  }
}

}  // namespace

const AmxSteps kAmx = {&has_amx,  &packed_size,     &pack, &band_size, &split,
                       &products, &activate_and_add};

}  // namespace rddm
