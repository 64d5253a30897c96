// The noise of noise.h, for the instruction set that this file is compiled for: once for each (see
// CMakeLists.txt). It includes no header whose functions another file might take over from it.
//
// A vector of 64-bit lanes holds a word of Philox's state for each of several blocks, in a lane's
// lower half: the one multiplication of 32-bit numbers that gives both halves of their products,
// vpmuludq, reads just these. A round is then 6 instructions for a vector of blocks. GCC 12 makes
// 64-bit multiplications and shuffles of a plain loop, which takes 2.6 times as long (AVX-512: 1.50
// ns a normal instead of 0.57; AVX2: 2.25 instead of 0.89). With AVX-512, 64 normals are 110 + 2 *
// 57 instructions for two ports, so at least 112 cycles; they take 137 (3.8 GHz). 12 of the other
// 25 are those of the two roots.
#include "vectors/drawn_normals.h"

#include "common/noise.h"
#include "vectors/vectors.h"

namespace rddm {
namespace {

#if defined(__AVX2__)

constexpr int kLanes = kWidth / 2;  // 64-bit lanes of a vector: a block each
static_assert(kLanes <= NormalsLoop::kMostAtOnce);

typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));
typedef uint64_t Pairs __attribute__((vector_size(4 * kWidth)));

// product: of the lower halves. upper: the upper halves, moved down. lower_of, upper_of: the lower,
// the upper halves of a and b, in turn. The masks are for GCC 12, which warns about the plain
// forms.
#if defined(__AVX512F__)
RDDM_INLINE Pairs product(Pairs a, Pairs b) {
  return (Pairs)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
}
RDDM_INLINE Pairs upper(Pairs a) {
  return (Pairs)_mm512_maskz_shuffle_epi32(0xffff, (__m512i)a, _MM_PERM_DDBB);
}
RDDM_INLINE Words lower_of(Pairs a, Pairs b) {
  return (Words)_mm512_mask_shuffle_epi32((__m512i)a, 0xaaaa, (__m512i)b, _MM_PERM_CCAA);
}
RDDM_INLINE Words upper_of(Pairs a, Pairs b) {
  return (Words)_mm512_mask_shuffle_epi32((__m512i)b, 0x5555, (__m512i)a, _MM_PERM_DDBB);
}
RDDM_INLINE Vec root(Vec x) { return _mm512_maskz_sqrt_ps(0xffff, x); }
RDDM_INLINE Vec unpack_low(Vec a, Vec b) { return _mm512_maskz_unpacklo_ps(0xffff, a, b); }
RDDM_INLINE Vec unpack_high(Vec a, Vec b) { return _mm512_maskz_unpackhi_ps(0xffff, a, b); }
#else
RDDM_INLINE Pairs product(Pairs a, Pairs b) {
  return (Pairs)_mm256_mul_epu32((__m256i)a, (__m256i)b);
}
RDDM_INLINE Pairs upper(Pairs a) { return a >> 32; }
RDDM_INLINE Words lower_of(Pairs a, Pairs b) {
  return (Words)_mm256_blend_epi32((__m256i)a, _mm256_shuffle_epi32((__m256i)b, 0xa0), 0xaa);
}
RDDM_INLINE Words upper_of(Pairs a, Pairs b) {
  return (Words)_mm256_blend_epi32((__m256i)b, (__m256i)upper(a), 0x55);
}
RDDM_INLINE Vec root(Vec x) { return _mm256_sqrt_ps(x); }
RDDM_INLINE Vec unpack_low(Vec a, Vec b) { return _mm256_unpacklo_ps(a, b); }
RDDM_INLINE Vec unpack_high(Vec a, Vec b) { return _mm256_unpackhi_ps(a, b); }
#endif

RDDM_INLINE Vec floats(Words x) { return __builtin_convertvector((Ints)x, Vec); }

// sqrt(-2 ln u), where u = 2^-24 (a / 256 + 1). noise.h's numbers and, bit for bit, its results:
// powers of two are moved into the constants.
RDDM_INLINE Vec radius(Words a) {
  const Words above = (Words)floats((a >> 8) + 1) - (0x3f3504f3u + (24u << 23));
  const Vec e = floats(above & 0xff800000u);  // the exponent times 2^23
  const Vec x = (Vec)((above & 0x007fffffu) + 0x3f3504f3u) - 1.0f, z = x * x;
  Vec y = x * (-2 * 7.0376836292e-2f) + 2 * 1.1514610310e-1f;
  y = y * x - 2 * 1.1676998740e-1f;
  y = y * x + 2 * 1.2420140846e-1f;
  y = y * x - 2 * 1.4249322787e-1f;
  y = y * x + 2 * 1.6668057665e-1f;
  y = y * x - 2 * 2.0000714765e-1f;
  y = y * x + 2 * 2.4999993993e-1f;
  y = y * x - 2 * 3.3333331174e-1f;
  y = y * x * z + e * (0x1p-22f * 2.12194440e-4f) + z;
  return root(y - 2.0f * x - e * (0x1p-22f * 0.693359375f));
}

