// reverse_step on a CUDA device: every thread takes 16 bytes of the narrowest tensor.
//
// The kernel is bound by memory, so it is built to have all its loads in flight at once: each input
// is fetched by 128-bit loads into registers as stored, and only then widened and computed with.
// One kernel serves every size and alignment: a thread whose elements are not all there, or whose
// tensors are not all aligned, moves them one by one.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>

#include "kernel_attributes.h"
#include "reverse_step.h"
#include "reverse_step_inputs.h"

// These live in libtorch_cuda.so, which a CPU-only torch does not have. As weak references they are
// null there and the module still loads; no CUDA tensor exists then to bring anyone to this file.
#pragma weak aoti_torch_get_current_cuda_stream
#pragma weak torch_c10_cuda_check_msg
#pragma weak torch_c10_cuda_free_error_msg

namespace rddm {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kThreads = 256;
constexpr int kBytes = 16;  // the widest load there is on every architecture built for

// N elements as they are stored. Aligned so that copying one is 128-bit accesses and nothing else.
template <class T, int N>
struct alignas(sizeof(T) * N < kBytes ? sizeof(T) * N : kBytes) Pack {
  T element[N];
};

// How many elements a thread takes, for images stored as Image beside outputs stored as Output.
template <class Image, class Output>
constexpr int kElements = kBytes / std::min(sizeof(Image), sizeof(Output));

// The thread's elements of one input; zeros where the input is absent or ends.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* __restrict__ data, int64_t first, int64_t numel,
                                           bool whole) {
  Pack<T, N> pack{};
  if (data == nullptr) return pack;
  if (whole) return *reinterpret_cast<const Pack<T, N>*>(data + first);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (first + i < numel) pack.element[i] = data[first + i];
  }
  return pack;
}

template <Objective O, class Image, class Output>
__global__ void __launch_bounds__(kThreads)
    reverse_step_kernel(StepCoefficients<float> c, const Image* __restrict__ I_t,
                        const Output* __restrict__ out0, const Output* __restrict__ out1,
                        const Image* __restrict__ I_in, const Image* __restrict__ noise,
                        Image* __restrict__ result, int64_t numel, bool aligned) {
  constexpr int N = kElements<Image, Output>;
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (first >= numel) return;
  const bool whole = aligned && first + N <= numel;

  const auto x = load<N>(I_t, first, numel, whole);
  const auto y0 = load<N>(out0, first, numel, whole);
  const auto y1 = load<N>(out1, first, numel, whole);
  const auto x_in = load<N>(I_in, first, numel, whole);
  const auto z = load<N>(noise, first, numel, whole);

  Pack<Image, N> next;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    next.element[i] = static_cast<Image>(
        reverse_step<O>(c, static_cast<float>(x.element[i]), static_cast<float>(y0.element[i]),
                        static_cast<float>(y1.element[i]), static_cast<float>(x_in.element[i]),
                        static_cast<float>(z.element[i])));
  }

  if (whole) {
    *reinterpret_cast<Pack<Image, N>*>(result + first) = next;
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (first + i < numel) result[first + i] = next.element[i];
    }
  }
}

template <class Image, class Output>
using Kernel = void (*)(StepCoefficients<float>, const Image*, const Output*, const Output*,
                        const Image*, const Image*, Image*, int64_t, bool);

template <class Image, class Output>
Kernel<Image, Output> kernel_for(Objective objective) {
  switch (objective) {
    case Objective::kPredResNoise:
      return reverse_step_kernel<Objective::kPredResNoise, Image, Output>;
    case Objective::kPredResAddNoise:
      return reverse_step_kernel<Objective::kPredResAddNoise, Image, Output>;
    case Objective::kPredX0Noise:
      return reverse_step_kernel<Objective::kPredX0Noise, Image, Output>;
    case Objective::kPredX0AddNoise:
      return reverse_step_kernel<Objective::kPredX0AddNoise, Image, Output>;
    case Objective::kPredRes:
      return reverse_step_kernel<Objective::kPredRes, Image, Output>;
    case Objective::kPredNoise:
      return reverse_step_kernel<Objective::kPredNoise, Image, Output>;
    case Objective::kPredX0:
      return reverse_step_kernel<Objective::kPredX0, Image, Output>;
  }
  STD_TORCH_CHECK(false, "reverse_step: unknown objective");
}

