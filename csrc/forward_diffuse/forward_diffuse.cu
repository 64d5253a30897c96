// forward_diffuse on a CUDA device.
#include "forward_diffuse/forward_diffuse.h"

#include <torch/csrc/stable/library.h>

#include "common/block_noise.cuh"
#include "common/cuda_packs.cuh"
#include "common/dispatch.h"
#include "common/kernel_attributes.h"
#include "forward_diffuse/forward_diffuse_inputs.h"

namespace rddm {
namespace {

template <class Image>
__global__ void __launch_bounds__(kDrawingThreads)
    forward_diffuse_kernel(const Image* __restrict__ I_0, const Image* __restrict__ I_in,
                           const DeviceNoise<Image> noise, const int64_t* __restrict__ t,
                           const float* __restrict__ alpha_bar, const float* __restrict__ beta_bar,
                           int64_t table_length, Divisor per_sample, Image* __restrict__ result,
                           int64_t numel, bool aligned) {
  constexpr int N = kElements<Image, Image>, P = ThreadPacks<N>::kCount;
  const ThreadPacks<N> part{numel, aligned};
  Pack<Image, N> x_0[P], x_in[P], stored[P];
  part.load(I_0, x_0);
  part.load(I_in, x_in);
  part.load(noise.data, stored);

  // The coefficients of the sample that has an element; it ends at `end`.
  int64_t end = 0;
  float a, b;
  const auto look_up = [&](int64_t element) {
    int64_t within;
    const int64_t index = t[per_sample.divide(element, within)];
    // An index out of range gives NaN, because raising an error would stall the queue.
    const bool inside = index >= 0 && index < table_length;
    a = inside ? alpha_bar[index] : nanf("");
    b = inside ? beta_bar[index] : nanf("");
    end = element - within + per_sample.divisor;
  };
  // Before the noise: of a look-up's three loads each needs the one before.
  if (part.first(0) < numel) look_up(part.first(0));
  Pack<float, N> z[P];
  block_noise(noise, part, stored, z);

#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int64_t first = part.first(p);
    Pack<Image, N> I_t{};
    const auto diffuse = [&](int i) {
      I_t.element[i] = static_cast<Image>(forward_diffuse(static_cast<float>(x_0[p].element[i]),
                                                          static_cast<float>(x_in[p].element[i]),
                                                          z[p].element[i], a, b));
    };
    if (first + N <= end) {  // within the sample, as most packs are
#pragma unroll
      for (int i = 0; i < N; ++i) diffuse(i);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (first + i >= end && first + i < numel) look_up(first + i);
        diffuse(i);
      }
    }
    store<N>(result, I_t, first, numel, part.whole());
  }
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
  const unsigned blocks = ThreadPacks<kElements<Image, Image>>::blocks(numel);
  forward_diffuse_kernel<Image><<<blocks, kDrawingThreads, 0, current_stream(in.I_0)>>>(
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
    append_attributes(forward_diffuse_kernel<Image>, "forward_diffuse, " + dtype_name<Image>(), all,
                      kDrawingThreads);
  });
  return all;
}

}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CUDA, m) {
  m.impl("forward_diffuse", TORCH_BOX(&rddm::forward_diffuse_cuda));
}