// noise.h's box_muller. x is b's distance from the nearest quarter turn: b's bits below the top
// two, as a signed number.
RDDM_INLINE void box_muller(Words a, Words b, Vec& z0, Vec& z1) {
  const Vec x = floats((b << 2) & ~0x3ffu) * (0x1p-10f * 3.7450703e-7f), z = x * x;
  const Vec sine = ((z * -1.9515295891e-4f + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
  const Vec cosine =
      ((z * 2.443315711809948e-5f - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z -
      0.5f * z + 1.0f;
  const Words quarter = b + (1u << 29), next = quarter + (1u << 30);  // in the top two bits
  const auto swapped = (quarter & (1u << 30)) != 0;
  const Vec r = radius(a), along = r * (swapped ? sine : cosine),
            across = r * (swapped ? cosine : sine);
  z0 = (Vec)((Words)along ^ (next & (1u << 31)));
  z1 = (Vec)((Words)across ^ (quarter & (1u << 31)));
}

struct Philox {
  Pairs factor0, factor1, keys0[10], keys1[10], upper_block, lower_stream, upper_stream;
  Words last_keys;

  Philox(uint64_t seed, uint64_t stream, uint64_t first_block)
      : factor0(Pairs{} + 0xD2511F53u),
        factor1(Pairs{} + 0xCD9E8D57u),
        upper_block(Pairs{} + (first_block >> 32)),
        lower_stream(Pairs{} + stream),
        upper_stream(Pairs{} + (stream >> 32)) {
    for (int round = 0; round < 10; ++round) {
      keys0[round] = Pairs{} + (seed + uint64_t(round) * 0x9E3779B9u);
      keys1[round] = Pairs{} + ((seed >> 32) + uint64_t(round) * 0xBB67AE85u);
    }
    last_keys = lower_of(keys0[9], keys1[9]);
  }

  // The words of kChains vectors of blocks, whose rounds take turns: a round waits for the last
  // one. Of each vector first the words for the radii, then those for the angles.
  template <int kChains>
  RDDM_INLINE void words(Pairs blocks, float* to) const {
    Pairs c0[kChains], c1[kChains], c2[kChains], c3[kChains];
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      c0[i] = blocks + uint64_t(i * kLanes);
      c1[i] = upper_block;
      c2[i] = lower_stream;
      c3[i] = upper_stream;
    }
#pragma GCC unroll 9
    for (int round = 0; round < 9; ++round) {
#pragma GCC unroll 4
      for (int i = 0; i < kChains; ++i) {
        const Pairs product0 = product(c0[i], factor0), product1 = product(c2[i], factor1);
        c0[i] = upper(product1) ^ c1[i] ^ keys0[round];
        c2[i] = upper(product0) ^ c3[i] ^ keys1[round];
        c1[i] = product1;
        c3[i] = product0;
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i, to += 2 * kWidth) {
      const Pairs product0 = product(c0[i], factor0), product1 = product(c2[i], factor1);
      store(to, (Vec)(upper_of(product1, product0) ^ lower_of(c1[i], c3[i]) ^ last_keys));
      store(to + kWidth, (Vec)lower_of(product1, product0));
    }
  }
};

// The words come first, and the normals take their place: the processor then has one loop's
// independent work to overlap, not one long chain (0.57 instead of 0.63 ns a normal).
void run(uint64_t seed, uint64_t stream, uint64_t first_block, int64_t blocks, float* to,
         const Ahead& ahead, int64_t element) {
  constexpr int kChains = 4;
  const Philox philox(seed, stream, first_block);
  // Lanes 2 i and 2 i + 1 hold blocks i and kLanes / 2 + i: so the unpacked normals are in order.
  Pairs lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = first_block + uint64_t(i / 2 + i % 2 * (kLanes / 2));
  int64_t block = 0;
  for (; block + kChains * kLanes <= blocks; block += kChains * kLanes) {
    ahead.fetch(element + 2 * block, 2 * kChains * kLanes);  // the first half of the elements
    philox.words<kChains>(lanes + uint64_t(block), to + 4 * block);
  }
  for (; block < blocks; block += kLanes) philox.words<1>(lanes + uint64_t(block), to + 4 * block);
  element += 2 * blocks;
  for (block = 0; block < blocks; block += kLanes, to += 2 * kWidth) {
    ahead.fetch(element + 2 * block, 2 * kLanes);
    Vec z0, z1;
    box_muller((Words)load(to), (Words)load(to + kWidth), z0, z1);
    store(to, unpack_low(z0, z1));
    store(to + kWidth, unpack_high(z0, z1));
  }
}

#else

void run(uint64_t seed, uint64_t stream, uint64_t first_block, int64_t blocks, float* to,
         const Ahead& ahead, int64_t element) {
  constexpr int64_t kAtOnce = NormalsLoop::kMostAtOnce;
  for (int64_t block = 0; block < blocks; block += kAtOnce, to += 4 * kAtOnce) {
    ahead.fetch(element + 4 * block, 4 * kAtOnce);
    for (int64_t i = 0; i < kAtOnce; ++i) {
      const Normals n = normals(seed, stream, first_block + uint64_t(block + i));
      to[4 * i] = n.z0, to[4 * i + 1] = n.z1, to[4 * i + 2] = n.z2, to[4 * i + 3] = n.z3;
    }
  }
}

#endif

}  // namespace

const NormalsLoop RDDM_OF_SET(kNormals) = {RDDM_SET_NAME, &is_supported, &run};

}  // namespace rddm
