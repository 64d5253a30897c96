// tacos_step on a CUDA device: a thread takes some pixels of a sample, with all their channels.
#include "tacos_step/tacos_step.h"

#include <torch/csrc/stable/library.h>

#include "common/cuda_packs.cuh"
#include "common/dispatch.h"
#include "common/kernel_attributes.h"
#include "tacos_step/tacos_step_inputs.h"

namespace rddm {
namespace {

// x_end as a kernel takes it; see TacosStepInputs.
template <class Image>
struct DeviceEnd {
  const Image* data;
  int64_t sample, channel, pixel;
};

struct DeviceLayer {
  const float* data;
  int64_t sample;
};

template <TacosKind K, class Image>
__global__ void __launch_bounds__(kThreads)
    tacos_step_kernel(const Image* __restrict__ x_s, const Image* __restrict__ x_0,
                      const DeviceEnd<Image> x_end, const DeviceLayer layer_s,
                      const DeviceLayer layer_to, SnowLevel<float> from, SnowLevel<float> to,
                      float k_0, float k_end, bool needs_grey, int channels, int64_t pixels,
                      Divisor packs, int64_t threads, Image* __restrict__ result, bool aligned) {
  constexpr int N = kElements<Image, Image>;
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (thread >= threads) return;
  int64_t pack;
  const int64_t sample = packs.divide(thread, pack);
  const int64_t first = pack * N;
  const bool whole = aligned && first + N <= pixels;
  const int64_t image = sample * channels * pixels;

  const auto before = load<N>(layer_s.data ? layer_s.data + sample * layer_s.sample : nullptr,
                              first, pixels, whole);
  const auto after = load<N>(layer_to.data ? layer_to.data + sample * layer_to.sample : nullptr,
                             first, pixels, whole);

  // The second loop finds x_0 in the first-level cache.
  Pack<float, N> grey{};
  if (K != TacosKind::kMix && needs_grey) {
    for (int c = 0; c < channels; ++c) {
      const auto clean = load<N>(x_0 + image + c * pixels, first, pixels, whole);
      const float weight = grey_weight<float>(K, c, channels);
#pragma unroll
      for (int i = 0; i < N; ++i) grey.element[i] += weight * static_cast<float>(clean.element[i]);
    }
  }

  for (int c = 0; c < channels; ++c) {
    const int64_t plane = image + c * pixels;
    const auto x = load<N>(x_s + plane, first, pixels, whole);
    const auto clean = load<N>(x_0 + plane, first, pixels, whole);
    Pack<Image, N> far{}, next;
    if (K == TacosKind::kMix && x_end.data != nullptr) {
      const Image* const data = x_end.data + sample * x_end.sample + c * x_end.channel;
      if (x_end.pixel) {
        far = load<N>(data, first, pixels, whole);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) far.element[i] = *data;
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float x_i = static_cast<float>(x.element[i]);
      const float clean_i = static_cast<float>(clean.element[i]);
      float step;
      if constexpr (K == TacosKind::kSnow) {
        step =
            snow_step(from, to, x_i, clean_i, grey.element[i], before.element[i], after.element[i]);
      } else {
        const float far_i =
            K == TacosKind::kGrey ? grey.element[i] : static_cast<float>(far.element[i]);
        const float weight = layer_to.data ? after.element[i] - before.element[i] : 1.0f;
        step = mixed_step(x_i, clean_i, far_i, weight, k_0, k_end);
      }
      next.element[i] = static_cast<Image>(step);
    }
    store<N>(result + plane, next, first, pixels, whole);
  }
}

// call.operator()<K>() for every kind.
template <class Call>
void for_each_kind(Call&& call) {
  call.template operator()<TacosKind::kMix>();
  call.template operator()<TacosKind::kGrey>();
  call.template operator()<TacosKind::kSnow>();
}

template <class Image>
void run(const TacosStepInputs& in) {
  if (in.result.numel() == 0) return;
  constexpr int N = kElements<Image, Image>;
  const Image* x_s = data_of<Image>(in.x_s);
  const Image* x_0 = data_of<Image>(in.x_0);
  const DeviceEnd<Image> x_end{data_of<Image>(in.x_end), in.end_sample, in.end_channel,
                               in.end_pixel};
  const DeviceLayer layer_s{data_of<float>(in.layer_s), in.layer_stride(in.layer_s)};
  const DeviceLayer layer_to{data_of<float>(in.layer_to), in.layer_stride(in.layer_to)};
  Image* result = static_cast<Image*>(in.result.mutable_data_ptr());
  // Every plane must begin at an aligned address, not the first one alone.
  const bool aligned = in.pixels % N == 0 && is_aligned(x_s) && is_aligned(x_0) &&
                       is_aligned(result) && is_aligned(layer_s.data) &&
                       is_aligned(layer_to.data) && (!in.end_pixel || is_aligned(x_end.data));
  const int64_t packs = (in.pixels + N - 1) / N, threads = in.batch * packs;
  for_each_kind([&]<TacosKind K>() {
    if (K != in.kind) return;
    tacos_step_kernel<K, Image><<<blocks_for<1>(threads), kThreads, 0, current_stream(in.x_s)>>>(
        x_s, x_0, x_end, layer_s, layer_to, SnowLevel<float>::of(in.first, layer_s.data != nullptr),
        SnowLevel<float>::of(in.second, layer_to.data != nullptr), float(in.first),
        float(in.second), in.needs_grey(), int(in.channels), in.pixels, Divisor(packs), threads,
        result, aligned);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor tacos_step_cuda(const Tensor& x_s, const Tensor& x_0, const std::optional<Tensor>& x_end,
                       const std::optional<Tensor>& layer_s, const std::optional<Tensor>& layer_to,
                       int64_t kind, const std::vector<double>& numbers) {
  const torch::stable::accelerator::DeviceGuard guard(x_s.get_device_index());
  const TacosStepInputs in(x_s, x_0, x_end, layer_s, layer_to, kind, numbers);
  for_dtype<false>(in.x_s.scalar_type(), "tacos_step: no CUDA kernel",
                   [&]<class Image>() { run<Image>(in); });
  return in.finish();
}

}  // namespace

std::vector<KernelAttributes> tacos_step_kernel_attributes() {
  std::vector<KernelAttributes> all;
  for_each_dtype([&]<class Image>() {
    for_each_kind([&]<TacosKind K>() {
      append_attributes(tacos_step_kernel<K, Image>,
                        "tacos_step, kind " + std::to_string(int(K)) + ", " + dtype_name<Image>(),
                        all);
    });
  });
  return all;
}

}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CUDA, m) {
  m.impl("tacos_step", TORCH_BOX(&rddm::tacos_step_cuda));
}
