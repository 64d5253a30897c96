// joint_loss on a CUDA device: one launch forward and one backward.
//
// Forward, each block leaves its sums of the two distances, and the last block to finish adds them
// up in a fixed order, so that the same input gives the same bits. Backward, a block that finds a
// factor of 1 returns at once.
#include "joint_loss/joint_loss.h"

#include <torch/csrc/stable/library.h>

#include <atomic>
#include <tuple>

#include "common/cuda_packs.cuh"
#include "common/dispatch.h"
#include "joint_loss/joint_loss_inputs.h"

namespace rddm {
namespace {

// The most blocks of a launch: 8 times what an H100 or H200 holds at 3 per multiprocessor, so that
// all work to the end. The number is the same on every device, and so are the bits of the sums.
// They are few enough for the last block to add up.
constexpr int64_t kMostBlocks = 3168;

unsigned blocks_of(int64_t packs) {
  return static_cast<unsigned>(
      std::clamp<int64_t>((packs + kThreads - 1) / kThreads, 1, kMostBlocks));
}

// Counts the blocks of one launch that have finished, in memory of any content: a kernel to zero it
// would cost as much as the sums. The upper 48 bits say whose count it is; the first block to come
// writes the launch's own number there, beside a count of 0. No two launches of a process share a
// number, and memory holds it by chance once in 2^48 launches. The last block leaves 0, because a
// replayed graph comes with the same number.
class Arrivals {
 public:
  explicit Arrivals(void* word) : word_(static_cast<unsigned long long*>(word)) {
    static std::atomic<unsigned long long> launches{0};
    constexpr unsigned long long kOdd = 0x9e3779b97f4a7c15;  // scatters 1, 2, 3 ... over 48 bits
    start_ = ++launches * kOdd << kCountBits;
  }

  // To be called early by the thread that calls `is_last`, so that the read is over by then.
  __device__ __forceinline__ unsigned long long seen() const {
    return *static_cast<volatile unsigned long long*>(word_);
  }

  // Counts this block; true for the last one of the grid. What the thread wrote before is visible
  // to the last block.
  __device__ __forceinline__ bool is_last(unsigned long long seen) const {
    // If the word has changed since, another block has written the launch's number.
    if ((seen ^ start_) >> kCountBits != 0) atomicCAS(word_, seen, start_);
    __threadfence();
    const bool last = atomicAdd(word_, 1ull) == start_ + gridDim.x - 1;
    __threadfence();
    if (last) *word_ = 0;
    return last;
  }

 private:
  static constexpr int kCountBits = 16;
  static_assert(kMostBlocks < 1 << kCountBits);

