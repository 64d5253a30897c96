// joint_loss on a CUDA device: one pass over the images, which leaves a pair of sums per block, and
// a small kernel that adds these in a fixed order, so that the same input gives the same bits.
#include "joint_loss/joint_loss.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/cuda_packs.cuh"
#include "common/dispatch.h"
#include "joint_loss/joint_loss_inputs.h"

namespace rddm {
namespace {

// The sum of a value over the block's threads, in thread 0.
template <class T>
__device__ __forceinline__ T block_sum(T value) {
  __shared__ T of_warp[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_down_sync(0xffffffffu, value, offset);
  }
  __syncthreads();  // thread 0 of the last call may still read the buffer
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int warp = 1; warp < kThreads / 32; ++warp) value += of_warp[warp];
  }
  return value;
}

// Three blocks per multiprocessor; without this bound the compiler spills registers for a fourth.
template <Objective O, class Image, class Output>
__global__ void __launch_bounds__(kThreads, 3)
    joint_loss_kernel(const Output* __restrict__ out0, const Output* __restrict__ out1,
                      const Image* __restrict__ I_0, const Image* __restrict__ I_in,
                      const DeviceNoise<Image> noise, const float* __restrict__ lam, float weight0,
                      float weight1, float scale, bool squared, Output* __restrict__ gradient0,
                      Output* __restrict__ gradient1, float2* __restrict__ sums, int64_t numel,
                      bool aligned) {
  constexpr int N = kElements<Image, Output>;
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N;
  const bool whole = aligned && first + N <= numel;
  float sum0 = 0, sum1 = 0;
  if (first < numel) {
    const auto y0 = load<N>(out0, first, numel, whole);
    const auto y1 = load<N>(out1, first, numel, whole);
    const auto x_0 = load<N>(I_0, first, numel, whole);
    const auto x_in = load<N>(I_in, first, numel, whole);
    const auto z = load_noise<N>(noise, first, numel, whole);
    if (lam != nullptr) {
      weight0 = *lam;
      weight1 = 1 - weight0;
    }
    const float scale0 = weight0 * scale, scale1 = weight1 * scale;
    Pack<Output, N> g0, g1;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float a = static_cast<float>(x_0.element[i]), b = static_cast<float>(x_in.element[i]);
      const float y = static_cast<float>(y0.element[i]), y_ = static_cast<float>(y1.element[i]);
      const auto t = squared ? joint_loss<O, true>(a, b, z.element[i], y, y_, scale0, scale1)
                             : joint_loss<O, false>(a, b, z.element[i], y, y_, scale0, scale1);
      g0.element[i] = static_cast<Output>(t.derivative0);
      g1.element[i] = static_cast<Output>(t.derivative1);
      if (first + i < numel) {
        sum0 += t.value0;
        sum1 += t.value1;
      }
    }
    store<N>(gradient0, g0, first, numel, whole);
    if constexpr (has_two_outputs(O)) store<N>(gradient1, g1, first, numel, whole);
  }
  sum0 = block_sum(sum0);
  sum1 = block_sum(sum1);
  if (threadIdx.x == 0) sums[blockIdx.x] = {sum0, sum1};
}

__global__ void __launch_bounds__(kThreads)
    mean_kernel(const float2* __restrict__ sums, int64_t count, double numel,
                float* __restrict__ parts) {
  double total0 = 0, total1 = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    total0 += sums[i].x;
    total1 += sums[i].y;
  }
  total0 = block_sum(total0);
  total1 = block_sum(total1);
  if (threadIdx.x == 0) {
    parts[0] = static_cast<float>(total0 / numel);
    parts[1] = static_cast<float>(total1 / numel);
  }
}

template <class Image, class Output>
void run(const JointLossInputs& in, double weight0, double weight1, float* parts) {
  const int64_t numel = in.out0.numel();
  const unsigned blocks = blocks_for<kElements<Image, Output>>(numel);
  const Tensor sums = torch::stable::new_empty(in.out0, {2 * int64_t(blocks)}, ScalarType::Float);
  float2* const sums_data = static_cast<float2*>(sums.mutable_data_ptr());
  const Output* out0 = data_of<Output>(in.out0);
  const Output* out1 = data_of<Output>(in.out1);
  const Image* I_0 = data_of<Image>(in.I_0);
  const Image* I_in = data_of<Image>(in.I_in);
  const DeviceNoise<Image> noise(in.noise);
  Output* gradient0 = static_cast<Output*>(in.gradient0.tensor.mutable_data_ptr());
  Output* gradient1 = static_cast<Output*>(in.gradient1.tensor.mutable_data_ptr());
  const bool aligned = is_aligned(out0) && is_aligned(out1) && is_aligned(I_0) &&
                       is_aligned(I_in) && is_aligned(noise.data) && is_aligned(gradient0) &&
                       is_aligned(gradient1);
  const cudaStream_t stream = current_stream(in.out0);
  if (blocks > 0) {
    for_objective(in.objective, [&]<Objective O>() {
      joint_loss_kernel<O, Image, Output><<<blocks, kThreads, 0, stream>>>(
          out0, out1, I_0, I_in, noise, data_of<float>(in.lam), static_cast<float>(weight0),
          static_cast<float>(weight1), static_cast<float>(in.scale), in.squared, gradient0,
          gradient1, sums_data, numel, aligned);
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  mean_kernel<<<1, kThreads, 0, stream>>>(sums_data, blocks, double(numel), parts);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor, Tensor> joint_loss_cuda(
    const Tensor& out0, const std::optional<Tensor>& out1, const Tensor& I_0,
    const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
    std::optional<int64_t> seed, int64_t stream, const std::optional<Tensor>& lam, double weight0,
    double weight1, int64_t objective, bool squared) {
  const torch::stable::accelerator::DeviceGuard guard(out0.get_device_index());
  const JointLossInputs in(out0, out1, I_0, I_in, noise, seed, stream, objective, squared, lam);
  Tensor parts = torch::stable::new_empty(out0, {2}, ScalarType::Float);
  for_pair<false>(in.I_0.scalar_type(), in.out0.scalar_type(), "joint_loss: no CUDA kernel for I_0",
                  [&]<class Image, class Output>() {
                    run<Image, Output>(in, weight0, weight1,
                                       static_cast<float*>(parts.mutable_data_ptr()));
                  });
  return {parts, in.gradient0.finish(), in.gradient1.finish()};
}

}  // namespace

std::vector<KernelAttributes> joint_loss_kernel_attributes() {
  std::vector<KernelAttributes> all;
  for_each_pair([&]<class Image, class Output>() {
    for_each_objective([&]<Objective O>() {
      append_attributes(
          joint_loss_kernel<O, Image, Output>,
          "joint_loss, objective " + std::to_string(int(O)) + ", " + dtype_names<Image, Output>(),
          all);
    });
  });
  append_attributes(mean_kernel, "joint_loss, the mean of the blocks' sums", all);
  return all;
}

}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CUDA, m) {
  m.impl("joint_loss", TORCH_BOX(&rddm::joint_loss_cuda));
}
