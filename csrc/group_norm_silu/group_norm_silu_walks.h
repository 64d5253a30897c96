// The two walks of group_norm_silu on the CPU: one for the statistics, one that normalises and
// activates.
//
// Both walks take pieces that stay in the cache. Two passes over a piece give its mean and its sum
// of squared deviations. Chan's formula joins the pieces in float64, in an order that does not
// depend on the threads.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "common/cpu_results.h"
#include "common/dispatch.h"
#include "group_norm_silu/group_norm_silu.h"
#include "group_norm_silu/narrow_activation.h"

namespace rddm {
namespace {

// Values per piece: 32 KiB in float32. Of two-byte values, two pieces in float32 stay in the
// first-level cache.
constexpr int64_t kPiece = 8192, kNarrowPiece = 2048;

// sums[c] of x[p][c] over n pixels.
RDDM_CLONES void sum_pixels(const float* __restrict x, int64_t n, int64_t channels,
                            float* __restrict sums) {
  std::fill_n(sums, channels, 0.f);
  int64_t p = 0;
  for (; p + 4 <= n; p += 4) {
    const float* const row = x + p * channels;
    for (int64_t c = 0; c < channels; ++c) {
      sums[c] += (row[c] + row[c + channels]) + (row[c + 2 * channels] + row[c + 3 * channels]);
    }
  }
  for (; p < n; ++p) {
    for (int64_t c = 0; c < channels; ++c) sums[c] += x[p * channels + c];
  }
}

RDDM_INLINE float square(float x) { return x * x; }

// sums[c] of (x[p][c] - means[c])^2 over n pixels.
RDDM_CLONES void sum_squares(const float* __restrict x, int64_t n, int64_t channels,
                             const float* __restrict means, float* __restrict sums) {
  std::fill_n(sums, channels, 0.f);
  int64_t p = 0;
  for (; p + 4 <= n; p += 4) {
    const float* const row = x + p * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float m = means[c];
      sums[c] += (square(row[c] - m) + square(row[c + channels] - m)) +
                 (square(row[c + 2 * channels] - m) + square(row[c + 3 * channels] - m));
    }
  }
  for (; p < n; ++p) {
    for (int64_t c = 0; c < channels; ++c) sums[c] += square(x[p * channels + c] - means[c]);
  }
}

// The sum of n adjacent values, computed as if they were pixels of 16 channels.
Moments moments_of_run(const float* x, int64_t n) {
  constexpr int64_t kLanes = 16;
  const int64_t whole = n / kLanes * kLanes;
  float lanes[kLanes], means[kLanes];
  const auto total = [&](auto term) {
    double sum = 0;
    for (const float lane : lanes) sum += lane;
    for (int64_t i = whole; i < n; ++i) sum += term(x[i]);
    return sum;
  };
  sum_pixels(x, n / kLanes, kLanes, lanes);
  const double mean = total([](float value) { return value; }) / double(n);
  std::fill_n(means, kLanes, float(mean));
  sum_squares(x, n / kLanes, kLanes, means, lanes);
  return {double(n), mean, total([&](float value) { return square(value - float(mean)); })};
}

// y[p][c] = silu(factors[c] x[p][c] + terms[c]), plus rest[p][c] if there is a residual.
template <bool Adds>
RDDM_CLONES void activate(const float* __restrict x, const float* __restrict factors,
                          const float* __restrict terms, const float* __restrict rest, int64_t n,
                          int64_t channels, float* __restrict y) {
  for (int64_t p = 0; p < n; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t i = p * channels + c;
      y[i] = silu(factors[c] * x[i] + terms[c]);
      if constexpr (Adds) y[i] += rest[i];
    }
  }
}

// A tensor's values in float32, a piece at a time.
template <class Storage>
class Piece {
 public:
  explicit Piece(const Storage* data, int64_t size)
      : data_(data), buffer_(std::is_same_v<Storage, float> || !data ? 0 : size) {}

  const float* at(int64_t begin, int64_t n) {
    if constexpr (std::is_same_v<Storage, float>) {
      return data_ ? data_ + begin : nullptr;
    } else {
      if (!data_) return nullptr;
      widen(data_ + begin, buffer_.data(), n);
      return buffer_.data();
    }
  }

