// range_null_step on a CUDA device: a kernel for pixels that are blocks of their own, and one for
// larger blocks.
//
// In the second a thread block takes whole blocks of the image, a tile, sums <v, u> over them, and
// then steps. A tile's packs lie on a grid of lanes (along a row) by groups (of lines: rows, one
// after the other through the channels). Where each thread has one pack, it is read once, with all
// loads in flight together, and stays in registers between the sums and the step. Larger blocks are
// read twice, the second time from the cache. All sums have a fixed order, so the result is the
// same at every run.
#include "range_null_step/range_null_step.h"

#include <torch/csrc/stable/library.h>

#include "common/cuda_packs.cuh"
#include "common/dispatch.h"
#include "common/kernel_attributes.h"
#include "range_null_step/range_null_step_inputs.h"
#include "range_null_step/range_null_step_tiles.cuh"

namespace rddm {
namespace {

// What both kernels read and write.
template <class Image, class Output>
struct RangeNullImages {
  const Image* x_t;  // may be `result`
  const Output* __restrict__ epsilon;
  const Image* __restrict__ pinv_y;
  const uint8_t* __restrict__ mask;
  DeviceNoise<Image> noise;
  Image* result;
  bool aligned;

  explicit RangeNullImages(const RangeNullInputs& in)
      : x_t(data_of<Image>(in.x_t)),
        epsilon(data_of<Output>(in.epsilon)),
        pinv_y(data_of<Image>(in.pinv_y)),
        mask(data_of<uint8_t>(in.mask)),
        noise(in.noise),
        result(static_cast<Image*>(in.result.tensor.mutable_data_ptr())) {
    aligned = is_aligned(x_t) && is_aligned(epsilon) && is_aligned(pinv_y) && is_aligned(mask) &&
              is_aligned(noise.data) && is_aligned(result);
  }
};

// N elements of the three images that a sum combines, in float32.
template <int N>
struct Terms {
  float x_t[N], epsilon[N], noise[N];

  __device__ __forceinline__ float sum(const RangeNullSum<float>& k, int i) const {
    return combined(k, x_t[i], epsilon[i], noise[i]);
  }
};

// The noise of N elements from any element on. The Philox blocks of a pack are drawn whole, one
// more than a pack has where it begins inside of one.
template <int N>
__device__ __forceinline__ void draw(uint64_t seed, uint64_t stream, int64_t first, float* to) {
  static_assert(N % 4 == 0);
  const int shift = int(first % 4);
  float z[N + 4] = {};
#pragma unroll
  for (int i = 0; i <= N; i += 4) {
    if (i == N && shift == 0) break;
    const Normals n = normals(seed, stream, uint64_t(first) / 4 + uint64_t(i) / 4);
    z[i] = n.z0, z[i + 1] = n.z1, z[i + 2] = n.z2, z[i + 3] = n.z3;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    to[i] = shift == 0 ? z[i] : shift == 1 ? z[i + 1] : shift == 2 ? z[i + 2] : z[i + 3];
  }
}

// The elements of a pack as stored: the loads of all images are in flight before one is used.
template <int N, class Image, class Output>
struct StoredPack {
  Pack<Image, N> x_t, noise, pinv_y;
  Pack<Output, N> epsilon;

  // Those from `first` on; zeros from `end` on.
  __device__ __forceinline__ StoredPack(const RangeNullImages<Image, Output>& images, int64_t first,
                                        int64_t end, bool whole)
      : x_t(load<N>(images.x_t, first, end, whole)),
        noise(load<N>(images.noise.data, first, end, whole)),
        pinv_y(load<N>(images.pinv_y, first, end, whole)),
        epsilon(load<N>(images.epsilon, first, end, whole)) {}

