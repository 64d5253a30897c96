// forward_diffuse on a CUDA device.
#include "forward_diffuse/forward_diffuse.h"

#include <torch/csrc/stable/library.h>

#include "common/cuda_packs.cuh"
#include "common/dispatch.h"
#include "common/kernel_attributes.h"
#include "forward_diffuse/forward_diffuse_inputs.h"

namespace rddm {
namespace {

template <class Image>
__global__ void __launch_bounds__(kThreads)
    forward_diffuse_kernel(const Image* __restrict__ I_0, const Image* __restrict__ I_in,
                           const DeviceNoise<Image> noise, const int64_t* __restrict__ t,
                           const float* __restrict__ alpha_bar, const float* __restrict__ beta_bar,
                           int64_t table_length, Divisor per_sample, Image* __restrict__ result,
                           int64_t numel, bool aligned) {
  constexpr int N = kElements<Image, Image>;
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (first >= numel) return;
  const bool whole = aligned && first + N <= numel;

  const auto x_0 = load<N>(I_0, first, numel, whole);
  const auto x_in = load<N>(I_in, first, numel, whole);
  const auto z = load_noise<N>(noise, first, numel, whole);

  // Most threads stay within one sample; the others look up every element's index.
  int64_t within;
  int64_t sample = per_sample.divide(first, within), end = (sample + 1) * per_sample.divisor;
  float a, b;
  const auto look_up = [&] {
    const int64_t index = t[sample];
    // An index out of range gives NaN, because raising an error would stall the queue.
    const bool inside = index >= 0 && index < table_length;
    a = inside ? alpha_bar[index] : nanf("");
    b = inside ? beta_bar[index] : nanf("");
  };
  look_up();

  Pack<Image, N> I_t{};
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (first + i >= end && first + i < numel) {
      ++sample;
      end += per_sample.divisor;
      look_up();
    }
    I_t.element[i] = static_cast<Image>(forward_diffuse(static_cast<float>(x_0.element[i]),
                                                        static_cast<float>(x_in.element[i]),
                                                        z.element[i], a, b));
  }
  store<N>(result, I_t, first, numel, whole);
}

template <class Image>
void run(const ForwardDiffuseInputs& in) {
  const int64_t numel = in.I_0.numel();
  if (numel == 0) return;
  const Image* I_0 = data_of<Image>(in.I_0);
  const Image* I_in = data_of<Image>(in.I_in);
  const DeviceNoise<Image> noise(in.noise);
  Image* result = static_cast<Image*>(in.result.tensor.mutable_data_ptr());
  const bool aligned =
      is_aligned(I_0) && is_aligned(I_in) && is_aligned(noise.data) && is_aligned(result);
  forward_diffuse_kernel<Image>
      <<<blocks_for<kElements<Image, Image>>(numel), kThreads, 0, current_stream(in.I_0)>>>(
          I_0, I_in, noise, data_of<int64_t>(in.t), data_of<float>(in.alpha_bar),
          data_of<float>(in.beta_bar), in.alpha_bar.numel(), Divisor(in.per_sample), result, numel,
          aligned);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor forward_diffuse_cuda(const Tensor& I_0, const std::optional<Tensor>& I_in, const Tensor& t,
                            const Tensor& alpha_bar, const Tensor& beta_bar,
                            const std::optional<Tensor>& noise, std::optional<int64_t> seed,
                            int64_t stream) {
  const torch::stable::accelerator::DeviceGuard guard(I_0.get_device_index());
  const ForwardDiffuseInputs in(I_0, I_in, t, alpha_bar, beta_bar, noise, seed, stream);
  for_dtype<false>(in.I_0.scalar_type(), "forward_diffuse: no CUDA kernel",
                   [&]<class Image>() { run<Image>(in); });
  return in.result.finish();
}

}  // namespace

std::vector<KernelAttributes> forward_diffuse_kernel_attributes() {
  std::vector<KernelAttributes> all;
  for_each_dtype([&]<class Image>() {
    append_attributes(forward_diffuse_kernel<Image>, "forward_diffuse, " + dtype_name<Image>(),
                      all);
  });
  return all;
}

}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CUDA, m) {
  m.impl("forward_diffuse", TORCH_BOX(&rddm::forward_diffuse_cuda));
}