  unsigned long long* word_;
  unsigned long long start_;
};

// The sum of a value over the block's threads, in thread 0.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double of_warp[kThreads / 32];
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

// Calls take<M, whole>(first) for the thread's elements from `first` on, N at a time; a launch may
// have fewer threads than the image has packs of N. The last elements, and those of tensors that
// are not aligned, are taken 4 at a time: such elements fill a register each, where a whole pack
// has two of 16 bits in one.
template <int N, class Take>
__device__ __forceinline__ void for_packs(int64_t numel, bool aligned, Take&& take) {
  int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N;
  const int64_t step = int64_t(gridDim.x) * kThreads * N;
  for (; aligned && first + N <= numel; first += step) take.template operator()<N, true>(first);
  for (; first < numel; first += step) {
#pragma unroll 1
    for (int part = 0; part < N; part += 4) take.template operator()<4, false>(first + part);
  }
}

// Blocks per multiprocessor, of a loss of two outputs. For three there are 80 registers a thread,
// one too few on Ampere and Ada; two blocks of 256 threads already keep 32 KiB of loads in flight.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kBlocksOfTwo = 2;
#else
constexpr int kBlocksOfTwo = 3;
#endif

// Without this bound the compiler spills registers for a fourth block.
template <Objective O, class Image, class Output>
__global__ void __launch_bounds__(kThreads, has_two_outputs(O) ? kBlocksOfTwo : 3)
    joint_loss_kernel(const Output* __restrict__ out0, const Output* __restrict__ out1,
                      const Image* __restrict__ I_0, const Image* __restrict__ I_in,
                      const DeviceNoise<Image> noise, const float* __restrict__ lam, float weight0,
                      float weight1, float scale, bool squared, Output* __restrict__ gradient0,
                      Output* __restrict__ gradient1, Arrivals arrivals, float2* sums,
                      float* __restrict__ loss, float* __restrict__ parts, int64_t numel,
                      bool aligned) {
  constexpr int N = kElements<Image, Output>;
  if (lam != nullptr) {
    weight0 = *lam;
    weight1 = 1 - weight0;
  }
  const float scale0 = weight0 * scale, scale1 = weight1 * scale;
  float sum0 = 0, sum1 = 0;  // of 64 values, where 16 images have 1024 x 1024 pixels
  const auto take = [&]<int M, bool whole>(int64_t first) {
    const auto y0 = load<M>(out0, first, numel, whole);
    const auto y1 = load<M>(out1, first, numel, whole);
    const auto x_0 = load<M>(I_0, first, numel, whole);
    const auto x_in = load<M>(I_in, first, numel, whole);
    const auto z = load_noise<M>(noise, first, numel, whole);
    Pack<Output, M> g0, g1;
    float values0 = 0, values1 = 0;
#pragma unroll
    for (int i = 0; i < M; ++i) {
      const float a = static_cast<float>(x_0.element[i]), b = static_cast<float>(x_in.element[i]);
      const float y = static_cast<float>(y0.element[i]), y_ = static_cast<float>(y1.element[i]);
      const auto t = squared ? joint_loss<O, true>(a, b, z.element[i], y, y_, scale0, scale1)
                             : joint_loss<O, false>(a, b, z.element[i], y, y_, scale0, scale1);
      g0.element[i] = static_cast<Output>(t.derivative0);
      g1.element[i] = static_cast<Output>(t.derivative1);
      if (whole || first + i < numel) {
        values0 += t.value0;
        values1 += t.value1;
      }
    }
    sum0 += values0;
    sum1 += values1;
    store<M>(gradient0, g0, first, numel, whole);
    if constexpr (has_two_outputs(O)) store<M>(gradient1, g1, first, numel, whole);
  };
  for_packs<N>(numel, aligned, take);

  const unsigned long long seen = arrivals.seen();
  double total0 = block_sum(sum0), total1 = block_sum(sum1);
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = {static_cast<float>(total0), static_cast<float>(total1)};
    is_last = arrivals.is_last(seen);
  }
  __syncthreads();
  if (!is_last) return;
  total0 = total1 = 0;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += kThreads) {
    const float2 of_block = __ldcg(sums + block);
    total0 += of_block.x;
    total1 += of_block.y;
  }
  total0 = block_sum(total0) / double(numel);
  total1 = block_sum(total1) / double(numel);
  if (threadIdx.x == 0) {
    parts[0] = static_cast<float>(total0);
    parts[1] = static_cast<float>(total1);
    *loss = static_cast<float>(weight0 * total0 + weight1 * total1);
  }
}

// Multiplies the gradients by a factor, unless it is 1, as it is where the loss itself is
// differentiated.
template <class Output>
__global__ void __launch_bounds__(kThreads)
    joint_loss_backward_kernel(Output* __restrict__ gradient0, Output* __restrict__ gradient1,
                               const float* __restrict__ by_loss, float factor, int64_t numel,
                               bool aligned) {
  constexpr int N = kBytes / sizeof(Output);
  const float scale = *by_loss * factor;
  if (scale == 1) return;
  for_packs<N>(numel, aligned, [&]<int M, bool whole>(int64_t first) {
    auto g0 = load<M>(gradient0, first, numel, whole);
    auto g1 = load<M>(gradient1, first, numel, whole);
#pragma unroll
    for (int i = 0; i < M; ++i) {
      g0.element[i] = static_cast<Output>(static_cast<float>(g0.element[i]) * scale);
      g1.element[i] = static_cast<Output>(static_cast<float>(g1.element[i]) * scale);
    }
    store<M>(gradient0, g0, first, numel, whole);
    if (gradient1 != nullptr) store<M>(gradient1, g1, first, numel, whole);
  });
}

