// The steps of the convolution in AMX, compiled for processors that have it (see CMakeLists.txt).
// It includes no header whose functions another file might take over from it.
#include "conv3x3/amx.h"

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

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

// Where a band's digits lie, in bytes.
struct Layout {
  bool copies;
  int64_t line, copy, block;  // between rows, copies and blocks of channels

  Layout(const AmxConvolution& c, int64_t rows) : copies(c.has_copies()) {
    line = (copies ? c.width : c.width + 2) * kPixel;
    copy = copies ? (rows + 2) * line : kPixel;
    block = copies ? 3 * copy : (rows + 2) * line;
  }
};

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
      factors.v[i] = load(conv.factors + at + i * kWidth);
      terms.v[i] = load(conv.terms + at + i * kWidth);
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
      : channels_(conv.result_channels), wants_moments_(conv.statistics) {
    const int64_t k = panel * kAmxPanel, channels = least(kAmxPanel, channels_ - k);
    const bool is_finite = band.largest < __builtin_inff();
    const float largest = band.largest > kSmallest ? band.largest : kSmallest;
    high_ =
        load(conv.packed + k) * all(is_finite ? largest / kLevels * 0x1p32f : __builtin_nanf(""));
    middle_ = high_ * 0x1p-8f, low_ = high_ * 0x1p-16f;
    bias_ = !conv.bias          ? Vec{}
            : channels < kWidth ? load_some(conv.bias + k, channels)
                                : load(conv.bias + k);
    here_ = __mmask16((1u << channels) - 1);
    past_cache_ = conv.past_cache && channels == kWidth;
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
      const Vec y = order(0) * high_ + (order(1) * middle_ + (order(2) * low_ + bias_));
      y_[i][p] = y;
      if (p >= n_[i]) continue;
      float* const to = to_[i] + p * channels_;
      past_cache_ ? store_past_cache(to, y) : _mm512_mask_storeu_ps(to, here_, y);
    }
  }

  Moments moments;

 private:
  Vec high_, middle_, low_, bias_;
  Vec y_[2][kTile];
  int64_t channels_;
  float* to_[2] = {nullptr, nullptr};
  int64_t n_[2] = {0, 0}, again_[2] = {0, 0};
  __mmask16 here_;
  bool past_cache_, wants_moments_;
};

// 32 pixels by 16 output channels: sums over all input channels and taps, by the order of the
// digits' products. Tiles 0 and 1 sum high by high digits, 2 and 3 high by middle ones, 4 and 5
// high by low and middle by middle ones. At least three products lie between two that add to the
// same tile. The results of the tiles before are finished on the way.
RDDM_INLINE void multiply(const char* pixels, const char* other_pixels, const int64_t (&taps)[9],
                          int64_t blocks, int64_t block, const char* weights, Finish& finish) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (int64_t b = 0; b < blocks; ++b, pixels += block, other_pixels += block) {
    for (int tap = 0; tap < 9; ++tap, weights += kStep) {
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
      if (b == 0) finish.part(tap);
    }
  }
  _tile_stored(0, finish.sums[0][0], 64);
  _tile_stored(2, finish.sums[0][1], 64);
  _tile_stored(4, finish.sums[0][2], 64);
  _tile_stored(1, finish.sums[1][0], 64);
  _tile_stored(3, finish.sums[1][1], 64);
  _tile_stored(5, finish.sums[1][2], 64);
}

bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!is_supported() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  // AMX-TILE, AMX-INT8 and AVX512-VBMI
  if (!(d >> 24 & 1) || !(d >> 25 & 1) || !(c >> 1 & 1)) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

int64_t packed_size(int64_t result_channels, int64_t channels) {
  const int64_t panels = divided(result_channels, kAmxPanel);
  return panels * (kAmxPanel + divided(channels, kAmxBlock) * 9 * kStep / 4);
}

