// Vectors of values that memory holds in two bytes.
#pragma once

#include "vectors/vectors.h"

#if defined(__AVX2__)
#define RDDM_CONVERTS_STORED  // the processor converts vectors of both dtypes

namespace rddm {
namespace {

enum class Stored { kBfloat16, kFloat16 };

typedef uint16_t Stores __attribute__((vector_size(2 * kWidth)));
typedef uint16_t UnalignedStores __attribute__((vector_size(2 * kWidth), aligned(2)));

template <Stored S>
RDDM_INLINE Vec widened(const uint16_t* from) {
  const Stores stored = *reinterpret_cast<const UnalignedStores*>(from);
  if constexpr (S == Stored::kBfloat16) {
    return reinterpret_cast<Vec>(__builtin_convertvector(stored, Words) << 16);
  } else {
#if defined(__AVX512F__)
    return _mm512_maskz_cvtph_ps(0xffff, reinterpret_cast<__m256i>(stored));
#else
    return _mm256_cvtph_ps(reinterpret_cast<__m128i>(stored));
#endif
  }
}

// Rounds to nearest even, as torch does.
template <Stored S>
RDDM_INLINE void put_narrowed(uint16_t* to, Vec x) {
  Stores stored;
  if constexpr (S == Stored::kBfloat16) {
    const Words bits = reinterpret_cast<Words>(x);
    const Words up = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const Words kept = x == x ? up : Words{} + 0x7fc0u;
    stored = __builtin_convertvector(kept, Stores);
  } else {
#if defined(__AVX512F__)
    stored = reinterpret_cast<Stores>(_mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT));
#else
    stored = reinterpret_cast<Stores>(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#endif
  }
  *reinterpret_cast<UnalignedStores*>(to) = stored;
}

}  // namespace
}  // namespace rddm
#endif
