// The building blocks of the CPU ops: they process an image in blocks that stay in the first-level
// cache.
//
// A block of each input is widened to the op's precision, or used in place if it is stored in that
// precision. One vectorised loop computes, and the result is rounded once when it is written.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "common/inline.h"
#include "common/tensors.h"
#include "vectors/drawn_normals.h"
#include "vectors/instruction_sets.h"

// One binary for all x86-64 machines: the loader picks the widest level that the machine has. The
// clones name levels, because names of processors are matched by maker and would exclude AMD's.
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define RDDM_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define RDDM_LEVELS
#include <immintrin.h>
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define RDDM_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define RDDM_CLONES
#endif

namespace rddm {
namespace {  // One copy per file: functions with clones cannot be shared between files.

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int64_t kBlock = 1024;  // 5 inputs and a result in float32: 24 KiB
constexpr int64_t kGrain = 32 * kBlock;
// Where values are converted, blocks are shorter, and memory is asked for 8 blocks ahead, so that
// the processor loads while it computes. Otherwise a bfloat16 reverse_step takes 1.5 times as long
// on a Xeon's core.
constexpr int64_t kShortBlock = 256, kAhead = 8 * kShortBlock;

template <class Storage>
RDDM_CLONES void widen(const Storage* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

template <class Storage>
RDDM_INLINE Storage rounded(float x) {
  return static_cast<Storage>(x);
}

// Rounds to nearest even. Half's own constructor has branches and a call, which keep a loop from
// being vectorised. Below the smallest normal half, adding 0.5 aligns a float's last bit with a
// half's, so the addition rounds.
template <>
RDDM_INLINE Half rounded<Half>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x47800000u ? 0x7c00u : half;  // 65536 and above: infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;   // not a number
  return Half(static_cast<uint16_t>(half | (bits >> 16 & 0x8000u)), Half::from_bits());
}

template <class Storage>
RDDM_CLONES void round_to(const float* __restrict from, Storage* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = rounded<Storage>(from[i]);
}

// The processor's own conversions between float16 and float32, which GCC 12 does not put into a
// loop. They return how many of the n values they converted: all, whole vectors, or none.
#if defined(RDDM_LEVELS)
__attribute__((target("arch=x86-64-v4"))) int64_t widen_halves(const Half* __restrict from,
                                                               float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 here = n - i < 16 ? __mmask16((1u << (n - i)) - 1) : __mmask16(0xffff);
    const __m256i halves = _mm256_maskz_loadu_epi16(here, from + i);
    const __m512 wide = _mm512_maskz_cvtph_ps(here, halves);
    _mm512_mask_storeu_ps(to + i, here, wide);
  }
  return n;
}

__attribute__((target("arch=x86-64-v3"))) int64_t widen_halves(const Half* __restrict from,
                                                               float* __restrict to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
  }
  return i;
}

__attribute__((target("default"))) int64_t widen_halves(const Half*, float*, int64_t) { return 0; }

__attribute__((target("arch=x86-64-v4"))) int64_t round_to_halves(const float* __restrict from,
                                                                  Half* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 here = n - i < 16 ? __mmask16((1u << (n - i)) - 1) : __mmask16(0xffff);
    const __m512 wide = _mm512_maskz_loadu_ps(here, from + i);
    const __m256i halves = _mm512_maskz_cvtps_ph(here, wide, _MM_FROUND_TO_NEAREST_INT);
    _mm256_mask_storeu_epi16(to + i, here, halves);
  }
  return n;
}

__attribute__((target("arch=x86-64-v3"))) int64_t round_to_halves(const float* __restrict from,
                                                                  Half* __restrict to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
  }
  return i;
}

__attribute__((target("default"))) int64_t round_to_halves(const float*, Half*, int64_t) {
  return 0;
}

template <>
[[maybe_unused]] void widen<Half>(const Half* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = widen_halves(from, to, n); i < n; ++i) to[i] = static_cast<float>(from[i]);
}

template <>
[[maybe_unused]] void round_to<Half>(const float* __restrict from, Half* __restrict to, int64_t n) {
  for (int64_t i = round_to_halves(from, to, n); i < n; ++i) to[i] = rounded<Half>(from[i]);
}
#endif

// Asks for n values that will be needed soon.
template <class Storage>
RDDM_INLINE void prefetch(const Storage* values, int64_t n) {
  const char* const lines = reinterpret_cast<const char*>(values);
  for (int64_t i = 0; i < n * int64_t(sizeof(Storage)); i += 64) __builtin_prefetch(lines + i);
}

// A block of one input in the precision T: in place or widened. An absent input is zeros.
template <class Storage, class T>
class Block {
 public:
  // `fetched`: the noise that is drawn with it asks for its memory.
  explicit Block(const Storage* data, bool fetched = false) : data_(data), fetched_(fetched) {
    if (!data_) std::fill_n(buffer_, kBlock, T(0));
  }

  const T* at(int64_t begin, int64_t n) {
    if (!data_) return buffer_;
    if constexpr (std::is_same_v<Storage, T>) {
      return data_ + begin;  // the processor itself foresees values that are read in order
    } else {
      if (!fetched_) prefetch(data_ + begin + kAhead, n);
      widen(data_ + begin, buffer_, n);
      return buffer_;
    }
  }

  const Storage* data_;
  bool fetched_;
  alignas(64) T buffer_[kBlock];
};

// A tensor's two-byte values from `first` on, as vectors/stored.h takes them; null if absent.
template <class Storage>
const uint16_t* bits_of(const std::optional<Tensor>& x, int64_t first) {
  static_assert(sizeof(Storage) == sizeof(uint16_t));
  const Storage* const data = data_of<Storage>(x);
  return data ? reinterpret_cast<const uint16_t*>(data + first) : nullptr;
}

