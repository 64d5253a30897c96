// range_null_step on the CPU. A tile of whole blocks stays in the cache until it is written, so
// memory is read once.
#include "range_null_step/range_null_step.h"

#include <torch/csrc/stable/library.h>

#include <bit>
#include <vector>

#include "common/dispatch.h"
#include "range_null_step/range_null_step_inputs.h"
#include "range_null_step/range_null_step_rows.h"

namespace rddm {
namespace {

constexpr int kRgb = 3;

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

// Pixels whose C channels are a block: all in registers. `to` may be x_t itself. `inverse` is 1
// over the sum of the squared weights: a division would take as long as all else.
template <bool Masked, int C, class T>
RDDM_CLONES void step_joined(RangeNullNumbers<T> c, std::array<T, C> weights, T inverse,
                             std::array<const T*, C> x_t, std::array<const T*, C> epsilon,
                             std::array<const T*, C> noise, std::array<const T*, C> pinv_y,
                             const uint8_t* __restrict mask, std::array<T*, C> to, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    T null[C], sum = 0;
#pragma GCC unroll 4
    for (int k = 0; k < C; ++k) {
      sum += weights[k] * combined(c.difference, x_t[k][i], epsilon[k][i], noise[k][i]);
      null[k] = combined(c.null, x_t[k][i], epsilon[k][i], noise[k][i]) + term(c.k_y, pinv_y[k][i]);
    }
    const T multiple = !Masked || mask[i] ? sum * inverse : T(0);
#pragma GCC unroll 4
    for (int k = 0; k < C; ++k) to[k][i] = null[k] + weights[k] * multiple;
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

// The tiles of one thread: a row of blocks each, or as many of its columns as fit.
template <class Image, class Output, class T>
class Tiles {
 public:
  Tiles(const RangeNullInputs& in, const RangeNullNumbers<T>& numbers, const TileShape& shape)
      : b_(in.blocks),
        c_(numbers),
        shape_(shape),
        x_t_(in.x_t, shape),
        pinv_y_(in.pinv_y, shape),
        epsilon_(in.epsilon, shape),
        noise_(in.noise, shape, data_of<Image>(in.x_t), data_of<Image>(in.pinv_y),
               data_of<Output>(in.epsilon),
               static_cast<const Image*>(in.result.tensor.const_data_ptr())),
        result_(in.result.tensor, shape),
        mask_(data_of<uint8_t>(in.mask)),
        square_(T(b_.square_of_weights() * double(b_.factor * b_.factor))),
        sums_(size_t(shape.columns)),
        squares_(size_t(shape.columns), square_) {}

  void run(int64_t number) {
    const Tile tile = shape_.tile(number);
    const auto mask =
        mask_ ? mask_ + tile.image * b_.mask_stride + tile.y * shape_.width + tile.x : nullptr;
    const auto noise = noise_.rows(tile);  // before the images, which it fetches
    const auto x_t = x_t_.rows(tile), epsilon = epsilon_.rows(tile), pinv_y = pinv_y_.rows(tile);
    const auto to = result_.rows(tile);
    const auto step = mask ? &Tiles::step<true> : &Tiles::step<false>;
    (this->*step)(tile.n, x_t, epsilon, noise, pinv_y, mask, to);
    result_.write(tile);
  }

 private:
  template <bool Masked>
  void step(int64_t n, const Rows<const T>& x_t, const Rows<const T>& epsilon,
            const Rows<const T>& noise, const Rows<const T>& pinv_y, const uint8_t* mask,
            const Rows<T>& to) {
    if (b_.pixels_alone()) {
      for (int64_t c = 0; c < shape_.channels; ++c) {
        step_pixels<Masked, T>(c_, x_t.at(c, 0), epsilon.at(c, 0), noise.at(c, 0), pinv_y.at(c, 0),
                               mask, to.at(c, 0), n);
      }
    } else if (b_.factor == 1 && b_.channels_of_block() == kRgb) {
      const std::array<T, kRgb> weights = {T(b_.weights[0]), T(b_.weights[1]), T(b_.weights[2])};
      step_joined<Masked, kRgb, T>(c_, weights, 1 / square_, first_rows(x_t), first_rows(epsilon),
                                   first_rows(noise), first_rows(pinv_y), mask, first_rows(to), n);
    } else {
      for (int64_t c = 0; c < shape_.channels; c += b_.channels_of_block()) {
        step_block_row<Masked>(n, x_t.from(c), epsilon.from(c), noise.from(c), pinv_y.from(c), mask,
                               to.from(c));
      }
    }
  }

  template <class Element>
  static std::array<Element*, kRgb> first_rows(const Rows<Element>& rows) {
    return {rows.at(0, 0), rows.at(1, 0), rows.at(2, 0)};
  }

  // Blocks of more than a pixel: a pass for the null part and the sums, one for the range part.
  template <bool Masked>
  void step_block_row(int64_t n, const Rows<const T>& x_t, const Rows<const T>& epsilon,
                      const Rows<const T>& noise, const Rows<const T>& pinv_y, const uint8_t* mask,
                      const Rows<T>& to) {
    std::fill_n(sums_.data(), n, T(0));
    if constexpr (Masked) find_squares(mask, n);
    each_row([&](int64_t channel, int64_t y) {
      gather<Masked, T>(c_, T(b_.weights[size_t(channel)]), x_t.at(channel, y),
                        epsilon.at(channel, y), noise.at(channel, y), pinv_y.at(channel, y),
                        mask + y * shape_.width * Masked, to.at(channel, y), sums_.data(), n);
    });
    if (b_.factor > 1) sum_blocks(sums_.data(), b_.factor, n);
    divide(sums_.data(), squares_.data(), n);
    each_row([&](int64_t channel, int64_t y) {
      scatter<Masked, T>(T(b_.weights[size_t(channel)]), sums_.data(),
                         mask + y * shape_.width * Masked, to.at(channel, y), n);
    });
  }

  template <class Call>
  void each_row(Call&& call) const {
    for (int64_t channel = 0; channel < b_.channels_of_block(); ++channel) {
      for (int64_t y = 0; y < b_.factor; ++y) call(channel, y);
    }
  }

  void find_squares(const uint8_t* mask, int64_t n) {
    std::fill_n(squares_.data(), n, T(0));
    for (int64_t y = 0; y < b_.factor; ++y) {
      add_squares(T(b_.square_of_weights()), mask + y * shape_.width, squares_.data(), n);
    }
    if (b_.factor > 1) sum_blocks(squares_.data(), b_.factor, n);
  }

  const RangeNullBlocks& b_;
  const RangeNullNumbers<T>& c_;
  const TileShape& shape_;
  Source<Image, T> x_t_, pinv_y_;
  Source<Output, T> epsilon_;
  NoiseSource<Image, T> noise_;
  Target<Image, T> result_;
  const uint8_t* mask_;
  T square_;
  std::vector<T> sums_, squares_;
};

template <class Image, class Output, class T>
void run(const RangeNullInputs& in, const RangeNullNumbers<T>& numbers) {
  if (in.result.tensor.numel() == 0) return;
  const TileShape shape(in);
  const int64_t grain = std::max<int64_t>(1, kGrain / shape.elements());
  torch::stable::parallel_for(0, shape.count(), grain, [&](int64_t first, int64_t last) {
    Tiles<Image, Output, T> tiles(in, numbers, shape);
    for (int64_t tile = first; tile < last; ++tile) tiles.run(tile);
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
                     false, true, {});
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
                     true, true, seed_tensor);
  run(in, numbers);
  in.result.finish();
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("range_null_step", TORCH_BOX(&rddm::range_null_step_cpu));
  m.impl("range_null_step_", TORCH_BOX(&rddm::range_null_step_in_place_cpu));
}
