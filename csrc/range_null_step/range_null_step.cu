// range_null_step on a CUDA device: a kernel for pixels that are blocks of their own, and one for
// larger blocks.
//
// The second reads the image twice, the second time from the cache: a thread block takes whole
// blocks of the image, a tile, sums <v, u> over them, and then steps. A tile's packs lie on a grid
// of lanes (along a row) by groups (of rows, one after the other through the channels). All sums
// have a fixed order, so the result is the same at every run.
#include "range_null_step/range_null_step.h"

#include <torch/csrc/stable/library.h>

#include "common/cuda_packs.cuh"
#include "common/dispatch.h"
#include "common/kernel_attributes.h"
#include "range_null_step/range_null_step_inputs.h"

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

// The noise of N elements from any element on.
template <int N, class T>
__device__ __forceinline__ Pack<float, N> noise_from(const DeviceNoise<T>& noise, int64_t first,
                                                     int64_t end, bool whole) {
  if (!noise.drawn || first % 4 == 0) return load_noise<N>(noise, first, end, whole);
  Pack<float, N> z;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const uint64_t element = uint64_t(first + i);
    const Normals n = normals(noise.seed, noise.stream, element / 4);
    const uint32_t which = element % 4;
    z.element[i] = which == 0 ? n.z0 : which == 1 ? n.z1 : which == 2 ? n.z2 : n.z3;
  }
  return z;
}

// The elements from `first` on; zeros from `end` on.
template <int N, class Image, class Output>
__device__ __forceinline__ Terms<N> load_terms(const RangeNullImages<Image, Output>& images,
                                               int64_t first, int64_t end, bool whole) {
  const auto x = load<N>(images.x_t, first, end, whole);
  const auto e = load<N>(images.epsilon, first, end, whole);
  const auto z = noise_from<N>(images.noise, first, end, whole);
  Terms<N> terms;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    terms.x_t[i] = static_cast<float>(x.element[i]);
    terms.epsilon[i] = static_cast<float>(e.element[i]);
    terms.noise[i] = z.element[i];
  }
  return terms;
}

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
  const Terms<N> terms = load_terms<N>(images, first, numel, whole);
  const auto y = load<N>(images.pinv_y, first, numel, whole);

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

  Pack<Image, N> next;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float null = terms.sum(numbers.null, i), range = terms.sum(numbers.range, i);
    next.element[i] = static_cast<Image>((kept.element[i] ? range : null) +
                                         term(numbers.k_y, static_cast<float>(y.element[i])));
  }
  store<N>(images.result, next, first, numel, whole);
}

// How a launch cuts its image into tiles, and a thread block into lanes and groups.
struct RangeNullTiles {
  Divisor across;     // tiles in a row of blocks
  Divisor down;       // rows of blocks in a channel, or in an image if its channels are joined
  Divisor per_image;  // blocks' channels in an image
  int64_t width, pixels, mask_stride;
  int columns, factor, channels, lanes, groups;
  float square;  // of a block's weights
  float weights[kMostWeights];

  template <int N>
  static RangeNullTiles of(const RangeNullBlocks& b) {
    RangeNullTiles t{Divisor(1), Divisor(b.height / b.factor),
                     Divisor(b.channels / b.channels_of_block())};
    t.width = b.width;
    t.pixels = b.pixels();
    t.mask_stride = b.mask_stride;
    t.factor = int(b.factor);
    t.channels = int(b.channels_of_block());
    t.square = float(b.square_of_weights());
    for (int c = 0; c < t.channels; ++c) t.weights[c] = float(b.weights[size_t(c)]);
    t.groups = 1;
    while (t.groups < 16 && t.lines() % (2 * t.groups) == 0) t.groups *= 2;
    t.lanes = kThreads / t.groups;
    const int64_t blocks = std::max<int64_t>(1, int64_t(t.lanes) * N / b.factor);
    t.columns = int(std::min(b.width, blocks * b.factor));
    t.across = Divisor((b.width + t.columns - 1) / t.columns);
    return t;
  }

  RDDM_INLINE int lines() const { return factor * channels; }
  unsigned count(const RangeNullBlocks& b) const {
    return unsigned(across.divisor * down.divisor * per_image.divisor * b.images);
  }
};

