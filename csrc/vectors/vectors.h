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
typedef uint32_t Words __attribute__((vector_size(4 * kWidth)));

RDDM_INLINE Vec load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
RDDM_INLINE void store(float* to, Vec x) { *reinterpret_cast<Unaligned*>(to) = x; }
RDDM_INLINE Vec all(float x) { return x - Vec{}; }

RDDM_INLINE float sum_of(Vec x) {
  float lanes[kWidth];
  store(lanes, x);
#pragma GCC unroll 4
  for (int n = kWidth / 2; n; n /= 2) {
    for (int i = 0; i < n; ++i) lanes[i] += lanes[i + n];
  }
  return lanes[0];
}

RDDM_INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }

RDDM_INLINE float largest_of(Vec x) {
  float lanes[kWidth];
  store(lanes, x);
#pragma GCC unroll 4
  for (int n = kWidth / 2; n; n /= 2) {
    for (int i = 0; i < n; ++i) lanes[i] = lanes[i] > lanes[i + n] ? lanes[i] : lanes[i + n];
  }
  return lanes[0];
}

// exp(x) for x <= 0, to 2 units in the last place; 1e-38 below -87. After Cephes' expf: 2^n times a
// polynomial of the rest, which is at most ln(2) / 2.
RDDM_INLINE Vec exp_of(Vec x) {
  typedef int Ints __attribute__((vector_size(4 * kWidth)));
  x = x < -87.f ? all(-87.f) : x;
  const Vec rounded = (x * 1.44269504f + 12582912.f);  // 1.5 * 2^23: the sum's last bits are n
  const Vec n = rounded - 12582912.f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  return p * reinterpret_cast<Vec>((reinterpret_cast<Ints>(rounded) << 23) + 0x3f800000);
}

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

// Whether this machine has the instruction set.
inline bool is_supported() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
#else
  return true;
#endif
}

#define RDDM_PASTE(name, set) name##set
#define RDDM_PASTE_SET(name, set) RDDM_PASTE(name, set)
#define RDDM_OF_SET(name) RDDM_PASTE_SET(name, RDDM_SET)  // kWinogradAvx512

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