 private:
  const Storage* data_;
  std::vector<float> buffer_;
};

// How an image is cut: into `planes` stretches of memory of `pixels` times `channels` values each.
// A piece is a run of pixels. A plane is a sample if channels-last, else one channel of a sample.
struct Cut {
  int64_t samples, all_channels, planes, pixels, channels, piece, pieces;

  Cut(const Tensor& x, const PixelLayout& layout) : samples(x.size(0)), all_channels(x.size(1)) {
    const int64_t numel = x.numel();
    channels = layout.channels;
    planes = channels == 1 ? samples * all_channels : samples;
    pixels = numel / planes / channels;
    const int64_t values = x.scalar_type() == ScalarType::Float ? kPiece : kNarrowPiece;
    piece = std::max<int64_t>(1, values / channels);
    pieces = (pixels + piece - 1) / piece;
  }
};

struct GroupNormInputs {
  const Tensor &x, &weight, &bias;
  const std::optional<Tensor>&x_bias, &scale_shift;
  int64_t groups;
  double eps;
};

// The factor and the term of every sample's channels, from the statistics of their group.
std::vector<Affine> affines(const GroupNormInputs& in, const std::vector<Moments>& statistics) {
  const int64_t samples = in.x.size(0), channels = in.x.size(1), of_group = channels / in.groups;
  const float* const weight = static_cast<const float*>(in.weight.const_data_ptr());
  const float* const bias = static_cast<const float*>(in.bias.const_data_ptr());
  const float* const x_bias = data_of<float>(in.x_bias);
  const float* const table = data_of<float>(in.scale_shift);
  const int64_t table_stride = table && in.scale_shift->size(0) > 1 ? 2 * channels : 0;
  std::vector<Affine> all(samples * channels);
  for (int64_t n = 0; n < samples; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      const Moments& m = statistics[n * in.groups + c / of_group];
      const float rstd = float(1.0 / std::sqrt(m.squares / m.count + in.eps));
      const float* const row = table ? table + n * table_stride : nullptr;
      // Of x without its bias, so that a walk multiplies and adds once.
      const float mean = float(m.mean - (x_bias ? x_bias[c] : 0));
      all[n * channels + c] =
          normalised(mean, rstd, weight[c], bias[c], row ? row[c] : 0, row ? row[channels + c] : 0);
    }
  }
  return all;
}

// Of every sample's groups.
template <class Storage>
std::vector<Moments> statistics_of(const GroupNormInputs& in, const Tensor& x, const Cut& cut) {
  const Storage* const data = static_cast<const Storage*>(x.const_data_ptr());
  const int64_t values = cut.piece * cut.channels, of_group = cut.all_channels / in.groups;
  const int64_t groups = cut.channels == 1 ? 1 : in.groups;  // per plane
  const float* const x_bias = data_of<float>(in.x_bias);
  const auto bias_of = [&](int64_t channel) { return x_bias ? x_bias[channel] : 0.f; };

  // One per plane, piece and group.
  std::vector<Moments> parts(cut.planes * cut.pieces * groups);
  torch::stable::parallel_for(0, cut.planes * cut.pieces, 1, [&](int64_t first, int64_t last) {
    Piece<Storage> source(data, values);
    std::vector<float> sums(cut.channels), means(cut.channels);
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % cut.pieces * cut.piece;
      const int64_t n = std::min(cut.piece, cut.pixels - begin), count = cut.channels / groups;
      const float* const piece =
          source.at((i / cut.pieces * cut.pixels + begin) * cut.channels, n * cut.channels);
      Moments* const of = &parts[i * groups];
      if (cut.channels == 1) {
        of[0] = moments_of_run(piece, n);
        of[0].mean += bias_of(i / cut.pieces % cut.all_channels);
        continue;
      }
      sum_pixels(piece, n, cut.channels, sums.data());
      for (int64_t g = 0; g < groups; ++g) {
        double total = 0;
        for (int64_t c = g * count; c < (g + 1) * count; ++c) {
          total += sums[c] + double(n) * bias_of(c);
        }
        of[g] = {double(n * count), total / double(n * count), 0};
        for (int64_t c = g * count; c < (g + 1) * count; ++c) {
          means[c] = float(of[g].mean - bias_of(c));
        }
      }
      sum_squares(piece, n, cut.channels, means.data(), sums.data());
      for (int64_t g = 0; g < groups; ++g) {
        for (int64_t c = g * count; c < (g + 1) * count; ++c) of[g].squares += sums[c];
      }
    }
  });
  std::vector<Moments> statistics(cut.samples * in.groups);
  for (int64_t plane = 0; plane < cut.planes; ++plane) {
    const int64_t sample = cut.channels == 1 ? plane / cut.all_channels : plane;
    const int64_t group = cut.channels == 1 ? plane % cut.all_channels / of_group : 0;
    for (int64_t i = plane * cut.pieces; i < (plane + 1) * cut.pieces; ++i) {
      for (int64_t g = 0; g < groups; ++g) {
        statistics[sample * in.groups + group + g].join(parts[i * groups + g]);
      }
    }
  }
  return statistics;
}