  __device__ __forceinline__ Terms<N> terms(const DeviceNoise<Image>& source, int64_t first) const {
    Terms<N> t;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      t.x_t[i] = static_cast<float>(x_t.element[i]);
      t.epsilon[i] = static_cast<float>(epsilon.element[i]);
      t.noise[i] = static_cast<float>(noise.element[i]);
    }
    if (source.drawn) draw<N>(source.seed, source.stream, first, t.noise);
    return t;
  }
};

// The mask's N bytes from `first` on, ones without a mask. `packs`: they are aligned together.
template <int N>
__device__ __forceinline__ Pack<uint8_t, N> load_mask(const uint8_t* mask, int64_t first,
                                                      int64_t end, bool packs) {
  if (mask != nullptr) return load<N>(mask, first, end, packs);
  Pack<uint8_t, N> ones;
#pragma unroll
  for (int i = 0; i < N; ++i) ones.element[i] = 1;
  return ones;
}

template <class Image, class Output>
__global__ void __launch_bounds__(kThreads)
    range_null_pixels_kernel(RangeNullImages<Image, Output> images,
                             const RangeNullNumbers<float> numbers, const Divisor pixels,
                             const Divisor channels, int64_t mask_stride, int64_t numel) {
  constexpr int N = kElements<Image, Output>;
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (first >= numel) return;
  const bool whole = images.aligned && first + N <= numel;
  if (images.noise.seed_pointer) images.noise.seed = uint64_t(*images.noise.seed_pointer);
  const StoredPack<N, Image, Output> stored(images, first, numel, whole);

  // Where the mask of the thread's first pixel is; the following ones' are found by counting.
  int64_t pixel = 0, channel = 0, image = 0;
  Pack<uint8_t, N> kept = load_mask<N>(nullptr, 0, 0, false);
  if (images.mask != nullptr) {
    image = channels.divide(pixels.divide(first, pixel), channel);
    if (whole && pixels.divisor % N == 0) {
      kept = load_mask<N>(images.mask, image * mask_stride + pixel, numel, true);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (first + i < numel) kept.element[i] = images.mask[image * mask_stride + pixel];
        if (++pixel == pixels.divisor) {
          pixel = 0;
          if (++channel == channels.divisor) {
            channel = 0;
            ++image;
          }
        }
      }
    }
  }

  const Terms<N> terms = stored.terms(images.noise, first);
  Pack<Image, N> next;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float null = terms.sum(numbers.null, i), range = terms.sum(numbers.range, i);
    next.element[i] =
        static_cast<Image>((kept.element[i] ? range : null) +
                           term(numbers.k_y, static_cast<float>(stored.pinv_y.element[i])));
  }
  store<N>(images.result, next, first, numel, whole);
}

