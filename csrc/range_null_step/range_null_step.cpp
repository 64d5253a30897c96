// range_null_step on the CPU. Where blocks are larger than a pixel, a tile of whole blocks stays in
// the cache between its two passes, so memory is read once: the first pass writes the null part and
// sums <v, u> by columns, the second adds v <v, u> / <v, v>.
#include "range_null_step/range_null_step.h"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "common/cpu_results.h"
#include "common/dispatch.h"
#include "range_null_step/range_null_step_inputs.h"

namespace rddm {
namespace {

constexpr int64_t kTile = 4 * kBlock;  // elements; 4 inputs and a result in float32: 80 KiB

// Pixels that are blocks of their own. `to` may be x_t itself.
template <bool Masked, class T>
RDDM_CLONES void step_pixels(RangeNullNumbers<T> c, const T* x_t, const T* __restrict epsilon,
                             const T* __restrict noise, const T* __restrict pinv_y,
                             const uint8_t* __restrict mask, T* to, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    T result = combined(c.range, x_t[i], epsilon[i], noise[i]);
    if constexpr (Masked) {
      const T null = combined(c.null, x_t[i], epsilon[i], noise[i]);
      result = mask[i] ? result : null;
    }
    to[i] = result + term(c.k_y, pinv_y[i]);
  }
}

// The first pass over a row: the null part, and v u added to the columns' sums. `to` may be x_t.
template <bool Masked, class T>
RDDM_CLONES void gather(RangeNullNumbers<T> c, T weight, const T* x_t, const T* __restrict epsilon,
                        const T* __restrict noise, const T* __restrict pinv_y,
                        const uint8_t* __restrict mask, T* to, T* __restrict sums, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T vu = weight * combined(c.difference, x_t[i], epsilon[i], noise[i]);
    to[i] = combined(c.null, x_t[i], epsilon[i], noise[i]) + term(c.k_y, pinv_y[i]);
    sums[i] += !Masked || mask[i] ? vu : T(0);
  }
}

// <v, v> of a row's kept pixels, added to the columns' sums.
template <class T>
RDDM_CLONES void add_squares(T square, const uint8_t* __restrict mask, T* __restrict squares,
                             int64_t n) {
  for (int64_t i = 0; i < n; ++i) squares[i] += mask[i] ? square : T(0);
}

template <class T>
RDDM_CLONES void divide(T* __restrict sums, const T* __restrict squares, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sums[i] = along(sums[i], squares[i]);
}

// Every column gets its block's sum.
template <class T>
void sum_blocks(T* sums, int64_t factor, int64_t n) {
  for (int64_t block = 0; block < n; block += factor) {
    T sum = 0;
    for (int64_t i = 0; i < factor; ++i) sum += sums[block + i];
    std::fill_n(sums + block, factor, sum);
  }
}

// The second pass over a row: the range part.
template <bool Masked, class T>
RDDM_CLONES void scatter(T weight, const T* __restrict along, const uint8_t* __restrict mask,
                         T* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += !Masked || mask[i] ? weight * along[i] : T(0);
}

// The inputs of a call in the op's precision, a row or a piece of one at a time.
template <class Image, class Output, class T>
struct Rows {
  Block<Image, T> x_t, pinv_y;
  Block<Output, T> epsilon;
  NoiseBlock<Image, T> noise;
  const uint8_t* mask;

  explicit Rows(const RangeNullInputs& in)
      : x_t(data_of<Image>(in.x_t)),
        pinv_y(data_of<Image>(in.pinv_y)),
        epsilon(data_of<Output>(in.epsilon)),
        noise(in.noise),
        mask(data_of<uint8_t>(in.mask)) {}
};

