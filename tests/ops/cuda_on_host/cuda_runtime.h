// In place of CUDA's: what csrc/*.cu need of it, so that a host compiler makes kernels of them that
// run on the CPU. A block's threads are coroutines, which give way at barriers and nowhere else;
// the blocks of a launch run one after the other, and every other launch runs blocks and threads
// backwards, since no order may matter.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time

struct uint3 {
  unsigned x, y, z;
};
struct float2 {
  float x, y;
};
extern uint3 threadIdx, blockIdx, gridDim;

namespace on_host {

constexpr unsigned kWarp = 32;

void run(unsigned blocks, unsigned threads, const std::function<void()>& kernel);
void wait_for_block();
void wait_for_warp();
uint64_t& slot_of(unsigned thread);  // what a thread shows the others of its warp

template <class... Arguments>
struct Launch {
  unsigned blocks, threads;
  std::tuple<Arguments...> arguments;
};

// kernel<<<blocks, threads, shared, stream>>>(arguments...) is compiled as
// kernel | Grid(blocks, threads, shared, stream)(arguments...).
struct Grid {
  unsigned blocks, threads;
  size_t shared;
  void* stream;

  template <class... Arguments>
  Launch<Arguments...> operator()(Arguments... arguments) const {
    return {blocks, threads, {arguments...}};
  }
};

template <class... Parameters, class... Arguments>
void operator|(void (*kernel)(Parameters...), const Launch<Arguments...>& launch) {
  std::apply(
      [&](auto... arguments) {
        run(launch.blocks, launch.threads, [&] { kernel(Parameters(arguments)...); });
      },
      launch.arguments);
}

// In place of torch's: there is no accelerator.
struct DeviceGuard {
  explicit DeviceGuard(int) {}
};

}  // namespace on_host

inline void __syncthreads() { on_host::wait_for_block(); }

template <class T>
T __shfl_down_sync(unsigned, T value, unsigned offset) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  const unsigned from = threadIdx.x % on_host::kWarp + offset < on_host::kWarp ? offset : 0;
  std::memcpy(&on_host::slot_of(threadIdx.x), &value, sizeof(T));
  on_host::wait_for_warp();
  std::memcpy(&value, &on_host::slot_of(threadIdx.x + from), sizeof(T));
  on_host::wait_for_warp();
  return value;
}

// One thread runs at a time, and memory has one state.
inline void __threadfence() {}

template <class T>
T atomicAdd(T* word, T value) {
  return std::exchange(*word, *word + value);
}

template <class T>
T atomicCAS(T* word, T expected, T value) {
  return std::exchange(*word, *word == expected ? value : *word);
}

template <class T>
T __ldcg(const T* from) {
  return *from;
}

inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// What the host side asks of the runtime.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNotSupported };
struct cudaFuncAttributes {
  int numRegs;
  size_t localSizeBytes;
};
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "this is not a CUDA device"; }
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) {
  return cudaErrorNotSupported;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int*, Kernel, int, size_t) {
  return cudaErrorNotSupported;
}
