// tacos_step on planes, for the instruction set that this file is compiled for.
#include "tacos_step/tacos_planes.h"

#include <cstring>

#include "vectors/stored.h"

namespace rddm {
namespace {

constexpr int kChannels = TacosPlanes::kChannels;

template <Stored S>
constexpr int64_t kSize = S == Stored::kFloat32 ? 4 : 2;

template <Stored S>
RDDM_INLINE Vec at(const void* plane, int64_t i) {
  if constexpr (S == Stored::kFloat32) {
    return load(static_cast<const float*>(plane) + i);
  } else {
    return widened<S>(static_cast<const uint16_t*>(plane) + i);
  }
}

template <Stored S>
RDDM_INLINE void put(void* plane, int64_t i, Vec x) {
  if constexpr (S == Stored::kFloat32) {
    store(static_cast<float*>(plane) + i, x);
  } else {
    put_narrowed<S>(static_cast<uint16_t*>(plane) + i, x);
  }
}

RDDM_INLINE Vec at(const float* layer, int64_t i) { return layer ? load(layer + i) : Vec{}; }

RDDM_INLINE SnowLevel<Vec> in_all_lanes(const SnowLevel<float>& level) {
  return {all(level.brightness), all(level.low), all(level.high)};
}

template <TacosKind K, Stored S>
RDDM_INLINE void step(float first, float second, const TacosPlanes& p, int64_t i) {
  Vec x_0[kChannels], grey{};
#pragma GCC unroll 3
  for (int c = 0; c < kChannels; ++c) {
    x_0[c] = at<S>(p.x_0[c], i);
    if constexpr (K != TacosKind::kMix) grey += grey_weight<float>(K, c, kChannels) * x_0[c];
  }
  const Vec before = at(p.layer_s, i), after = at(p.layer_to, i);
  if constexpr (K == TacosKind::kSnow) {
    const auto from = in_all_lanes(SnowLevel<float>::of(first, p.layer_s != nullptr));
    const auto to = in_all_lanes(SnowLevel<float>::of(second, p.layer_to != nullptr));
#pragma GCC unroll 3
    for (int c = 0; c < kChannels; ++c) {
      put<S>(p.to[c], i, snow_step<Vec>(from, to, at<S>(p.x_s[c], i), x_0[c], grey, before, after));
    }
  } else {
    const Vec weight = p.layer_to ? after - before : all(1.f);
#pragma GCC unroll 3
    for (int c = 0; c < kChannels; ++c) {
      put<S>(p.to[c], i,
             mixed_step<Vec>(at<S>(p.x_s[c], i), x_0[c], grey, weight, all(first), all(second)));
    }
  }
}

template <TacosKind K, Stored S>
void walk(float first, float second, const TacosPlanes& planes, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) step<K, S>(first, second, planes, i);
  if (i == n) return;
  // The rest: copies of a whole vector.
  const size_t bytes = size_t((n - i) * kSize<S>);
  char images[3 * kChannels][4 * kWidth] = {};
  float layers[2][kWidth] = {};
  TacosPlanes rest{};
  const auto copied = [&](const void* plane, char* to) {
    std::memcpy(to, static_cast<const char*>(plane) + i * kSize<S>, bytes);
    return to;
  };
  const auto layer = [&](const float* from, float* to) -> const float* {
    if (!from) return nullptr;
    std::memcpy(to, from + i, size_t(n - i) * sizeof(float));
    return to;
  };
  rest.layer_s = layer(planes.layer_s, layers[0]);
  rest.layer_to = layer(planes.layer_to, layers[1]);
  for (int c = 0; c < kChannels; ++c) {
    rest.x_s[c] = copied(planes.x_s[c], images[3 * c]);
    rest.x_0[c] = copied(planes.x_0[c], images[3 * c + 1]);
    rest.to[c] = images[3 * c + 2];
  }
  step<K, S>(first, second, rest, 0);
  for (int c = 0; c < kChannels; ++c) {
    std::memcpy(static_cast<char*>(planes.to[c]) + i * kSize<S>, rest.to[c], bytes);
  }
}

template <Stored S>
TacosPlaneSteps::Walk walk_of(TacosKind kind) {
  switch (kind) {
    case TacosKind::kMix:
      return &walk<TacosKind::kMix, S>;
    case TacosKind::kGrey:
      return &walk<TacosKind::kGrey, S>;
    default:
      return &walk<TacosKind::kSnow, S>;
  }
}

TacosPlaneSteps::Walk walk_for(TacosKind kind, Stored stored) {
  if (stored == Stored::kFloat32) return walk_of<Stored::kFloat32>(kind);
#if defined(RDDM_CONVERTS_STORED)
  return stored == Stored::kBfloat16 ? walk_of<Stored::kBfloat16>(kind)
                                     : walk_of<Stored::kFloat16>(kind);
#else
  return nullptr;
#endif
}

}  // namespace

const TacosPlaneSteps RDDM_OF_SET(kTacosPlanes) = {RDDM_SET_NAME, &is_supported, &walk_for};

}  // namespace rddm
