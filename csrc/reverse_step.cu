// reverse_step on a CUDA device.
#include <torch/csrc/stable/library.h>

#include "cuda_packs.cuh"
#include "kernel_attributes.h"
#include "reverse_step.h"
#include "reverse_step_inputs.h"

namespace rddm {
namespace {

template <Objective O, class Image, class Output>
__global__ void __launch_bounds__(kThreads)
    reverse_step_kernel(StepCoefficients<float> c, const Image* __restrict__ I_t,
                        const Output* __restrict__ out0, const Output* __restrict__ out1,
                        const Image* __restrict__ I_in, const DeviceNoise<Image> noise,
                        Image* __restrict__ result, int64_t numel, bool aligned) {
  constexpr int N = kElements<Image, Output>;
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (first >= numel) return;
  const bool whole = aligned && first + N <= numel;

  const auto x = load<N>(I_t, first, numel, whole);
  const auto y0 = load<N>(out0, first, numel, whole);
  const auto y1 = load<N>(out1, first, numel, whole);
  const auto x_in = load<N>(I_in, first, numel, whole);
  const auto z = load_noise<N>(noise, first, numel, whole);

  Pack<Image, N> next;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    next.element[i] = static_cast<Image>(reverse_step<O>(
        c, static_cast<float>(x.element[i]), static_cast<float>(y0.element[i]),
        static_cast<float>(y1.element[i]), static_cast<float>(x_in.element[i]), z.element[i]));
  }

  store<N>(result, next, first, numel, whole);
}

template <class Image, class Output>
using Kernel = void (*)(StepCoefficients<float>, const Image*, const Output*, const Output*,
                        const Image*, DeviceNoise<Image>, Image*, int64_t, bool);

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

template <class Image, class Output>
void run(const ReverseStepInputs& in, const StepCoefficients<float>& coefficients) {
  const int64_t numel = in.result.tensor.numel();
  if (numel == 0) return;

  const Image* I_t = data_of<Image>(in.I_t);
  const Image* I_in = data_of<Image>(in.I_in);
  const DeviceNoise<Image> noise(in.noise);
  const Output* out0 = data_of<Output>(in.out0);
  const Output* out1 = data_of<Output>(in.out1);
  Image* result = static_cast<Image*>(in.result.tensor.mutable_data_ptr());
  const bool aligned = is_aligned(I_t) && is_aligned(I_in) && is_aligned(noise.data) &&
                       is_aligned(out0) && is_aligned(out1) && is_aligned(result);

  const unsigned blocks = blocks_for<kElements<Image, Output>>(numel);
  kernel_for<Image, Output>(in.objective)<<<blocks, kThreads, 0, current_stream(in.I_t)>>>(
      coefficients, I_t, out0, out1, I_in, noise, result, numel, aligned);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor reverse_step_cuda(const Tensor& I_t, const Tensor& out0, const std::optional<Tensor>& out1,
                         const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
                         std::optional<int64_t> seed, int64_t stream, int64_t objective,
                         double alpha_bar, double beta_bar, double one_minus_alpha_bar, double k_t,
                         double k_res, double k_noise, double k_0, double sigma, double clip_res,
                         double clip_0) {
  const torch::stable::accelerator::DeviceGuard guard(I_t.get_device_index());
  const ReverseStepInputs in(I_t, out0, out1, I_in, noise, seed, stream, objective, sigma);
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
  return in.result.finish();
}

template <class Image, class Output>
void append_all(const char* dtypes, std::vector<KernelAttributes>& all) {
  for (int objective = 0; objective < kObjectives; ++objective) {
    append_attributes(kernel_for<Image, Output>(static_cast<Objective>(objective)),
                      "reverse_step, objective " + std::to_string(objective) + ", " + dtypes, all);
  }
}

}  // namespace

std::vector<KernelAttributes> reverse_step_kernel_attributes() {
  std::vector<KernelAttributes> all;
  append_all<float, float>("float32, outputs float32", all);
  append_all<float, BFloat16>("float32, outputs bfloat16", all);
  append_all<float, Half>("float32, outputs float16", all);
  append_all<BFloat16, BFloat16>("bfloat16, outputs bfloat16", all);
  append_all<Half, Half>("float16, outputs float16", all);
  return all;
}

}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CUDA, m) {
  m.impl("reverse_step", TORCH_BOX(&rddm::reverse_step_cuda));
}