template <bool Once, class Image, class Output>
__global__ void __launch_bounds__(kThreads, Once ? 3 : 2)
    range_null_blocks_kernel(RangeNullImages<Image, Output> images,
                             const RangeNullNumbers<float> numbers, const RangeNullTiles tiles) {
  constexpr int N = kElements<Image, Output>;
  // A slot is a column of a group. A tile of one block that is wider than the lanes takes turns.
  alignas(kBytes) __shared__ float sums[kTileThreads * N], squares[kTileThreads * N];
  const int slots = tiles.slots<N>(), threads = tiles.threads();
  const int thread = int(threadIdx.x), group = thread >> tiles.lane_bits;
  const int lane = thread - (group << tiles.lane_bits);

  unsigned tile, row, image_channel;
  const unsigned plane = tiles.down.divide(tiles.across.divide(blockIdx.x, tile), row);
  const int64_t image = tiles.per_image.divide(plane, image_channel);
  const int64_t begin = int64_t(tile) * tiles.columns;
  const int columns =
      int(tiles.width - begin < tiles.columns ? tiles.width - begin : tiles.columns);
  const int64_t inside = int64_t(row) * tiles.factor.divisor * tiles.width + begin;
  const int64_t start = int64_t(plane) * tiles.channels * tiles.pixels + inside;
  const uint8_t* mask = images.mask ? images.mask + image * tiles.mask_stride + inside : nullptr;
  const bool packs =
      images.aligned && tiles.width % N == 0 && tiles.columns % N == 0 && tiles.pixels % N == 0;
  if (images.noise.seed_pointer) images.noise.seed = uint64_t(*images.noise.seed_pointer);

  // Calls call(weight, where the line begins, where its mask does, the pack's column) for each
  // pack.
  const auto each_pack = [&](auto&& call) {
    const auto of_line = [&](int line, int x) {
      unsigned y;
      const unsigned channel = tiles.factor.divide(unsigned(line), y);
      const int64_t in_mask = int64_t(y) * tiles.width;
      call(tiles.weights[channel], start + int64_t(channel) * tiles.pixels + in_mask, in_mask, x);
    };
    if constexpr (Once) {
      if (group < tiles.groups && lane * N < columns) of_line(group, lane * N);
    } else {
#pragma unroll 1
      for (int line = group; line < tiles.lines && group < tiles.groups; line += tiles.groups) {
#pragma unroll 1
        for (int x = lane * N; x < columns; x += slots) of_line(line, x);
      }
    }
  };
  Terms<N> terms;
  Pack<Image, N> measured;
  bool kept[N];
  const auto read = [&](int64_t at, int64_t in_mask, int x) {
    const StoredPack<N, Image, Output> stored(images, at + x, at + columns, packs);
    const auto bytes = load_mask<N>(mask, in_mask + x, in_mask + columns, packs);
    terms = stored.terms(images.noise, at + x);
    measured = stored.pinv_y;
#pragma unroll
    for (int i = 0; i < N; ++i) kept[i] = x + i < columns && bytes.element[i];
  };

  // <v, u> and <v, v> of each column of each group.
  Pack<float, N> sum{}, square{};
  each_pack([&](float weight, int64_t at, int64_t in_mask, int x) {
    read(at, in_mask, x);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (kept[i]) sum.element[i] += weight * terms.sum(numbers.difference, i);
      if (mask && kept[i]) square.element[i] += weight * weight;
    }
  });
  reinterpret_cast<Pack<float, N>*>(sums)[thread] = sum;
  if (mask) reinterpret_cast<Pack<float, N>*>(squares)[thread] = square;
  __syncthreads();

  // Of each column, over the groups; then of each block, over its columns.
  const auto add_groups = [&](float* of_slots, int x) {
    float of_column = of_slots[x];
    for (int other = 1; other < tiles.groups; ++other) of_column += of_slots[other * slots + x];
    of_slots[x] = of_column;
  };
  for (int x = thread; x < slots; x += threads) {
    add_groups(sums, x);
    if (mask) add_groups(squares, x);
  }
  __syncthreads();
  const bool takes_turns = tiles.columns > slots;
  const int block_width = takes_turns ? slots : int(tiles.factor.divisor);
  for (int x = thread * block_width; x < (takes_turns ? slots : columns);
       x += threads * block_width) {
    float block_sum = 0, block_square = mask ? 0 : tiles.square;
    for (int i = 0; i < block_width; ++i) {
      block_sum += sums[x + i];
      if (mask) block_square += squares[x + i];
    }
    const float multiple = along(block_sum, block_square);
    for (int i = 0; i < block_width; ++i) sums[x + i] = multiple;
  }
  __syncthreads();

  // The step.
  each_pack([&](float weight, int64_t at, int64_t in_mask, int x) {
    if constexpr (!Once) read(at, in_mask, x);
    const auto multiple = reinterpret_cast<const Pack<float, N>*>(sums)[lane];
    Pack<Image, N> next;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float range = kept[i] ? weight * multiple.element[i] : 0.0f;
      next.element[i] =
          static_cast<Image>(terms.sum(numbers.null, i) +
                             term(numbers.k_y, static_cast<float>(measured.element[i])) + range);
    }
    store<N>(images.result, next, at + x, at + columns, packs);
  });
}