template <class Storage, class T>
RDDM_INLINE Storage stored(T x) {
  if constexpr (std::is_same_v<Storage, T>) {
    return x;
  } else {
    return rounded<Storage>(x);
  }
}

// Three channels of n pixels next to one another. The compiler does it with shuffles.
template <class Storage, class T>
RDDM_CLONES void put_rgb(const T* __restrict red, const T* __restrict green,
                         const T* __restrict blue, Storage* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    to[3 * i] = stored<Storage>(red[i]);
    to[3 * i + 1] = stored<Storage>(green[i]);
    to[3 * i + 2] = stored<Storage>(blue[i]);
  }
}

// The loops for the instruction sets that this machine has, the fastest last.
[[maybe_unused]] const std::vector<const NormalsLoop*>& normals_loops() {
  static const auto loops = supported<NormalsLoop>(RDDM_EVERY_SET(kNormals));
  return loops;
}

template <class... Images>
Ahead ahead_of(const Images*... images) {
  static_assert(sizeof...(images) <= Ahead::kMost);
  Ahead ahead;
  (ahead.add(images), ...);
  return ahead;
}

// The noise of n <= kBlock elements of an image from its element `first` on, in memory order.
class DrawnNoise {
 public:
  // `ahead`: the images that are used with the noise.
  DrawnNoise(const NoiseArgument& noise, const Ahead& ahead,
             const NormalsLoop& loop = *normals_loops().back())
      : loop_(loop),
        ahead_(ahead),
        seed_(noise.seed),
        stream_(noise.stream),
        layout_(noise.layout) {}

  const float* at(int64_t first, int64_t n) {
    const auto [channels, pixels] = layout_;
    if (channels == 1) return logical(uint64_t(first), n, first, normals_);
    for (int64_t done = 0; done < n;) {
      const int64_t image = (first + done) / (channels * pixels);
      const int64_t begin = (first + done) % (channels * pixels);
      const int64_t end = std::min(begin + n - done, channels * pixels);
      const int64_t pixel = begin / channels, stop = (end + channels - 1) / channels;
      const auto draw = [&](int64_t c, float* to) {
        return logical(uint64_t((image * channels + c) * pixels + pixel), stop - pixel,
                       first + done + c * (stop - pixel), to);
      };
      float* const gathered = gathered_ + kMargin + done - begin;
      if (channels == 3) {  // whole pixels: up to two elements more at either end
        const float *red = draw(0, normals_), *green = draw(1, normals_ + kThird);
        put_rgb<float>(red, green, draw(2, normals_ + 2 * kThird), gathered + 3 * pixel,
                       stop - pixel);
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          const float* z = draw(c, normals_);
          // The pixels whose channel c is one of the elements.
          const int64_t from = (begin - c + channels - 1) / channels;
          const int64_t to = (end - c + channels - 1) / channels;
          for (int64_t p = from; p < to; ++p) gathered[p * channels + c] = z[p - pixel];
        }
      }
      done += end - begin;
    }
    return gathered_ + kMargin;
  }

 private:
  static constexpr int64_t kThird = kBlock / 3 + 43;  // room for a third of a block, in whole lines
  static constexpr int64_t kMargin = 16;
  static_assert(kThird % 16 == 0 && 3 * kThird >= kBlock + 4 * NormalsLoop::kMostAtOnce);

  // The noise of elements in logical order. Meanwhile the images are fetched from `element` on.
  const float* logical(uint64_t first, int64_t n, int64_t element, float* to) {
    const uint64_t begin = first / 4, end = (first + uint64_t(n) + 3) / 4;
    for (uint64_t block = begin; block < end;) {
      // Up to where the upper half of the block's number changes: once in 2^34 elements.
      const uint64_t stop = std::min(end, ((block >> 32) + 1) << 32);
      const int64_t blocks = int64_t(stop - block);
      loop_.run(seed_, stream_, block, blocks, to + 4 * (block - begin), ahead_, element);
      block = stop;
    }
    return to + first % 4;
  }

  const NormalsLoop& loop_;
  Ahead ahead_;
  uint64_t seed_, stream_;
  PixelLayout layout_;
  alignas(64) float normals_[3 * kThird];
  alignas(64) float gathered_[kBlock + 2 * kMargin];
};

// The noise of a call in the precision T: a tensor's, a seed's, or zeros.
template <class Storage, class T>
class NoiseBlock {
 public:
  // `images`: the data that are read or written with the noise.
  template <class... Images>
  explicit NoiseBlock(const NoiseArgument& noise, const Images*... images)
      : stored_(data_of<Storage>(noise.tensor)),
        drawn_(noise, ahead_of(images...)),
        draws_(noise.drawn) {}

  const T* at(int64_t begin, int64_t n) { return draws_ ? drawn(begin, n) : stored_.at(begin, n); }

 private:
  const T* drawn(int64_t begin, int64_t n) {
    const float* normals = drawn_.at(begin, n);
    if constexpr (std::is_same_v<T, float>) {
      return normals;
    } else {
      std::copy_n(normals, n, wide_);
      return wide_;
    }
  }

  Block<Storage, T> stored_;
  DrawnNoise drawn_;
  bool draws_;
  alignas(64) T wide_[std::is_same_v<T, float> ? 1 : kBlock];
};

// Elements of a block in a call with this noise: it is drawn faster for many at a time.
inline int64_t block_size(const NoiseArgument& noise) { return noise.drawn ? kBlock : kShortBlock; }

}  // namespace
}  // namespace rddm
