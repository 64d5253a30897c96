// The arithmetic of a step of Cold Diffusion's Algorithm 2, x_s - D(x_0, s) + D(x_0, to), for one
// value of one pixel.
#pragma once

#include <cstdint>
#include <limits>

#include "common/inline.h"

namespace rddm {

// The forms of D: the indices of KINDS in rddm_fast/ops/inverse/tacos_step.py.
enum class TacosKind : int { kMix = 0, kGrey = 1, kSnow = 2 };
inline constexpr int kTacosKinds = 3;

// `weight` is the layers' difference, or 1; `far` is x_end or the grey of x_0.
template <class T>
RDDM_INLINE T mixed_step(T x_s, T x_0, T far, T weight, T k_0, T k_end) {
  return x_s + weight * (k_0 * x_0 + k_end * far);
}

// One of the two levels of snow. The clean image is a level of brightness 1 without limits.
template <class T>
struct SnowLevel {
  T brightness, low, high;

  static SnowLevel of(double brightness, bool snows) {
    constexpr T kNone = std::numeric_limits<T>::infinity();
    return snows ? SnowLevel{T(brightness), 0, 1} : SnowLevel{1, -kNone, kNone};
  }
};

// D of a value u in [0, 1] of a pixel with this grey. Comparisons instead of min and max: a NaN is
// returned, as torch returns it.
template <class T>
RDDM_INLINE T snowed(const SnowLevel<T>& level, T u, T grey, T layer) {
  const T winter = 1.5f * grey + 0.5f;
  const T bright = level.brightness * u + (1.f - level.brightness) * (u > winter ? u : winter);
  const T sum = (level.brightness != 1.f ? bright : u) + layer;
  return sum < level.low ? level.low : (sum > level.high ? level.high : sum);
}

// `grey` is that of x_0, in [-1, 1].
template <class T>
RDDM_INLINE T snow_step(const SnowLevel<T>& from, const SnowLevel<T>& to, T x_s, T x_0, T grey,
                        T layer_s, T layer_to) {
  const T u = (x_0 + 1.f) * 0.5f, grey_u = (grey + 1.f) * 0.5f;
  return x_s + 2.f * (snowed(to, u, grey_u, layer_to) - snowed(from, u, grey_u, layer_s));
}

// The weight of a channel in grey: RGB's luminance for snow, else the mean.
template <class T>
RDDM_INLINE T grey_weight(TacosKind kind, int64_t channel, int64_t channels) {
  if (kind != TacosKind::kSnow || channels != 3) return T(1) / T(channels);
  return channel == 0 ? T(0.299) : (channel == 1 ? T(0.587) : T(0.114));
}

}  // namespace rddm
