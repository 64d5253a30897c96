// Vectors of values that memory may hold in two bytes.
#pragma once

#include "vectors/stored_dtypes.h"
#include "vectors/vectors.h"

#if defined(__AVX2__)
#define RDDM_CONVERTS_STORED  // the processor converts vectors of both dtypes

namespace rddm {
namespace {

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

// The same for the first n < kWidth values.
template <Stored S>
RDDM_INLINE void put_narrowed(uint16_t* to, Vec x, int64_t n) {
  uint16_t values[kWidth];
  put_narrowed<S>(values, x);
  for (int64_t i = 0; i < n; ++i) to[i] = values[i];
}

// An image, or zeros without end where there is none.
class StoredInput {
 public:
  RDDM_INLINE explicit StoredInput(const uint16_t* image)
      : from_(image ? image : kZeros), stride_(image ? 1 : 0) {}

  template <Stored S>
  RDDM_INLINE Vec at(int64_t i) const {
    return widened<S>(from_ + i * stride_);
  }

  // Asks for the line of the value i, which may lie beyond the end.
  RDDM_INLINE void prefetch(int64_t i) const { __builtin_prefetch(from_ + i * stride_); }

  // The n < kWidth values from i on.
  template <Stored S>
  RDDM_INLINE Vec last(int64_t i, int64_t n) const {
    uint16_t values[kWidth] = {};
    for (int64_t k = 0; k < n; ++k) values[k] = from_[(i + k) * stride_];
    return widened<S>(values);
  }

 private:
  static constexpr uint16_t kZeros[kWidth] = {};
  const uint16_t* from_;
  int64_t stride_;
};

}  // namespace
}  // namespace rddm
#endif
