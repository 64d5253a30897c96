// range_null_step on planes of two-byte values, for the instruction set that this file is compiled
// for.
#include "range_null_step/narrow_joined.h"

#include "vectors/stored.h"

namespace rddm {
namespace {

#if defined(RDDM_CONVERTS_STORED)

constexpr int kChannels = NarrowPlanes::kChannels;

typedef uint8_t Bytes __attribute__((vector_size(kWidth)));
typedef uint8_t UnalignedBytes __attribute__((vector_size(kWidth), aligned(1)));

// The coefficients are scalars: a term whose coefficient is 0 is left out for the whole vector.
RDDM_INLINE Vec term(float k, Vec x) { return k != 0 ? k * x : Vec{}; }

RDDM_INLINE Vec combined(const RangeNullSum<float>& k, Vec x_t, Vec epsilon, Vec noise) {
  return term(k.k_t, x_t) + term(k.k_e, epsilon) + term(k.k_z, noise);
}

// `at(input)` is an input's vector, `keep(x)` is x where the mask is set, and `put(to, x)` stores.
template <class At, class Keep, class Put>
RDDM_INLINE void step(const RangeNullNumbers<float>& c, const float* weights, float inverse,
                      const NarrowPlanes& planes, At&& at, Keep&& keep, Put&& put) {
  Vec null[kChannels], sum{};
#pragma GCC unroll 3
  for (int k = 0; k < kChannels; ++k) {
    const Vec x_t = at(planes.x_t[k]), epsilon = at(planes.epsilon[k]), z = at(planes.noise[k]);
    sum += weights[k] * combined(c.difference, x_t, epsilon, z);
    null[k] = combined(c.null, x_t, epsilon, z) + term(c.k_y, at(planes.pinv_y[k]));
  }
  const Vec multiple = keep(sum * inverse);
#pragma GCC unroll 3
  for (int k = 0; k < kChannels; ++k) put(planes.to[k], null[k] + weights[k] * multiple);
}

template <Stored S>
void walk(const RangeNullNumbers<float>& c, const float* weights, float inverse,
          const NarrowPlanes& planes, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const auto at = [&](const uint16_t* image) { return StoredInput(image).at<S>(i); };
    const auto keep = [&](Vec x) {
      if (!planes.mask) return x;
      const Bytes kept = *reinterpret_cast<const UnalignedBytes*>(planes.mask + i);
      return __builtin_convertvector(kept, Words) != 0 ? x : Vec{};
    };
    const auto put = [&](uint16_t* to, Vec x) { put_narrowed<S>(to + i, x); };
    step(c, weights, inverse, planes, at, keep, put);
  }
  if (const int64_t rest = n - i; rest > 0) {
    const auto at = [&](const uint16_t* image) { return StoredInput(image).last<S>(i, rest); };
    const auto keep = [&](Vec x) {
      for (int64_t k = 0; planes.mask && k < rest; ++k) x[k] = planes.mask[i + k] ? x[k] : 0.f;
      return x;
    };
    const auto put = [&](uint16_t* to, Vec x) { put_narrowed<S>(to + i, x, rest); };
    step(c, weights, inverse, planes, at, keep, put);
  }
}

NarrowJoined::Walk walk_for(bool bfloat16) {
  return bfloat16 ? &walk<Stored::kBfloat16> : &walk<Stored::kFloat16>;
}

#else

NarrowJoined::Walk walk_for(bool) { return nullptr; }

#endif

}  // namespace

const NarrowJoined RDDM_OF_SET(kNarrowJoined) = {RDDM_SET_NAME, &is_supported, &walk_for};

}  // namespace rddm
