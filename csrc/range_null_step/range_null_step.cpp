// range_null_step on the CPU. A tile of whole blocks stays in the cache until it is written, so
// memory is read once.
#include "range_null_step/range_null_step.h"

#include <torch/csrc/stable/library.h>

#include <bit>
#include <vector>

#include "common/dispatch.h"
#include "range_null_step/narrow_joined.h"
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
// over the sum of the squared weights: a division would take as long as all else. Stride: between
// pixels; 1 for planes.
template <bool Masked, int C, int Stride, class T>
RDDM_CLONES void step_joined(RangeNullNumbers<T> c, std::array<T, C> weights, T inverse,
                             std::array<const T*, C> x_t, std::array<const T*, C> epsilon,
                             std::array<const T*, C> noise, std::array<const T*, C> pinv_y,
                             const uint8_t* __restrict mask, std::array<T*, C> to, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    T null[C], sum = 0;
#pragma GCC unroll 4
    for (int k = 0; k < C; ++k) {
      sum += weights[k] * combined(c.difference, x_t[k][i * Stride], epsilon[k][i * Stride],
                                   noise[k][i * Stride]);
      null[k] = combined(c.null, x_t[k][i * Stride], epsilon[k][i * Stride], noise[k][i * Stride]) +
                term(c.k_y, pinv_y[k][i * Stride]);
    }
    const T multiple = !Masked || mask[i] ? sum * inverse : T(0);
#pragma GCC unroll 4
    for (int k = 0; k < C; ++k) to[k][i * Stride] = null[k] + weights[k] * multiple;
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
        squares_(size_t(shape.columns), square_),
        in_memory_order_(shape.together && shape.channels == kRgb && b_.factor == 1 &&
                         !in.noise.drawn),
        mask_of_elements_(in_memory_order_ ? size_t(shape.columns * kRgb) : 0) {}

  void run(int64_t number) {
    const Tile tile = shape_.tile(number);
    const auto mask =
        mask_ ? mask_ + tile.image * b_.mask_stride + tile.y * shape_.width + tile.x : nullptr;
    if constexpr (std::is_same_v<Image, T> && std::is_same_v<Output, T>) {
      if (in_memory_order_) {
        (this->*(mask ? &Tiles::step_run<true> : &Tiles::step_run<false>))(tile, mask);
        return;
      }
    }
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
      step_joined<Masked, kRgb, 1, T>(c_, rgb_weights(), 1 / square_, first_rows(x_t),
                                      first_rows(epsilon), first_rows(noise), first_rows(pinv_y),
                                      mask, first_rows(to), n);
    } else {
      for (int64_t c = 0; c < shape_.channels; c += b_.channels_of_block()) {
        step_block_row<Masked>(n, x_t.from(c), epsilon.from(c), noise.from(c), pinv_y.from(c), mask,
                               to.from(c));
      }
    }
  }

  // A run of pixels whose three channels are adjacent: nothing is moved to rows and back.
  template <bool Masked>
  void step_run(const Tile& tile, const uint8_t* mask) {
    const T *const x_t = x_t_.run(tile), *const epsilon = epsilon_.run(tile);
    const T *const noise = noise_.run(tile), *const pinv_y = pinv_y_.run(tile);
    T* const to = result_.run(tile);
    if (b_.pixels_alone()) {
      if constexpr (Masked) put_rgb(mask, mask, mask, mask_of_elements_.data(), tile.n);
      step_pixels<Masked, T>(c_, x_t, epsilon, noise, pinv_y, mask_of_elements_.data(), to,
                             tile.n * kRgb);
    } else {
      const auto channels = [](auto* x) { return std::array{x, x + 1, x + 2}; };
      step_joined<Masked, kRgb, kRgb, T>(c_, rgb_weights(), 1 / square_, channels(x_t),
                                         channels(epsilon), channels(noise), channels(pinv_y), mask,
                                         channels(to), tile.n);
    }
  }

  std::array<T, kRgb> rgb_weights() const {
    return {T(b_.weights[0]), T(b_.weights[1]), T(b_.weights[2])};
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
  bool in_memory_order_;
  std::vector<uint8_t> mask_of_elements_;
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

// Whether the call was one for narrow_joined.h, which has then computed it.
template <class Image>
bool run_narrow(const RangeNullInputs& in, const RangeNullNumbers<float>& numbers) {
  const RangeNullBlocks& b = in.blocks;
  if (!b.joined || b.factor != 1 || b.channels_of_block() != kRgb) return false;
  if (in.channels_last || in.noise.drawn) return false;
  static const NarrowJoined& loops = fastest<NarrowJoined>(RDDM_EVERY_SET(kNarrowJoined));
  const NarrowJoined::Walk walk = loops.walk(std::is_same_v<Image, BFloat16>);
  if (!walk) return false;
  const float weights[kRgb] = {float(b.weights[0]), float(b.weights[1]), float(b.weights[2])};
  const float inverse = 1 / float(b.square_of_weights());
  uint16_t* const result = static_cast<uint16_t*>(in.result.tensor.mutable_data_ptr());
  const int64_t pixels = b.pixels(), grain = kGrain / kRgb;
  torch::stable::parallel_for(0, b.images * pixels, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first, n; i < last; i += n) {
      const int64_t image = i / pixels, pixel = i % pixels;
      n = std::min(last - i, pixels - pixel);
      NarrowPlanes planes{};
      for (int c = 0; c < kRgb; ++c) {
        const int64_t start = (image * kRgb + c) * pixels + pixel;
        planes.x_t[c] = bits_of<Image>(in.x_t, start),
        planes.epsilon[c] = bits_of<Image>(in.epsilon, start);
        planes.noise[c] = bits_of<Image>(in.noise.tensor, start),
        planes.pinv_y[c] = bits_of<Image>(in.pinv_y, start);
        planes.to[c] = result + start;
      }
      if (in.mask) planes.mask = data_of<uint8_t>(in.mask) + image * b.mask_stride + pixel;
      walk(numbers, weights, inverse, planes, n);
    }
  });
  return true;
}

void run(RangeNullInputs& in, const std::vector<double>& numbers) {
  if (in.noise.seed_tensor) in.noise.seed = uint64_t(*data_of<int64_t>(in.noise.seed_tensor));
  for_pair<true>(in.x_t.scalar_type(), in.epsilon.scalar_type(),
                 "range_null_step: no CPU kernel for x_t", [&]<class Image, class Output>() {
                   using T = Computed<Image>;
                   const auto of_step = RangeNullNumbers<T>::of(numbers.data());
                   if constexpr (std::is_same_v<Image, Output> && sizeof(Image) == 2) {
                     if (run_narrow<Image>(in, of_step)) return;
                   }
                   run<Image, Output, T>(in, of_step);
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