template <class Image, class Output>
void run(const RangeNullInputs& in, const RangeNullNumbers<float>& numbers) {
  const int64_t numel = in.result.tensor.numel();
  if (numel == 0) return;
  constexpr int N = kElements<Image, Output>;
  const RangeNullBlocks& b = in.blocks;
  const RangeNullImages<Image, Output> images(in);
  if (b.pixels_alone()) {
    range_null_pixels_kernel<Image, Output>
        <<<blocks_for<N>(numel), kThreads, 0, current_stream(in.x_t)>>>(
            images, numbers, Divisor(b.pixels()), Divisor(b.channels), b.mask_stride, numel);
  } else {
    const auto tiles = RangeNullTiles::of<N>(b);
    const auto kernel = tiles.once ? range_null_blocks_kernel<true, Image, Output>
                                   : range_null_blocks_kernel<false, Image, Output>;
    kernel<<<tiles.count(b), tiles.threads(), 0, current_stream(in.x_t)>>>(images, numbers, tiles);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void run(const RangeNullInputs& in, const std::vector<double>& numbers) {
  for_pair<false>(in.x_t.scalar_type(), in.epsilon.scalar_type(),
                  "range_null_step: no CUDA kernel for x_t", [&]<class Image, class Output>() {
                    run<Image, Output>(in, RangeNullNumbers<float>::of(numbers.data()));
                  });
}

Tensor range_null_step_cuda(const Tensor& x_t, const Tensor& epsilon,
                            const std::optional<Tensor>& pinv_y, const std::optional<Tensor>& mask,
                            const std::optional<Tensor>& noise, std::optional<int64_t> seed,
                            int64_t stream, int64_t factor,
                            const std::optional<std::vector<double>>& weights,
                            const std::vector<double>& numbers) {
  const torch::stable::accelerator::DeviceGuard guard(x_t.get_device_index());
  const RangeNullInputs in(
      {x_t, epsilon, pinv_y, mask, noise, seed, stream, factor, weights, numbers}, false, false,
      {});
  run(in, numbers);
  return in.result.finish();
}

void range_null_step_in_place_cuda(const Tensor& x_t, const Tensor& epsilon,
                                   const std::optional<Tensor>& pinv_y,
                                   const std::optional<Tensor>& mask,
                                   const std::optional<Tensor>& noise, std::optional<int64_t> seed,
                                   const std::optional<Tensor>& seed_tensor, int64_t stream,
                                   int64_t factor,
                                   const std::optional<std::vector<double>>& weights,
                                   const std::vector<double>& numbers) {
  const torch::stable::accelerator::DeviceGuard guard(x_t.get_device_index());
  const RangeNullInputs in(
      {x_t, epsilon, pinv_y, mask, noise, seed, stream, factor, weights, numbers}, true, false,
      seed_tensor);
  run(in, numbers);
  in.result.finish();
}

}  // namespace

std::vector<KernelAttributes> range_null_step_kernel_attributes() {
  std::vector<KernelAttributes> all;
  for_each_pair([&]<class Image, class Output>() {
    const std::string names = dtype_names<Image, Output>();
    append_attributes(range_null_pixels_kernel<Image, Output>, "range_null_step, pixels, " + names,
                      all);
    append_attributes(range_null_blocks_kernel<true, Image, Output>,
                      "range_null_step, blocks, " + names, all, kTileThreads);
    append_attributes(range_null_blocks_kernel<false, Image, Output>,
                      "range_null_step, large blocks, " + names, all, kTileThreads);
  });
  return all;
}

}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CUDA, m) {
  m.impl("range_null_step", TORCH_BOX(&rddm::range_null_step_cuda));
  m.impl("range_null_step_", TORCH_BOX(&rddm::range_null_step_in_place_cuda));
}