cudaStream_t current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % kBytes == 0; }

template <class Image, class Output>
void run(const ReverseStepInputs& in, const StepCoefficients<float>& coefficients) {
  using In = ReverseStepInputs;
  constexpr int64_t kPerBlock = int64_t(kThreads) * kElements<Image, Output>;
  const int64_t numel = in.result.numel();
  if (numel == 0) return;

  const Image* I_t = In::data<Image>(in.I_t);
  const Image* I_in = In::data<Image>(in.I_in);
  const Image* noise = In::data<Image>(in.noise);
  const Output* out0 = In::data<Output>(in.out0);
  const Output* out1 = In::data<Output>(in.out1);
  Image* result = static_cast<Image*>(in.result.mutable_data_ptr());
  const bool aligned = is_aligned(I_t) && is_aligned(I_in) && is_aligned(noise) &&
                       is_aligned(out0) && is_aligned(out1) && is_aligned(result);

  const unsigned blocks = static_cast<unsigned>((numel + kPerBlock - 1) / kPerBlock);
  kernel_for<Image, Output>(in.objective)<<<blocks, kThreads, 0, current_stream(in.result)>>>(
      coefficients, I_t, out0, out1, I_in, noise, result, numel, aligned);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor reverse_step_cuda(const Tensor& I_t, const Tensor& out0, const std::optional<Tensor>& out1,
                         const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
                         int64_t objective, double alpha_bar, double beta_bar,
                         double one_minus_alpha_bar, double k_t, double k_res, double k_noise,
                         double k_0, double sigma, double clip_res, double clip_0) {
  const torch::stable::accelerator::DeviceGuard guard(I_t.get_device_index());
  const ReverseStepInputs in(I_t, out0, out1, I_in, noise, objective, sigma);
  const auto coefficients = StepCoefficients<float>::from(
      alpha_bar, beta_bar, one_minus_alpha_bar, k_t, k_res, k_noise, k_0, sigma, clip_res, clip_0);
  const ScalarType image = in.I_t.scalar_type(), output = in.out0.scalar_type();
  if (image == ScalarType::Float && output == ScalarType::Float) {
    run<float, float>(in, coefficients);
  } else if (image == ScalarType::Float && output == ScalarType::BFloat16) {
    run<float, BFloat16>(in, coefficients);
  } else if (image == ScalarType::Float && output == ScalarType::Half) {
    run<float, Half>(in, coefficients);
  } else if (image == ScalarType::BFloat16 && output == ScalarType::BFloat16) {
    run<BFloat16, BFloat16>(in, coefficients);
  } else if (image == ScalarType::Half && output == ScalarType::Half) {
    run<Half, Half>(in, coefficients);
  } else {
    STD_TORCH_CHECK(false, "reverse_step: no CUDA kernel for I_t in ",
                    torch::headeronly::toString(image), " beside out0 in ",
                    torch::headeronly::toString(output));
  }
  return in.result;
}

void check(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "no kernel attributes: ", cudaGetErrorString(error));
}

template <class Image, class Output>
void append_attributes(const char* dtypes, std::vector<KernelAttributes>& all) {
  for (int objective = 0; objective < kObjectives; ++objective) {
    const auto kernel =
        reinterpret_cast<const void*>(kernel_for<Image, Output>(static_cast<Objective>(objective)));
    cudaFuncAttributes attributes;
    int blocks = 0;
    check(cudaFuncGetAttributes(&attributes, kernel));
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, 0));
    all.push_back({"reverse_step, objective " + std::to_string(objective) + ", " + dtypes,
                   attributes.numRegs, static_cast<int>(attributes.localSizeBytes), kThreads,
                   blocks});
  }
}

}  // namespace

std::vector<KernelAttributes> reverse_step_kernel_attributes() {
  std::vector<KernelAttributes> all;
  append_attributes<float, float>("float32, outputs float32", all);
  append_attributes<float, BFloat16>("float32, outputs bfloat16", all);
  append_attributes<float, Half>("float32, outputs float16", all);
  append_attributes<BFloat16, BFloat16>("bfloat16, outputs bfloat16", all);
  append_attributes<Half, Half>("float16, outputs float16", all);
  return all;
}

}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CUDA, m) {
  m.impl("reverse_step", TORCH_BOX(&rddm::reverse_step_cuda));
}
