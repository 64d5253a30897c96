// reverse_step on a CUDA device.
#include <torch/csrc/stable/library.h>

#include "cuda_packs.cuh"
#include "kernel_attributes.h"
#include "reverse_step.h"
#include "reverse_step_inputs.h"

namespace rddm {
namespace {

// A step's coefficients: by value, or a row of a table in device memory, at an index that may be in
// device memory too.
struct StepSource {
  StepCoefficients<float> value;
  const StepCoefficients<float>* table = nullptr;
  int64_t rows = 0, step = 0;
  const int64_t* index = nullptr;

  // Also the step's number, which is added to the noise's stream. A row that is not there is NaN:
  // an error would have to stop the queue.
  __device__ __forceinline__ StepCoefficients<float> get(int64_t& number) const {
    number = 0;
    if (table == nullptr) return value;
    number = step + (index ? *index : 0);
    if (number >= 0 && number < rows) return table[number];
    StepCoefficients<float> nothing{};
    nothing.k_t = __int_as_float(0x7fffffff);
    return nothing;
  }
};

// `result` may be I_t.
template <Objective O, class Image, class Output>
__global__ void __launch_bounds__(kThreads)
    reverse_step_kernel(const StepSource source, const Image* I_t, const Output* __restrict__ out0,
                        const Output* __restrict__ out1, const Image* __restrict__ I_in,
                        DeviceNoise<Image> noise, Image* result,
                        const DevicePlacement<Output> next_input,
                        const DevicePlacement<Output> clean, int64_t numel, bool aligned) {
  constexpr int N = kElements<Image, Output>;
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (first >= numel) return;
  const bool whole = aligned && first + N <= numel;

  const auto x = load<N>(I_t, first, numel, whole);
  const auto y0 = load<N>(out0, first, numel, whole);
  const auto y1 = load<N>(out1, first, numel, whole);
  const auto x_in = load<N>(I_in, first, numel, whole);
  int64_t number;
  const StepCoefficients<float> c = source.get(number);
  noise.drawn = noise.drawn && c.sigma != 0;
  noise.stream += uint64_t(number);
  if (noise.seed_pointer) noise.seed = uint64_t(*noise.seed_pointer);
  const auto z = load_noise<N>(noise, first, numel, whole);

  Pack<Image, N> next;
  Pack<Output, N> next_network, I_0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const StepResult<float> step = reverse_step<O, StepTerms::kAny>(
        c, static_cast<float>(x.element[i]), static_cast<float>(y0.element[i]),
        static_cast<float>(y1.element[i]), static_cast<float>(x_in.element[i]), z.element[i]);
    next.element[i] = static_cast<Image>(step.next);
    next_network.element[i] = static_cast<Output>(step.next);
    I_0.element[i] = static_cast<Output>(step.I_0);
  }

  store<N>(result, next, first, numel, whole);
  place<N>(next_input, next_network, first, numel);
  place<N>(clean, I_0, first, numel);
}

template <class Image, class Output>
using Kernel = void (*)(StepSource, const Image*, const Output*, const Output*, const Image*,
                        DeviceNoise<Image>, Image*, DevicePlacement<Output>,
                        DevicePlacement<Output>, int64_t, bool);

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
void run(const ReverseStepInputs& in, const StepSource& source) {
  const int64_t numel = in.result.tensor.numel();
  if (numel == 0) return;

  constexpr int N = kElements<Image, Output>;
  const Image* I_t = data_of<Image>(in.I_t);
  const Image* I_in = data_of<Image>(in.I_in);
  const DeviceNoise<Image> noise(in.noise);
  const Output* out0 = data_of<Output>(in.out0);
  const Output* out1 = data_of<Output>(in.out1);
  Image* result = static_cast<Image*>(in.result.tensor.mutable_data_ptr());
  const DevicePlacement<Output> next_input(in.next_input, in.next_input_placement, N);
  const DevicePlacement<Output> clean(in.clean, in.clean_placement, N);
  const bool aligned = is_aligned(I_t) && is_aligned(I_in) && is_aligned(noise.data) &&
                       is_aligned(out0) && is_aligned(out1) && is_aligned(result);

  kernel_for<Image, Output>(
      in.objective)<<<blocks_for<N>(numel), kThreads, 0, current_stream(in.I_t)>>>(
      source, I_t, out0, out1, I_in, noise, result, next_input, clean, numel, aligned);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void run(const ReverseStepInputs& in, const StepSource& source) {
  const ScalarType image = in.I_t.scalar_type(), output = in.out0.scalar_type();
  if (image == ScalarType::Float && output == ScalarType::Float) {
    run<float, float>(in, source);
  } else if (image == ScalarType::Float && output == ScalarType::BFloat16) {
    run<float, BFloat16>(in, source);
  } else if (image == ScalarType::Float && output == ScalarType::Half) {
    run<float, Half>(in, source);
  } else if (image == ScalarType::BFloat16 && output == ScalarType::BFloat16) {
    run<BFloat16, BFloat16>(in, source);
  } else if (image == ScalarType::Half && output == ScalarType::Half) {
    run<Half, Half>(in, source);
  } else {
    STD_TORCH_CHECK(false, "reverse_step: no CUDA kernel for I_t in ",
                    torch::headeronly::toString(image), " beside out0 in ",
                    torch::headeronly::toString(output));
  }
}

Tensor reverse_step_cuda(const Tensor& I_t, const Tensor& out0, const std::optional<Tensor>& out1,
                         const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
                         std::optional<int64_t> seed, int64_t stream, int64_t objective,
                         double alpha_bar, double beta_bar, double one_minus_alpha_bar, double k_t,
                         double k_res, double k_noise, double k_0, double sigma, double offset,
                         double clip_res, double clip_0) {
  const torch::stable::accelerator::DeviceGuard guard(I_t.get_device_index());
  const ReverseStepInputs in =
      functional_inputs({I_t, out0, out1, I_in, noise, seed, stream, objective}, sigma);
  run(in,
      StepSource{StepCoefficients<float>::from(alpha_bar, beta_bar, one_minus_alpha_bar, k_t, k_res,
                                               k_noise, k_0, sigma, offset, clip_res, clip_0)});
  return in.result.finish();
}

void reverse_step_in_place_cuda(
    const Tensor& I_t, const Tensor& out0, const std::optional<Tensor>& out1,
    const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
    std::optional<int64_t> seed, const std::optional<Tensor>& seed_tensor, int64_t stream,
    int64_t objective, const Tensor& table, int64_t step, const std::optional<Tensor>& index,
    const std::optional<Tensor>& next_input, const std::optional<Tensor>& clean) {
  const torch::stable::accelerator::DeviceGuard guard(I_t.get_device_index());
  const ReverseStepInputs in = in_place_inputs(
      {I_t, out0, out1, I_in, noise, seed, stream, objective}, seed_tensor, next_input, clean);
  const StepRow row = step_row(table, step, index, I_t);
  run(in, StepSource{{},
                     static_cast<const StepCoefficients<float>*>(table.const_data_ptr()),
                     row.rows(),
                     step,
                     data_of<int64_t>(index)});
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
  m.impl("reverse_step_", TORCH_BOX(&rddm::reverse_step_in_place_cuda));
}