template <class Image, class Output>
__global__ void __launch_bounds__(kThreads, 2)
    range_null_blocks_kernel(RangeNullImages<Image, Output> images,
                             const RangeNullNumbers<float> numbers, const RangeNullTiles tiles) {
  constexpr int N = kElements<Image, Output>, kSlots = kThreads * N;
  // A slot is a column of a group. A tile of one block that is wider than the lanes takes turns.
  __shared__ float sums[kSlots], squares[kSlots];
  const int lane = int(threadIdx.x) % tiles.lanes, group = int(threadIdx.x) / tiles.lanes;
  const int width_of_slots = tiles.lanes * N;

  int64_t tile, row, plane;
  row = tiles.across.divide(int64_t(blockIdx.x), tile);
  plane = tiles.down.divide(row, row);
  int64_t unused;
  const int64_t image = tiles.per_image.divide(plane, unused);
  const int64_t begin = tile * tiles.columns;
  const int columns =
      int(tiles.width - begin < tiles.columns ? tiles.width - begin : tiles.columns);
  const int64_t inside = row * tiles.factor * tiles.width + begin;
  const int64_t start = plane * tiles.channels * tiles.pixels + inside;
  const uint8_t* mask = images.mask ? images.mask + image * tiles.mask_stride + inside : nullptr;
  const bool packs =
      images.aligned && tiles.width % N == 0 && tiles.columns % N == 0 && tiles.pixels % N == 0;
  if (images.noise.seed_pointer) images.noise.seed = uint64_t(*images.noise.seed_pointer);

  // <v, u> and <v, v> of each column of each group.
  float sum[N] = {}, square[N] = {};
#pragma unroll 1
  for (int line = group; line < tiles.lines(); line += tiles.groups) {
    const int channel = line / tiles.factor, y = line % tiles.factor;
    const float weight = tiles.weights[channel];
#pragma unroll 1
    for (int x = lane * N; x < columns; x += width_of_slots) {
      const int64_t at = start + channel * tiles.pixels + y * tiles.width;
      const Terms<N> terms = load_terms<N>(images, at + x, at + columns, packs);
      const auto kept = load_mask<N>(mask, y * tiles.width + x, y * tiles.width + columns, packs);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const bool counts = x + i < columns && kept.element[i];
        if (counts) sum[i] += weight * terms.sum(numbers.difference, i);
        if (counts) square[i] += weight * weight;
      }
    }
  }
  const int slot = group * width_of_slots + lane * N;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sums[slot + i] = sum[i];
    squares[slot + i] = square[i];
  }
  __syncthreads();

  // Of each column, over the groups; then of each block, over its columns.
  for (int x = int(threadIdx.x); x < width_of_slots; x += kThreads) {
    for (int other = 1; other < tiles.groups; ++other) {
      sums[x] += sums[other * width_of_slots + x];
      squares[x] += squares[other * width_of_slots + x];
    }
  }
  __syncthreads();
  const bool takes_turns = tiles.columns > width_of_slots;
  const int block_width = takes_turns ? width_of_slots : tiles.factor;
  for (int x = int(threadIdx.x) * block_width; x < (takes_turns ? width_of_slots : columns);
       x += kThreads * block_width) {
    float block_sum = 0, block_square = 0;
    for (int i = 0; i < block_width; ++i) {
      block_sum += sums[x + i];
      block_square += squares[x + i];
    }
    const float multiple = along(block_sum, block_square);
    for (int i = 0; i < block_width; ++i) sums[x + i] = multiple;
  }
  __syncthreads();

  // The step.
#pragma unroll 1
  for (int line = group; line < tiles.lines(); line += tiles.groups) {
    const int channel = line / tiles.factor, y = line % tiles.factor;
    const float weight = tiles.weights[channel];
#pragma unroll 1
    for (int x = lane * N; x < columns; x += width_of_slots) {
      const int64_t at = start + channel * tiles.pixels + y * tiles.width;
      const Terms<N> terms = load_terms<N>(images, at + x, at + columns, packs);
      const auto measured = load<N>(images.pinv_y, at + x, at + columns, packs);
      const auto kept = load_mask<N>(mask, y * tiles.width + x, y * tiles.width + columns, packs);
      Pack<Image, N> next;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float range = kept.element[i] ? weight * sums[lane * N + i] : 0.0f;
        next.element[i] =
            static_cast<Image>(terms.sum(numbers.null, i) +
                               term(numbers.k_y, static_cast<float>(measured.element[i])) + range);
      }
      store<N>(images.result, next, at + x, at + columns, packs);
    }
  }
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
    range_null_blocks_kernel<Image, Output>
        <<<tiles.count(b), kThreads, 0, current_stream(in.x_t)>>>(images, numbers, tiles);
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
      {x_t, epsilon, pinv_y, mask, noise, seed, stream, factor, weights, numbers}, false, {});
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
      {x_t, epsilon, pinv_y, mask, noise, seed, stream, factor, weights, numbers}, true,
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
    append_attributes(range_null_blocks_kernel<Image, Output>, "range_null_step, blocks, " + names,
                      all);
  });
  return all;
}

}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CUDA, m) {
  m.impl("range_null_step", TORCH_BOX(&rddm::range_null_step_cuda));
  m.impl("range_null_step_", TORCH_BOX(&rddm::range_null_step_in_place_cuda));
}
