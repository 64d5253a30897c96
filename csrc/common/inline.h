// Functions that both the host and the device compile.
#pragma once

// Always inlined: the host compiles its loops for several instruction sets, and a function is
// compiled for the loop's set only if it is inlined into the loop.
#if defined(__CUDACC__)
#define RDDM_INLINE __host__ __device__ __forceinline__
#else
#define RDDM_INLINE __attribute__((always_inline)) inline
#endif

namespace rddm {

// A term of a sum: left out, not multiplied, where its coefficient is exactly 0, because x may be
// infinite.
template <class T>
RDDM_INLINE T term(T k, T x) {
  return k != 0.f ? k * x : T{};
}

}  // namespace rddm
