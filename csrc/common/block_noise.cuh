// A block's noise, drawn by its threads together, so that channels-last images waste none of it.
//
// A Philox block is four pixels' noise of one channel. In a channels-last image these are C
// elements apart: a thread that draws its own elements' noise draws a block for each and uses a
// quarter of it, which took 290 instructions an element. Here the threads draw the blocks of the
// thread block's elements, each once, and exchange them in shared memory.
#pragma once

#include "common/cuda_packs.cuh"

namespace rddm {
namespace {

// Threads of a block that draws. With 4 elements or more each, its elements are whole fours of
// pixels of 1, 2, 3, 4, 6, 8 ... channels, so that every thread draws equally many Philox blocks.
constexpr int kDrawingThreads = 192;

// The part of an image of `numel` elements that a thread of a block has: 8 elements, in packs of N
// that a block's length lies between, so that a warp's accesses are adjacent. Of float32's two
// packs the second shares what the first one computes.
template <int N>
struct ThreadPacks {
  static constexpr int kCount = 8 / N, kPerBlock = kDrawingThreads * kCount * N;

  int64_t numel;
  bool aligned;

  __device__ __forceinline__ int64_t block_begin() const { return int64_t(blockIdx.x) * kPerBlock; }
  __device__ __forceinline__ int in_block(int pack) const {
    return (pack * kDrawingThreads + int(threadIdx.x)) * N;
  }
  __device__ __forceinline__ int64_t first(int pack) const {
    return block_begin() + in_block(pack);
  }
  __device__ __forceinline__ bool whole() const {
    return aligned && first(kCount - 1) + N <= numel;
  }

  // The thread's elements of one input.
  template <class T>
  __device__ __forceinline__ void load(const T* __restrict__ data,
                                       Pack<T, N> (&packs)[kCount]) const {
#pragma unroll
    for (int p = 0; p < kCount; ++p) {
      packs[p] = rddm::load<N>(data, first(p), numel, whole());
    }
  }

  static unsigned blocks(int64_t numel) {
    return static_cast<unsigned>((numel + kPerBlock - 1) / kPerBlock);
  }
};

// Draws the noise of the tile's elements, which are a channels-last image's from `begin` on.
template <uint32_t Elements, class T>
__device__ __forceinline__ void draw_tile(const DeviceNoise<T>& noise, int64_t begin,
                                          float (&tile)[Elements]) {
  int64_t channel, pixel;
  const auto find = [&](int64_t element) {  // returns the image
    return noise.pixels.divide(noise.channels.divide(element, channel), pixel);
  };
  if (!noise.in_fours || noise.channels.divisor > Elements / 4) {
#pragma unroll 1
    for (uint32_t at = threadIdx.x; at < Elements; at += kDrawingThreads) {
      const int64_t plane = find(begin + at) * noise.channels.divisor + channel;
      tile[at] = normal_at(noise, uint64_t(plane * noise.pixels.divisor + pixel));
    }
    return;
  }

  // Here 32 bits hold all but the number of a Philox block. `before` elements of the four of pixels
  // in which the tile begins are before the tile.
  const uint64_t image = uint64_t(find(begin));
  const uint32_t channels = uint32_t(noise.channels.divisor);
  const uint32_t fours = uint32_t(noise.pixels.divisor >> 2), first_four = uint32_t(pixel >> 2);
  const uint32_t before = uint32_t(pixel & 3) * channels + uint32_t(channel);
  const uint64_t first_block = image * channels * fours + first_four;
  const uint64_t to_next_image = uint64_t(channels - 1) * fours;
  for (uint32_t task = threadIdx.x;; task += kDrawingThreads) {
    uint32_t of_channel;
    const uint32_t four = noise.channels.small.divide(task, of_channel);
    const uint32_t start = 4 * (task - of_channel);  // of the four, in elements
    if (start >= before + Elements) return;
    uint64_t block = first_block + uint64_t(of_channel) * fours + four;
    for (uint32_t at = first_four + four; at >= fours; at -= fours) block += to_next_image;
    const Normals n = normals(noise.seed, noise.stream, block);
    const float z[4] = {n.z0, n.z1, n.z2, n.z3};
    const uint32_t at = start + of_channel - before;  // wraps around before the tile
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if (at + i * channels < Elements) tile[at + i * channels] = z[i];
    }
  }
}

// The noise of a thread's elements in any layout; `stored` are those of noise.data. All threads of
// the block must come here, once a kernel.
template <int N, class T>
__device__ __forceinline__ void block_noise(const DeviceNoise<T>& noise, const ThreadPacks<N>& part,
                                            const Pack<T, N> (&stored)[ThreadPacks<N>::kCount],
                                            Pack<float, N> (&z)[ThreadPacks<N>::kCount]) {
  constexpr int P = ThreadPacks<N>::kCount;
  if (!noise.drawn) {
#pragma unroll
    for (int p = 0; p < P; ++p) z[p] = widened(stored[p]);
    return;
  }
  if (noise.channels.divisor == 1) {
#pragma unroll
    for (int p = 0; p < P; ++p) z[p] = drawn_in_order<N>(noise, part.first(p));
    return;
  }
  alignas(kBytes) __shared__ float tile[ThreadPacks<N>::kPerBlock];
  draw_tile(noise, part.block_begin(), tile);
  __syncthreads();
#pragma unroll
  for (int p = 0; p < P; ++p) {
    z[p] = *reinterpret_cast<const Pack<float, N>*>(&tile[part.in_block(p)]);
  }
}

}  // namespace
}  // namespace rddm