void pack(const float* weight, int64_t result_channels, int64_t channels, float* to) {
  const int64_t panels = divided(result_channels, kAmxPanel);
  char* bytes = reinterpret_cast<char*>(to + panels * kAmxPanel);
  for (int64_t first = 0; first < panels * kAmxPanel; first += kAmxPanel) {
    double scales[kAmxPanel] = {};
    for (int64_t k = 0; k < kAmxPanel; ++k) {
      const bool is_there = first + k < result_channels;
      const float* const own = weight + (first + k) * channels * 9;
      const float largest = is_there ? largest_magnitude(own, channels * 9) : 0.f;
      const float kept = largest > kSmallest ? largest : kSmallest;
      scales[k] = double(kLevels) / double(kept);
      to[first + k] = largest < __builtin_inff() ? kept / kLevels : __builtin_nanf("");
    }
    for (int64_t block = 0; block < channels; block += kAmxBlock) {
      for (int64_t tap = 0; tap < 9; ++tap, bytes += kStep) {
        for (int64_t c = 0; c < kAmxBlock; ++c) {
          for (int64_t k = 0; k < kAmxPanel; ++k) {
            const bool is_there = first + k < result_channels && block + c < channels;
            const double value =
                is_there ? double(weight[((first + k) * channels + block + c) * 9 + tap]) : 0;
            const int whole = int(__builtin_lrint(value * scales[k])) + kDigitsBias;
            char* const at = bytes + c / 4 * 64 + k * 4 + c % 4;
            at[0] = char(whole >> 8 ^ 0x80);  // middle, high, low: in the order of their use
            at[kTileBytes] = char(whole >> 16 ^ 0x80);
            at[2 * kTileBytes] = char(whole ^ 0x80);
          }
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
  const Layout layout(conv, end - begin);
  if (conv.largest) {
    band.largest = conv.largest[band.image];
  } else {
    const int64_t first = most(begin - 1, 0), last = least(end + 1, conv.height);
    const int64_t pixel = (band.image * conv.height + first) * conv.width;
    band.largest = 0;
    for (int source = 0; source < 2; ++source) {
      const int64_t channels = conv.source_channels[source];
      const float own = largest_magnitude(conv.sources[source] + pixel * channels,
                                          (last - first) * conv.width * channels);
      if (own > band.largest || own != own) band.largest = own;
    }
  }
  const Vec scale = all(kLevels / (band.largest > kSmallest ? band.largest : kSmallest));
  const int64_t inner = conv.width * kPixel;
  for (int64_t block = 0; block < divided(conv.channels(), kAmxBlock); ++block) {
    for (int64_t y = begin - 1; y <= end; ++y) {
      char* const to = band.digits + block * layout.block + (y + 1 - begin) * layout.line;
      char* const own = to + layout.copy;  // the middle copy, or the pixel behind the border
      if (y >= 0 && y < conv.height) {
        const int64_t pixel = (band.image * conv.height + y) * conv.width;
        const auto row = conv.factors ? split_row<true> : split_row<false>;
        row(conv, band.image, pixel, block * kAmxBlock, scale, own);
      } else {
        __builtin_memset(own, 0, size_t(inner));
      }
      __builtin_memset(to, 0, kPixel);
      if (layout.copies) {
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
  const int64_t run = layout.copies ? rows * conv.width : conv.width;
  const int64_t runs = layout.copies ? 1 : rows;
  const int64_t run_tiles = divided(run, kTile), all_tiles = runs * run_tiles;
  float* const result = conv.result + (band.image * conv.height + first_row) * conv.width * results;
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
      multiply(at[0], at[1], taps, blocks, layout.block, weights + panel * blocks * 9 * kStep,
               finish);
      for (int i = 0; i < 2; ++i) {
        const int64_t pixel = (tile + i) / run_tiles * run + firsts[i];
        const int64_t again = (tile + i) % run_tiles * kTile - firsts[i];
        const int64_t n = tile + i < all_tiles ? least(kTile, run) : 0;
        finish.begin(i, result + pixel * results + panel * kAmxPanel, n, again);
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

}  // namespace

const AmxSteps kAmx = {&has_amx, &packed_size, &pack, &band_size, &split, &products};

}  // namespace rddm
