// Standard normal noise that is a function of (seed, stream, element), the same on every backend.
//
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), with the
// seed as key and (block, stream) as counter, gives four words. Two Box-Muller transforms turn them
// into four normals. Element e of an image, counted in logical (N, C, H, W) order for every memory
// layout, is normal e % 4 of block e / 4.
//
// A transform takes 24 bits for the radius and 24 for the angle. Both are exact in float32, so the
// only errors are those of the logarithm, the sine and the cosine. These are polynomials (Cephes'
// coefficients for single precision), not library calls, so that every backend computes the same
// and the host's compiler can vectorise them. No normal exceeds sqrt(48 ln 2) = 5.77 in magnitude.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/inline.h"

namespace rddm {

struct Normals {
  float z0, z1, z2, z3;
};

struct PhiloxWords {
  uint32_t w0, w1, w2, w3;
};

// The 64 bits of a product. nvcc's own code for `>> 32` adds 0 to every high word: 96 instead of 74
// instructions a block.
struct WideProduct {
  uint32_t low, high;

  RDDM_INLINE WideProduct(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
    asm("{ .reg .b64 product; mul.wide.u32 product, %2, %3; mov.b64 {%0, %1}, product; }"
        : "=r"(low), "=r"(high)
        : "r"(a), "r"(b));
#else
    const uint64_t product = uint64_t(a) * b;
    low = uint32_t(product);
    high = uint32_t(product >> 32);
#endif
  }
};

RDDM_INLINE PhiloxWords philox(PhiloxWords counter, uint32_t key0, uint32_t key1) {
  uint32_t c0 = counter.w0, c1 = counter.w1, c2 = counter.w2, c3 = counter.w3;
#if defined(__CUDACC__)
#pragma unroll
#else
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    const WideProduct product0(0xD2511F53u, c0), product1(0xCD9E8D57u, c2);
    c0 = product1.high ^ c1 ^ key0;
    c2 = product0.high ^ c3 ^ key1;
    c1 = product1.low;
    c3 = product0.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// ln u for u in [2^-24, 1].
RDDM_INLINE float log_of_unit(float u) {
  uint32_t bits;
  std::memcpy(&bits, &u, sizeof bits);
  // The mantissa in [sqrt(1/2), sqrt(2)), and its exponent.
  const int32_t exponent = int32_t(bits - 0x3f3504f3u) >> 23;
  bits -= uint32_t(exponent) << 23;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  x -= 1.0f;
  const float e = float(exponent), z = x * x;
  float y = 7.0376836292e-2f;
  y = y * x - 1.1514610310e-1f;
  y = y * x + 1.1676998740e-1f;
  y = y * x - 1.2420140846e-1f;
  y = y * x + 1.4249322787e-1f;
  y = y * x - 1.6668057665e-1f;
  y = y * x + 2.0000714765e-1f;
  y = y * x - 2.4999993993e-1f;
  y = y * x + 3.3333331174e-1f;
  y = y * x * z - 2.12194440e-4f * e - 0.5f * z;
  return x + y + 0.693359375f * e;
}

// On a device within 2^-23 of the root, without the branch to a slow path that the exact root has.
RDDM_INLINE float square_root(float x) {
#if defined(__CUDA_ARCH__)
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
#else
  return __builtin_sqrtf(x);
#endif
}

// Two independent normals from two words.
RDDM_INLINE void box_muller(uint32_t a, uint32_t b, float& z0, float& z1) {
  const float u = float(int32_t(a >> 8) + 1) * 0x1p-24f;  // (0, 1]
  const float radius = square_root(-2.0f * log_of_unit(u));
  // The angle in 2^-24 turns: its nearest quarter turn, and the rest, at most an eighth of a turn.
  const int32_t turn = int32_t(b >> 8), quarter = (turn + (1 << 21)) >> 22;
  const float x = float(turn - (quarter << 22)) * 3.7450703e-7f, z = x * x;  // 2 pi / 2^24
  const float sine =
      ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
  const float cosine =
      ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z -
      0.5f * z + 1.0f;
  const bool swapped = quarter & 1;
  const float along = swapped ? sine : cosine, across = swapped ? cosine : sine;
  z0 = radius * ((quarter + 1) & 2 ? -along : along);
  z1 = radius * (quarter & 2 ? -across : across);
}

// The four normals of one block.
RDDM_INLINE Normals normals(uint64_t seed, uint64_t stream, uint64_t block) {
  const PhiloxWords words =
      philox({uint32_t(block), uint32_t(block >> 32), uint32_t(stream), uint32_t(stream >> 32)},
             uint32_t(seed), uint32_t(seed >> 32));
  Normals n;
  box_muller(words.w0, words.w1, n.z0, n.z1);
  box_muller(words.w2, words.w3, n.z2, n.z3);
  return n;
}

}  // namespace rddm