// The loop of narrow_activation.h, or null.
template <class Storage>
NarrowActivation::Walk narrow_walk() {
  if (sizeof(Storage) != 2) return nullptr;
  static const NarrowActivation& loops =
      fastest<NarrowActivation>(RDDM_EVERY_SET(kNarrowActivation));
  return loops.walk(std::is_same_v<Storage, BFloat16>);
}

template <class Storage>
void activate_all(const std::vector<Affine>& affine, const Tensor& x,
                  const std::optional<Tensor>& residual, const Cut& cut, Tensor& result) {
  const Storage* const data = static_cast<const Storage*>(x.const_data_ptr());
  Storage* const to = static_cast<Storage*>(result.mutable_data_ptr());
  const int64_t values = cut.piece * cut.channels;
  const NarrowActivation::Walk narrow = narrow_walk<Storage>();
  // A plane of one channel is processed as one pixel of many channels, all alike.
  const int64_t most = std::min(cut.piece, cut.pixels);
  const int64_t channels = cut.channels == 1 ? most : cut.channels;
  const int64_t rows = narrow && cut.channels > 1 ? most : 1;  // of factors and terms
  torch::stable::parallel_for(0, cut.planes * cut.pieces, 1, [&](int64_t first, int64_t last) {
    Piece<Storage> source(data, narrow ? 0 : values),
        rest(data_of<Storage>(residual), narrow ? 0 : values);
    int64_t filled = -1;  // the plane that the factors are of
    std::vector<float> factors(values), terms(values);
    std::vector<float> computed(std::is_same_v<Storage, float> ? 0 : values);
    for (int64_t i = first; i < last; ++i) {
      const int64_t plane = i / cut.pieces, piece = i % cut.pieces * cut.piece;
      const int64_t n = std::min(cut.piece, cut.pixels - piece);
      const int64_t begin = (plane * cut.pixels + piece) * cut.channels, count = n * cut.channels;
      if (plane != filled) {
        for (int64_t c = 0; c < rows * channels; ++c) {
          const Affine& a = affine[cut.channels == 1 ? plane : plane * channels + c % channels];
          factors[c] = a.factor;
          terms[c] = a.term;
        }
        filled = plane;
      }
      if constexpr (sizeof(Storage) == 2) {
        if (narrow) {
          narrow(bits_of<Storage>(x, begin), factors.data(), terms.data(),
                 bits_of<Storage>(residual, begin), reinterpret_cast<uint16_t*>(to + begin), count);
          continue;
        }
      }
      float* y;
      if constexpr (std::is_same_v<Storage, float>) {
        y = to + begin;
      } else {
        y = computed.data();
      }
      const auto step = residual ? activate<true> : activate<false>;
      step(source.at(begin, count), factors.data(), terms.data(), rest.at(begin, count),
           cut.channels == 1 ? 1 : n, cut.channels == 1 ? n : channels, y);
      if constexpr (!std::is_same_v<Storage, float>) round_to(y, to + begin, count);
    }
  });
}

}  // namespace
}  // namespace rddm
