// The building blocks of the CUDA ops: every thread takes 16 bytes of the narrowest tensor.
//
// The kernels are memory-bound, so all loads are in flight at once: 128-bit loads fetch every input
// into registers as stored, and only then are the values widened and used. One kernel serves every
// size and alignment: a thread at the end of the image, or with a tensor that is not aligned, moves
// its elements one by one.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "check.h"
#include "common/divisor.cuh"
#include "common/kernel_attributes.h"
#include "common/noise.h"
#include "common/tensors.h"

// These functions are in libtorch_cuda.so, which a CPU-only torch lacks. There the weak references
// are null and the module still loads. Without a CUDA tensor nobody calls into this file.
#pragma weak aoti_torch_get_current_cuda_stream
#pragma weak torch_c10_cuda_check_msg
#pragma weak torch_c10_cuda_free_error_msg

namespace rddm {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kThreads = 256;
constexpr int kBytes = 16;  // the widest load of every architecture that we build for

// N elements as stored, aligned so that copying a pack takes only 128-bit accesses.
template <class T, int N>
struct alignas(sizeof(T) * N < kBytes ? sizeof(T) * N : kBytes) Pack {
  T element[N];
};

// Number of elements per thread, for images stored as Image beside outputs stored as Output.
template <class Image, class Output>
constexpr int kElements = kBytes / std::min(sizeof(Image), sizeof(Output));

// The words at `data` if it is `there`, else zeros. On a device a load with a predicate: a branch
// would end in moves of what it loaded, which wait for the memory before the next load is issued.
template <int Words>
__device__ __forceinline__ Pack<uint32_t, Words> load_words(const void* data, bool there) {
  Pack<uint32_t, Words> words{};
#if defined(__CUDA_ARCH__)
  const auto* const at = static_cast<const Pack<uint32_t, Words>*>(data);
  if constexpr (Words % 4 == 0) {
#pragma unroll
    for (int i = 0; i < Words; i += 4) {
      asm volatile(
          "{ .reg .pred p; setp.ne.u32 p, %5, 0; @p ld.global.v4.u32 {%0, %1, %2, %3}, [%4]; }"
          : "+r"(words.element[i]), "+r"(words.element[i + 1]), "+r"(words.element[i + 2]),
            "+r"(words.element[i + 3])
          : "l"(&at->element[i]), "r"(uint32_t(there)));
    }
    return words;
  }
#endif
  if (there) words = *static_cast<const Pack<uint32_t, Words>*>(data);
  return words;
}

// Loads the thread's elements of one input; zeros if the input is absent, and beyond its end.
//
// Nothing reads the loaded words before the values are used, so that all inputs' loads are in
// flight at once. When elements of 2 bytes were the result of both branches, ptxas took the words
// apart at the end of each, before the next load.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* __restrict__ data, int64_t first, int64_t numel,
                                           bool whole) {
  constexpr int kWords = sizeof(T) * N / sizeof(uint32_t), kPerWord = N / kWords;
  static_assert(kWords * sizeof(uint32_t) == sizeof(T) * N);
  auto words = load_words<kWords>(data + first, whole && data != nullptr);
  if (!whole && data != nullptr) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (first + i < numel) {
        const T value = data[first + i];
        uint32_t bits = 0;
        std::memcpy(&bits, &value, sizeof value);
        words.element[i / kPerWord] |= bits << 8 * sizeof(T) * (i % kPerWord);
      }
    }
  }
  Pack<T, N> pack;
  std::memcpy(&pack, &words, sizeof pack);
  return pack;
}

// Stores the thread's elements.
template <int N, class T>
__device__ __forceinline__ void store(T* __restrict__ data, const Pack<T, N>& pack, int64_t first,
                                      int64_t numel, bool whole) {
  if (whole) {
    *reinterpret_cast<Pack<T, N>*>(data + first) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (first + i < numel) data[first + i] = pack.element[i];
  }
}

// A call's noise as a kernel takes it: a tensor's data (or null), or the seed and stream.
template <class T>
struct DeviceNoise {
  const T* data;
  bool drawn;
  uint64_t seed, stream;
  const int64_t* seed_pointer;  // the seed in device memory, or null
  Divisor channels, pixels;     // see PixelLayout
  bool in_fours;  // four pixels of an image have whole Philox blocks, and 32 bits count these

  explicit DeviceNoise(const NoiseArgument& noise)
      : data(data_of<T>(noise.tensor)),
        drawn(noise.drawn),
        seed(noise.seed),
        stream(noise.stream),
        seed_pointer(data_of<int64_t>(noise.seed_tensor)),
        channels(noise.layout.channels),
        pixels(noise.layout.pixels),
        in_fours(pixels.divisor % 4 == 0 && pixels.divisor < int64_t(1) << 33) {}
};

// One logical element's normal.
template <class T>
__device__ __forceinline__ float normal_at(const DeviceNoise<T>& noise, uint64_t logical) {
  const Normals n = normals(noise.seed, noise.stream, logical / 4);
  const uint32_t which = logical % 4;
  return which == 0 ? n.z0 : which == 1 ? n.z1 : which == 2 ? n.z2 : n.z3;
}

