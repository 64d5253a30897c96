// What the launchers of range_null_step and range_null_step_ do before their loops.
#pragma once

#include <vector>

#include "check.h"
#include "common/overlap.h"
#include "common/tensors.h"
#include "range_null_step/range_null_step.h"

namespace rddm {

constexpr int64_t kMostWeights = 64;  // those of a launch are among its kernel's arguments

// The arguments that both ops take.
struct RangeNullArguments {
  const Tensor& x_t;
  const Tensor& epsilon;
  const std::optional<Tensor>& pinv_y;
  const std::optional<Tensor>& mask;
  const std::optional<Tensor>& noise;
  std::optional<int64_t> seed;
  int64_t stream, factor;
  const std::optional<std::vector<double>>& weights;
  const std::vector<double>& numbers;
};

// The blocks of a contiguous image. One that is split into pixels counts as one row.
struct RangeNullBlocks {
  int64_t images, channels, height, width, factor;
  std::vector<double> weights;  // of the channels of a block: all of the image's, or a 1
  bool joined;                  // a block has all channels
  int64_t mask_stride = 0;      // from one image's mask to the next one's; 0 if they share one

  bool pixels_alone() const { return factor == 1 && !joined; }
  int64_t channels_of_block() const { return int64_t(weights.size()); }
  int64_t pixels() const { return height * width; }

  double square_of_weights() const {
    double square = 0;
    for (const double w : weights) square += w * w;
    return square;
  }
};

// The tensors of one call, all contiguous, or all channels-last if the kernel
// `takes_channels_last`.
struct RangeNullInputs {
  Result result;
  Tensor x_t, epsilon;
  std::optional<Tensor> pinv_y, mask;
  NoiseArgument noise;
  RangeNullBlocks blocks;
  bool channels_last = false;

  RangeNullInputs(const RangeNullArguments& a, bool in_place, bool takes_channels_last,
                  const std::optional<Tensor>& seed)
      : result(a.x_t), x_t(a.x_t), epsilon(a.epsilon) {
    if (in_place) {
      check_overlap("range_null_step_", {{"x_t", a.x_t}},
                    {{"epsilon", a.epsilon},
                     {"pinv_y", a.pinv_y},
                     {"mask", a.mask},
                     {"noise", a.noise},
                     {"seed", seed}});
    }
    RDDM_CHECK(a.numbers.size() == RangeNullNumbers<double>::kCount, "range_null_step: a step has ",
               RangeNullNumbers<double>::kCount, " numbers, not ", a.numbers.size());
    RDDM_CHECK(x_t.dim() == 4, "range_null_step: x_t must be (B, C, H, W)");
    place(in_place, takes_channels_last);
    blocks = blocks_of(a);
    epsilon = other(a.epsilon, a.epsilon.scalar_type(), "epsilon");
    if (a.pinv_y && a.numbers[6] != 0) pinv_y = other(*a.pinv_y, x_t.scalar_type(), "pinv_y");
    if (a.mask) take_mask(*a.mask);
    if (a.numbers[2] == 0 && a.numbers[5] == 0) return;
    RDDM_CHECK(a.noise.has_value() != a.seed.has_value(),
               "range_null_step: n_z or r_z is not 0, which needs noise or a seed, one of "
               "them");
    if (a.noise) {
      noise.tensor = other(*a.noise, x_t.scalar_type(), "noise");
    } else {
      noise.drawn = true;
      noise.seed = static_cast<uint64_t>(*a.seed);
      noise.stream = static_cast<uint64_t>(a.stream);
    }
    if (!seed) return;
    RDDM_CHECK(noise.drawn && seed->numel() == 1 && seed->scalar_type() == ScalarType::Long &&
                   seed->device() == x_t.device(),
               "range_null_step_: the seed must be one int64 number on x_t's device");
    noise.seed_tensor = *seed;
  }

 private:
  // Where the result is computed: for layouts that the kernel does not take, in a contiguous image,
  // which `finish` copies.
  void place(bool in_place, bool takes_channels_last) {
    RDDM_CHECK(!in_place || pixel_layout(x_t),
               "range_null_step_: x_t must be contiguous or channels-last");
    if (!in_place) result.tensor = torch::stable::empty_like(x_t);
    const auto layout = pixel_layout(result.tensor);
    channels_last = layout && layout->channels != 1;
    if (!layout || (channels_last && !takes_channels_last)) {
      channels_last = false;
      result.wanted = result.tensor;
      result.tensor = torch::stable::contiguous(result.tensor);
    }
    x_t = in_place ? result.tensor : in_layout_of(x_t, result.tensor);
  }

  RangeNullBlocks blocks_of(const RangeNullArguments& a) const {
    RangeNullBlocks b{x_t.size(0), x_t.size(1), x_t.size(2),          x_t.size(3),
                      a.factor,    {1.0},       a.weights.has_value()};
    RDDM_CHECK(a.factor >= 1 && b.height % a.factor == 0 && b.width % a.factor == 0,
               "range_null_step: factor ", a.factor, " must divide ", b.height, " and ", b.width);
    if (b.joined) {
      b.weights = *a.weights;
      RDDM_CHECK(b.channels_of_block() == b.channels, "range_null_step: there are ",
                 b.channels_of_block(), " weights for ", b.channels, " channels");
      RDDM_CHECK(b.channels <= kMostWeights, "range_null_step: at most ", kMostWeights,
                 " channels can be joined, not ", b.channels);
    }
    if (b.factor == 1) {
      b.width *= b.height;
      b.height = 1;
    }
    return b;
  }

  void take_mask(const Tensor& m) {
    const int64_t d = m.dim(), images = d == 3 ? m.size(0) : 1;
    RDDM_CHECK((d == 2 || d == 3) && m.size(d - 2) == x_t.size(2) && m.size(d - 1) == x_t.size(3) &&
                   (images == 1 || images == x_t.size(0)),
               "range_null_step: mask must be (H, W) or (B, H, W)");
    RDDM_CHECK(m.scalar_type() == ScalarType::Bool || m.scalar_type() == ScalarType::Byte,
               "range_null_step: mask must be bool or uint8");
    RDDM_CHECK(m.device() == x_t.device(), "range_null_step: mask must be on x_t's device");
    mask = torch::stable::contiguous(m);
    blocks.mask_stride = images == 1 ? 0 : blocks.pixels();
  }

  Tensor other(const Tensor& x, ScalarType dtype, const char* name) const {
    return matching(x, result.tensor, dtype, "range_null_step", name);
  }
};

}  // namespace rddm
