// The vectors of the instruction set that a file is compiled for, and how channels divide into
// them.
#pragma once

#include <cstdint>

#include "common/inline.h"

#if defined(__SSE__)
#include <immintrin.h>  // for stores past the cache, which GCC's vectors lack
#endif

namespace rddm {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16, kRows = 14;  // 28 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int kWidth = 8, kRows = 6;  // 12 of 16
#elif defined(__aarch64__)
constexpr int kWidth = 4, kRows = 12;  // 24 of 32
#else
constexpr int kWidth = 4, kRows = 6;  // 12 of 16
#endif

constexpr int kLine = 16;  // float32 values of a line of the cache

typedef float Vec __attribute__((vector_size(4 * kWidth)));
typedef float Unaligned __attribute__((vector_size(4 * kWidth), aligned(4)));

RDDM_INLINE Vec load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
RDDM_INLINE void store(float* to, Vec x) { *reinterpret_cast<Unaligned*>(to) = x; }

// Writes a whole line past the cache, where the instruction set can: `to` is aligned.
RDDM_INLINE void store_past_cache(float* to, Vec x) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, x);
#elif defined(__AVX__)
  _mm256_stream_ps(to, x);
#elif defined(__SSE__)
  _mm_stream_ps(to, x);
#else
  store(to, x);
#endif
}

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t groups_of(int64_t channels) { return (channels + kWidth - 1) / kWidth; }

// The first channel of a vector: the last one ends with the last channel.
constexpr int64_t channel_of(int64_t group, int64_t channels) {
  return least(group * kWidth, most(channels - kWidth, 0));
}

// The first n values, n < kWidth, of a source with too few channels for a vector.
RDDM_INLINE Vec load_some(const float* from, int64_t n) {
  Vec x{};
  for (int64_t i = 0; i < n; ++i) x[i] = from[i];
  return x;
}

}  // namespace
}  // namespace rddm
