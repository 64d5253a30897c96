// reverse_step on a CUDA device.
#include <torch/csrc/stable/library.h>

#include "common/block_noise.cuh"
#include "common/cuda_packs.cuh"
#include "common/dispatch.h"
#include "common/kernel_attributes.h"
#include "reverse_step/reverse_step.h"
#include "reverse_step/reverse_step_inputs.h"

namespace rddm {
namespace {

// A step's coefficients: by value, or a row of a table in device memory. The row's index may be in
// device memory too.
struct StepSource {
  StepCoefficients<float> value;
  const StepCoefficients<float>* table = nullptr;
  int64_t rows = 0, step = 0;
  const int64_t* index = nullptr;

  // Also returns the step's number, which is added to the noise's stream. A missing row makes the
  // image NaN, because raising an error would stall the queue.
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

// `result` may be I_t. Four blocks per multiprocessor; for a fifth the compiler would spill.
template <Objective O, class Image, class Output>
__global__ void __launch_bounds__(kDrawingThreads, 4)
    reverse_step_kernel(const StepSource source, const Image* I_t, const Output* __restrict__ out0,
                        const Output* __restrict__ out1, const Image* __restrict__ I_in,
                        DeviceNoise<Image> noise, Image* result,
                        const DevicePlacement<Output> next_input,
                        const DevicePlacement<Output> clean, int64_t numel, bool aligned) {
  constexpr int N = kElements<Image, Output>, P = ThreadPacks<N>::kCount;
  const ThreadPacks<N> part{numel, aligned};
  Pack<Image, N> x[P], x_in[P], stored[P];
  Pack<Output, N> y0[P], y1[P];
  part.load(I_t, x);
  part.load(out0, y0);
  part.load(out1, y1);
  part.load(I_in, x_in);
  part.load(noise.data, stored);
  int64_t number;
  const StepCoefficients<float> c = source.get(number);
  noise.drawn = noise.drawn && c.sigma != 0;
  noise.stream += uint64_t(number);
  if (noise.seed_pointer) noise.seed = uint64_t(*noise.seed_pointer);
  Pack<float, N> z[P];
  block_noise(noise, part, stored, z);

#pragma unroll
  for (int p = 0; p < P; ++p) {
    Pack<Image, N> next;
    Pack<Output, N> next_network, I_0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const StepResult<float> step = reverse_step<O, StepTerms::kAny>(
          c, static_cast<float>(x[p].element[i]), static_cast<float>(y0[p].element[i]),
          static_cast<float>(y1[p].element[i]), static_cast<float>(x_in[p].element[i]),
          z[p].element[i]);
      next.element[i] = static_cast<Image>(step.next);
      next_network.element[i] = static_cast<Output>(step.next);
      I_0.element[i] = static_cast<Output>(step.I_0);
    }
    store<N>(result, next, part.first(p), numel, part.whole());
    place<N>(next_input, next_network, part.first(p), numel);
    place<N>(clean, I_0, part.first(p), numel);
  }
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

  for_objective(in.objective, [&]<Objective O>() {
    reverse_step_kernel<O, Image, Output>
        <<<ThreadPacks<N>::blocks(numel), kDrawingThreads, 0, current_stream(in.I_t)>>>(
            source, I_t, out0, out1, I_in, noise, result, next_input, clean, numel, aligned);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

constexpr const char* kNoKernel = "reverse_step: no CUDA kernel for I_t";

Tensor reverse_step_cuda(const Tensor& I_t, const Tensor& out0, const std::optional<Tensor>& out1,
                         const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
                         std::optional<int64_t> seed, int64_t stream, int64_t objective,
                         const std::vector<double>& numbers) {
  const torch::stable::accelerator::DeviceGuard guard(I_t.get_device_index());
  const ReverseStepInputs in =
      functional_inputs({I_t, out0, out1, I_in, noise, seed, stream, objective}, numbers);
  const StepSource source{StepCoefficients<float>::of(numbers.data())};
  for_pair<false>(in.I_t.scalar_type(), in.out0.scalar_type(), kNoKernel,
                  [&]<class Image, class Output>() { run<Image, Output>(in, source); });
  return in.result.finish();
}

void reverse_step_in_place_cuda(
    const Tensor& I_t, const Tensor& out0, const std::optional<Tensor>& out1,
    const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
    std::optional<int64_t> seed, const std::optional<Tensor>& seed_tensor, int64_t stream,
    int64_t objective, const Tensor& table, int64_t step, const std::optional<Tensor>& index,
    const std::optional<Tensor>& next_input, const std::optional<Tensor>& clean) {
  const torch::stable::accelerator::DeviceGuard guard(I_t.get_device_index());
  const ReverseStepInputs in =
      in_place_inputs({I_t, out0, out1, I_in, noise, seed, stream, objective}, seed_tensor, table,
                      index, next_input, clean);
  const auto* const rows = static_cast<const StepCoefficients<float>*>(table.const_data_ptr());
  const StepSource source{{}, rows, table.size(0), step, data_of<int64_t>(index)};
  for_pair<false>(in.I_t.scalar_type(), in.out0.scalar_type(), kNoKernel,
                  [&]<class Image, class Output>() { run<Image, Output>(in, source); });
}

}  // namespace

std::vector<KernelAttributes> reverse_step_kernel_attributes() {
  std::vector<KernelAttributes> all;
  for_each_pair([&]<class Image, class Output>() {
    for_each_objective([&]<Objective O>() {
      append_attributes(
          reverse_step_kernel<O, Image, Output>,
          "reverse_step, objective " + std::to_string(int(O)) + ", " + dtype_names<Image, Output>(),
          all, kDrawingThreads);
    });
  });
  return all;
}

}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CUDA, m) {
  m.impl("reverse_step", TORCH_BOX(&rddm::reverse_step_cuda));
  m.impl("reverse_step_", TORCH_BOX(&rddm::reverse_step_in_place_cuda));
}