template <class Image, class Output, class T>
void run_pixels(const RangeNullInputs& in, const RangeNullNumbers<T>& c) {
  Image* const result = static_cast<Image*>(in.result.tensor.mutable_data_ptr());
  const int64_t pixels = in.blocks.pixels(), channels = in.blocks.channels;
  const auto step = in.mask ? step_pixels<true, T> : step_pixels<false, T>;
  torch::stable::parallel_for(
      0, in.result.tensor.numel(), kGrain, [&](int64_t first, int64_t last) {
        Rows<Image, Output, T> rows(in);
        Written<Image, T> next(result);
        for (int64_t i = first, n = 0; i < last; i += n) {
          n = std::min(kBlock, last - i);
          const uint8_t* mask = rows.mask;
          if (mask) {  // a channel at a time
            n = std::min(n, pixels - i % pixels);
            mask += i / (pixels * channels) * in.blocks.mask_stride + i % pixels;
          }
          step(c, rows.x_t.at(i, n), rows.epsilon.at(i, n), rows.noise.at(i, n),
               rows.pinv_y.at(i, n), mask, next.at(i), n);
          next.done(i, n);
        }
      });
}

// The tiles of one thread: a row of blocks each, or as many of its columns as fit.
template <class Image, class Output, class T>
class Tiles {
 public:
  Tiles(const RangeNullInputs& in, const RangeNullNumbers<T>& numbers, int64_t columns)
      : b_(in.blocks),
        c_(numbers),
        rows_(in),
        result_(static_cast<Image*>(in.result.tensor.mutable_data_ptr())),
        columns_(columns),
        sums_(size_t(columns)),
        squares_(size_t(columns), T(b_.square_of_weights() * double(b_.factor * b_.factor))),
        computed_(kRounds ? size_t(columns * b_.factor * b_.channels_of_block()) : 0) {}

  // Rows of blocks are counted over all images, and within one over its blocks' channels.
  void run(int64_t row_of_blocks, int64_t begin) {
    const int64_t down = b_.height / b_.factor, of_block = b_.channels_of_block();
    const int64_t plane = row_of_blocks / down * of_block, y = row_of_blocks % down * b_.factor;
    const int64_t n = std::min(columns_, b_.width - begin);
    const int64_t start = plane * b_.pixels() + y * b_.width + begin;
    const uint8_t* mask = rows_.mask;
    if (mask) mask += plane / b_.channels * b_.mask_stride + y * b_.width + begin;

    std::fill_n(sums_.data(), n, T(0));
    if (mask) find_squares(mask, n);
    each_piece(n, [&](int64_t channel, int64_t row, int64_t i, int64_t m) {
      const int64_t at = start + channel * b_.pixels() + row * b_.width + i;
      const auto gather_row = mask ? gather<true, T> : gather<false, T>;
      gather_row(c_, T(b_.weights[size_t(channel)]), rows_.x_t.at(at, m), rows_.epsilon.at(at, m),
                 rows_.noise.at(at, m), rows_.pinv_y.at(at, m),
                 mask ? mask + row * b_.width + i : nullptr, to(channel, row, at, i),
                 sums_.data() + i, m);
    });
    if (b_.factor > 1) sum_blocks(sums_.data(), b_.factor, n);
    divide(sums_.data(), squares_.data(), n);
    each_piece(n, [&](int64_t channel, int64_t row, int64_t i, int64_t m) {
      const int64_t at = start + channel * b_.pixels() + row * b_.width + i;
      T* const computed = to(channel, row, at, i);
      const auto scatter_row = mask ? scatter<true, T> : scatter<false, T>;
      scatter_row(T(b_.weights[size_t(channel)]), sums_.data() + i,
                  mask ? mask + row * b_.width + i : nullptr, computed, m);
      if constexpr (kRounds) round_to(computed, result_ + at, m);
    });
  }

 private:
  static constexpr bool kRounds = !std::is_same_v<Image, T>;

  template <class Call>
  void each_piece(int64_t n, Call&& call) const {
    for (int64_t channel = 0; channel < b_.channels_of_block(); ++channel) {
      for (int64_t row = 0; row < b_.factor; ++row) {
        for (int64_t i = 0; i < n; i += kBlock) call(channel, row, i, std::min(kBlock, n - i));
      }
    }
  }