// Stored elements in float32.
template <int N, class T>
__device__ __forceinline__ Pack<float, N> widened(const Pack<T, N>& stored) {
  Pack<float, N> z;
#pragma unroll
  for (int i = 0; i < N; ++i) z.element[i] = static_cast<float>(stored.element[i]);
  return z;
}

// The drawn noise of elements that have the memory's order in logical order too. The first one's
// index is a multiple of 4, as N is.
template <int N, class T>
__device__ __forceinline__ Pack<float, N> drawn_in_order(const DeviceNoise<T>& noise,
                                                         int64_t first) {
  static_assert(N % 4 == 0);
  Pack<float, N> z;
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const Normals n = normals(noise.seed, noise.stream, uint64_t(first + i) / 4);
    z.element[i] = n.z0;
    z.element[i + 1] = n.z1;
    z.element[i + 2] = n.z2;
    z.element[i + 3] = n.z3;
  }
  return z;
}

// The noise of a thread's elements in any layout. Where neighbours in memory are far apart in
// logical order, each element costs a Philox block of its own: see block_noise.cuh.
template <int N, class T>
__device__ __forceinline__ Pack<float, N> load_noise(const DeviceNoise<T>& noise, int64_t first,
                                                     int64_t numel, bool whole) {
  if (!noise.drawn) return widened(load<N>(noise.data, first, numel, whole));
  if (noise.channels.divisor == 1) return drawn_in_order<N>(noise, first);
  // Divisions find the thread's first element; the following ones are found by counting.
  Pack<float, N> z;
  int64_t channel, pixel;
  int64_t image = noise.channels.divide(first, channel);
  image = noise.pixels.divide(image, pixel);
  const int64_t channels = noise.channels.divisor, pixels = noise.pixels.divisor;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    z.element[i] = normal_at(noise, uint64_t((image * channels + channel) * pixels + pixel));
    if (++channel == channels) {
      channel = 0;
      if (++pixel == pixels) {
        pixel = 0;
        ++image;
      }
    }
  }
  return z;
}

// Where a kernel writes an image's elements among the channels of a larger one (see Placement).
template <class T>
struct DevicePlacement {
  T* data;
  Divisor middle, inner;
  int64_t outer_stride, middle_stride, inner_stride;
  bool packs;  // a thread's elements are adjacent and aligned

  DevicePlacement(const std::optional<Tensor>& to, const Placement& p, int elements)
      : data(data_to<T>(to)),
        middle(p.middle),
        inner(p.inner),
        outer_stride(p.outer_stride),
        middle_stride(p.middle_stride),
        inner_stride(p.inner_stride),
        packs(p.samples_are_whole() && p.middle * p.inner % elements == 0 &&
              p.outer_stride % elements == 0 && reinterpret_cast<uintptr_t>(data) % kBytes == 0) {}
};

// Stores a thread's elements of an image at their place; does nothing without data.
template <int N, class T>
__device__ __forceinline__ void place(const DevicePlacement<T>& to, const Pack<T, N>& pack,
                                      int64_t first, int64_t numel) {
  if (to.data == nullptr) return;
  int64_t inner, middle;
  int64_t outer = to.middle.divide(to.inner.divide(first, inner), middle);
  if (to.packs && first + N <= numel) {
    T* const start = to.data + outer * to.outer_stride + middle * to.inner.divisor + inner;
    *reinterpret_cast<Pack<T, N>*>(start) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (first + i < numel) {
      to.data[outer * to.outer_stride + middle * to.middle_stride + inner * to.inner_stride] =
          pack.element[i];
    }
    if (++inner == to.inner.divisor) {
      inner = 0;
      if (++middle == to.middle.divisor) {
        middle = 0;
        ++outer;
      }
    }
  }
}

inline cudaStream_t current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % kBytes == 0; }

// Appends the attributes of one compiled kernel to `all`.
template <class Kernel>
void append_attributes(Kernel* kernel, const std::string& name, std::vector<KernelAttributes>& all,
                       int threads = kThreads) {
  const auto check = [](cudaError_t error) {
    RDDM_CHECK(error == cudaSuccess, "no kernel attributes: ", cudaGetErrorString(error));
  };
  cudaFuncAttributes attributes;
  int blocks = 0;
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)));
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0));
  all.push_back(
      {name, attributes.numRegs, static_cast<int>(attributes.localSizeBytes), threads, blocks});
}

// Names of dtypes, for the names of kernels.
template <class T>
std::string dtype_name() {
  return std::is_same_v<T, float> ? "float32" : std::is_same_v<T, Half> ? "float16" : "bfloat16";
}

template <class Image, class Output>
std::string dtype_names() {
  return dtype_name<Image>() + ", outputs " + dtype_name<Output>();
}

// The number of blocks that cover `numel` elements, N per thread.
template <int N>
unsigned blocks_for(int64_t numel) {
  constexpr int64_t kPerBlock = int64_t(kThreads) * N;
  return static_cast<unsigned>((numel + kPerBlock - 1) / kPerBlock);
}

}  // namespace
}  // namespace rddm
