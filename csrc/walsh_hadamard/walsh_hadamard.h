// The loops of walsh_hadamard, for values that lie one after another.
//
// In natural order H_H X H_W is, on an image's H W values in a row, one transform of length H W:
// the Kronecker product of the two matrices is the Sylvester matrix of that size. So it has one
// stage of sums and differences for each bit of a value's index, and all loops know bits alone.
// They take the bits from the lowest to the highest, as the reference does, so in float32 and
// float64 the results have its bits.
#pragma once

#include <cstdint>

#include "common/cpu_blocks.h"

namespace rddm {
namespace {

constexpr int64_t kSide = 16;
constexpr int64_t kTile = kSide * kSide;  // the values whose bits the vectors' lanes hold
constexpr int kTileBits = 8;

// The stages of the lowest Bits bits of an index into v.
template <int Bits, class T, size_t N>
RDDM_INLINE void butterflies(T (&v)[N]) {
  static_assert(N <= 16 && N >> Bits);
#pragma GCC unroll 4
  for (int bit = 0; bit < Bits; ++bit) {
    const int stride = 1 << bit;
#pragma GCC unroll 16
    for (size_t i = 0; i < N; ++i) {
      if (i & stride) continue;
      const T sum = v[i] + v[i + stride], difference = v[i] - v[i + stride];
      v[i] = sum;
      v[i + stride] = difference;
    }
  }
}

// The stages of the lowest Bits bits of 16 by 16 values' columns. The result is transposed: of two
// calls the second takes the next bits, and brings the first one's back to their place.
template <int Bits, class T>
RDDM_INLINE void turn(const T* __restrict from, T* __restrict to) {
  for (int64_t i = 0; i < kSide; ++i) {
    T v[kSide];
#pragma GCC unroll 16
    for (int k = 0; k < kSide; ++k) v[k] = from[kSide * i + k];
    butterflies<Bits>(v);
#pragma GCC unroll 16
    for (int k = 0; k < kSide; ++k) to[kSide * k + i] = v[k];
  }
}

// The stages of the lowest Bits <= 8 bits, in `tiles` tiles.
template <int Bits, class T>
RDDM_CLONES void within_tiles(const T* __restrict from, T* __restrict to, int64_t tiles) {
  constexpr int kLow = Bits < 4 ? Bits : 4;
  alignas(64) T turned[kTile];
  for (int64_t tile = 0; tile < tiles; ++tile) {
    turn<kLow>(from + tile * kTile, turned);
    turn<Bits - kLow>(turned, to + tile * kTile);
  }
}

// The stages of Bits bits across rows of n values: row k of 2^Bits begins k strides behind the
// first. The transform's last stages multiply by the factor.
template <int Bits, bool Last, class T>
RDDM_CLONES void across_rows(const T* __restrict from, int64_t from_stride, T* __restrict to,
                             int64_t to_stride, int64_t n, T factor) {
#pragma GCC ivdep  // The rows do not overlap.
  for (int64_t i = 0; i < n; ++i) {
    T v[1 << Bits];
#pragma GCC unroll 16
    for (int k = 0; k < 1 << Bits; ++k) v[k] = from[k * from_stride + i];
    butterflies<Bits>(v);
#pragma GCC unroll 16
    for (int k = 0; k < 1 << Bits; ++k) to[k * to_stride + i] = Last ? v[k] * factor : v[k];
  }
}

}  // namespace
}  // namespace rddm