  void find_squares(const uint8_t* mask, int64_t n) {
    std::fill_n(squares_.data(), n, T(0));
    for (int64_t row = 0; row < b_.factor; ++row) {
      add_squares(T(b_.square_of_weights()), mask + row * b_.width, squares_.data(), n);
    }
    if (b_.factor > 1) sum_blocks(squares_.data(), b_.factor, n);
  }

  // Where a piece of a row is computed: in place, or where it waits to be rounded.
  T* to(int64_t channel, int64_t row, int64_t at, int64_t i) {
    if constexpr (kRounds) {
      return computed_.data() + (channel * b_.factor + row) * columns_ + i;
    } else {
      return result_ + at;
    }
  }

  const RangeNullBlocks& b_;
  const RangeNullNumbers<T>& c_;
  Rows<Image, Output, T> rows_;
  Image* result_;
  int64_t columns_;
  std::vector<T> sums_, squares_, computed_;
};

template <class Image, class Output, class T>
void run(const RangeNullInputs& in, const RangeNullNumbers<T>& numbers) {
  if (in.result.tensor.numel() == 0) return;
  const RangeNullBlocks& b = in.blocks;
  if (b.pixels_alone()) return run_pixels<Image, Output, T>(in, numbers);
  const int64_t of_column = b.factor * b.channels_of_block();
  const int64_t blocks = std::max<int64_t>(1, kTile / (of_column * b.factor));
  const int64_t columns = std::min(b.width, blocks * b.factor);
  const int64_t across = (b.width + columns - 1) / columns;
  const int64_t down = b.images * (b.channels / b.channels_of_block()) * (b.height / b.factor);
  const int64_t grain = std::max<int64_t>(1, kGrain / (of_column * columns));
  torch::stable::parallel_for(0, down * across, grain, [&](int64_t first, int64_t last) {
    Tiles<Image, Output, T> tiles(in, numbers, columns);
    for (int64_t tile = first; tile < last; ++tile) {
      tiles.run(tile / across, tile % across * columns);
    }
  });
}

void run(RangeNullInputs& in, const std::vector<double>& numbers) {
  if (in.noise.seed_tensor) in.noise.seed = uint64_t(*data_of<int64_t>(in.noise.seed_tensor));
  for_pair<true>(in.x_t.scalar_type(), in.epsilon.scalar_type(),
                 "range_null_step: no CPU kernel for x_t", [&]<class Image, class Output>() {
                   using T = Computed<Image>;
                   run<Image, Output, T>(in, RangeNullNumbers<T>::of(numbers.data()));
                 });
}

Tensor range_null_step_cpu(const Tensor& x_t, const Tensor& epsilon,
                           const std::optional<Tensor>& pinv_y, const std::optional<Tensor>& mask,
                           const std::optional<Tensor>& noise, std::optional<int64_t> seed,
                           int64_t stream, int64_t factor,
                           const std::optional<std::vector<double>>& weights,
                           const std::vector<double>& numbers) {
  RangeNullInputs in({x_t, epsilon, pinv_y, mask, noise, seed, stream, factor, weights, numbers},
                     false, {});
  run(in, numbers);
  return in.result.finish();
}

void range_null_step_in_place_cpu(const Tensor& x_t, const Tensor& epsilon,
                                  const std::optional<Tensor>& pinv_y,
                                  const std::optional<Tensor>& mask,
                                  const std::optional<Tensor>& noise, std::optional<int64_t> seed,
                                  const std::optional<Tensor>& seed_tensor, int64_t stream,
                                  int64_t factor, const std::optional<std::vector<double>>& weights,
                                  const std::vector<double>& numbers) {
  RangeNullInputs in({x_t, epsilon, pinv_y, mask, noise, seed, stream, factor, weights, numbers},
                     true, seed_tensor);
  run(in, numbers);
  in.result.finish();
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("range_null_step", TORCH_BOX(&rddm::range_null_step_cpu));
  m.impl("range_null_step_", TORCH_BOX(&rddm::range_null_step_in_place_cpu));
}