template <class Image, class Output>
void run(const JointLossInputs& in, double weight0, double weight1, float* loss, float* parts) {
  const int64_t numel = in.out0.numel();
  constexpr int N = kElements<Image, Output>;
  const unsigned blocks = blocks_of((numel + N - 1) / N);
  // A pair of sums per block, and the count of blocks.
  Tensor sums = torch::stable::new_empty(in.out0, {2 * int64_t(blocks) + 2}, ScalarType::Float);
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
  for_objective(in.objective, [&]<Objective O>() {
    joint_loss_kernel<O, Image, Output><<<blocks, kThreads, 0, current_stream(in.out0)>>>(
        out0, out1, I_0, I_in, noise, data_of<float>(in.lam), static_cast<float>(weight0),
        static_cast<float>(weight1), static_cast<float>(in.scale), in.squared, gradient0, gradient1,
        Arrivals(sums_data + blocks), sums_data, loss, parts, numel, aligned);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor, Tensor, Tensor> joint_loss_cuda(
    const Tensor& out0, const std::optional<Tensor>& out1, const Tensor& I_0,
    const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
    std::optional<int64_t> seed, int64_t stream, const std::optional<Tensor>& lam, double weight0,
    double weight1, int64_t objective, bool squared) {
  const torch::stable::accelerator::DeviceGuard guard(out0.get_device_index());
  const JointLossInputs in(out0, out1, I_0, I_in, noise, seed, stream, objective, squared, lam);
  Tensor loss = torch::stable::new_empty(out0, {}, ScalarType::Float);
  Tensor parts = torch::stable::new_empty(out0, {2}, ScalarType::Float);
  for_pair<false>(in.I_0.scalar_type(), in.out0.scalar_type(), "joint_loss: no CUDA kernel for I_0",
                  [&]<class Image, class Output>() {
                    run<Image, Output>(in, weight0, weight1,
                                       static_cast<float*>(loss.mutable_data_ptr()),
                                       static_cast<float*>(parts.mutable_data_ptr()));
                  });
  return {loss, parts, in.gradient0.finish(), in.gradient1.finish()};
}

void joint_loss_backward_cuda(Tensor gradient0, std::optional<Tensor> gradient1,
                              const Tensor& by_loss, double factor) {
  const torch::stable::accelerator::DeviceGuard guard(gradient0.get_device_index());
  check_gradients(gradient0, gradient1, by_loss);
  const int64_t numel = gradient0.numel();
  if (numel == 0) return;
  for_dtype<false>(
      gradient0.scalar_type(), "joint_loss_backward_: no CUDA kernel", [&]<class Output>() {
        constexpr int N = kBytes / sizeof(Output);
        Output* const data0 = data_to<Output>(gradient0);
        Output* const data1 = data_to<Output>(gradient1);
        joint_loss_backward_kernel<Output>
            <<<blocks_of((numel + N - 1) / N), kThreads, 0, current_stream(gradient0)>>>(
                data0, data1, static_cast<const float*>(by_loss.const_data_ptr()),
                static_cast<float>(factor), numel, is_aligned(data0) && is_aligned(data1));
      });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
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
  for_each_dtype([&]<class Output>() {
    append_attributes(joint_loss_backward_kernel<Output>,
                      "joint_loss, backward, " + dtype_name<Output>(), all);
  });
  return all;
}

}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CUDA, m) {
  m.impl("joint_loss", TORCH_BOX(&rddm::joint_loss_cuda));
  m.impl("joint_loss_backward_", TORCH_BOX(&rddm::joint_loss_backward_cuda));
}
