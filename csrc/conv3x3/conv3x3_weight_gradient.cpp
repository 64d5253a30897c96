// conv3x3_weight_gradient on the CPU: the gradients of a 3x3 convolution's weights and bias, in
// AMX, or by Winograd's minimal filtering.
//
// The rows or the tiles of all images are divided into bands or blocks that stay in the
// second-level cache. Shares of consecutive ones sum into gradients of their own, which are added
// up in order. Where there are fewer shares than threads, several take one: each computes some of
// the channels.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "amx/bands.h"
#include "amx/weight_gradients.h"
#include "check.h"
#include "conv3x3/winograd_gradients.h"
#include "vectors/packed_weights.h"
#include "vectors/scratch.h"

namespace rddm {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kBand = 1 << 20;  // bytes of a band's digits, of 2 MiB of cache
// Values of all shares' gradients together, at most: they should stay in the cache, too. Above it
// one share is left, and threads take output channels.
constexpr int64_t kGradients = 1 << 19;

const AmxWeightGradientSteps* weight_gradient_steps() {
#if defined(RDDM_WITH_AMX)
  return amx_steps() ? &kAmxWeightGradients : nullptr;
#else
  return nullptr;
#endif
}

thread_local Scratch scratch;

void run(const AmxWeightGradientSteps& steps, const AmxWeightGradients& g, float* weight,
         float* bias) {
  const int64_t panels = divided(g.result_channels, kAmxPanel);
  const int64_t weights = g.result_channels * 9 * g.channels, own = weights + g.result_channels;
  // These follow from the sizes alone, so that threads change no bit.
  const int64_t least_bands = divided(steps.digits_size(g, g.rows()), kBand);
  const int64_t bands = std::min(g.rows(), least_bands > 1 ? (least_bands + 1) / 2 * 2 : 1);
  const int64_t shares = std::clamp<int64_t>(kGradients / own, 1, bands);
  const int64_t parts = std::min(panels, divided(torch::stable::get_num_threads(), shares));
  // The first share sums into the results.
  std::fill_n(weight, weights, 0.f);
  std::fill_n(bias, g.result_channels, 0.f);
  std::vector<float> others((shares - 1) * own);
  torch::stable::parallel_for(0, shares * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t share = i / parts, part = i % parts;
      float* const to = share ? others.data() + (share - 1) * own : weight;
      for (int64_t band = share * bands / shares; band < (share + 1) * bands / shares; ++band) {
        const AmxRows rows{band * g.rows() / bands, (band + 1) * g.rows() / bands};
        const int64_t size = steps.digits_size(g, rows.last - rows.first);
        steps.add(g, rows, part * panels / parts, (part + 1) * panels / parts,
                  reinterpret_cast<char*>(scratch.of(divided(size, 4))), to,
                  share ? to + weights : bias);
      }
    }
  });
  for (int64_t share = 1; share < shares; ++share) {
    const float* const from = others.data() + (share - 1) * own;
    for (int64_t i = 0; i < weights; ++i) weight[i] += from[i];
    for (int64_t i = 0; i < g.result_channels; ++i) bias[i] += from[weights + i];
  }
}

class WinogradSums {
 public:
  WinogradSums(const WinogradGradients& g, const WinogradGradientSteps& steps)
      : g_(g),
        steps_(steps),
        channel_groups_(divided(g.channels(), steps.width)),
        result_groups_(divided(g.result_channels(), steps.width)),
        panels_(divided(channel_groups_, 2)),
        row_(kPositions * result_groups_ * steps.width * steps.width) {
    // These follow from the sizes alone, so that threads change no bit.
    const int64_t values = kPositions * (2 * steps.width + g.result_channels());  // of a tile
    blocks_ = divided(g.x.tiles(), std::clamp<int64_t>(kBlock / values, 28, 84));
    shares_ = std::clamp<int64_t>(kSums / sums(), 1, blocks_);
  }

  void run(float* weight, float* bias) const {
    const int64_t lanes = result_groups_ * steps_.width;
    std::vector<float> all(shares_ * sums()), biases(shares_ * lanes);
    const int64_t parts = std::min(panels_, divided(torch::stable::get_num_threads(), shares_));
    torch::stable::parallel_for(0, shares_ * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t share = i / parts, part = i % parts;
        add(share, part * panels_ / parts, (part + 1) * panels_ / parts, &all[share * sums()],
            part ? nullptr : &biases[share * lanes]);
      }
    });
    torch::stable::parallel_for(0, panels_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) finish(all, panel, weight);
    });
    const int64_t width = std::min<int64_t>(steps_.width, g_.result_channels());
    for (int64_t group = 0; group < result_groups_; ++group) {
      const int64_t first = std::min(group * width, g_.result_channels() - width);
      for (int64_t lane = 0; lane < width; ++lane) {
        float& sum = bias[first + lane] = 0;
        for (int64_t share = 0; share < shares_; ++share) {
          sum += biases[share * lanes + group * steps_.width + lane];
        }
      }
    }
  }

 private:
  static constexpr int64_t kPositions = 36;
  static constexpr int64_t kBlock = 1 << 17;  // transformed values of a block's tiles: 512 KiB
  static constexpr int64_t kSums = int64_t(3) << 18;  // values of all shares together, at most

  int64_t sums() const { return channel_groups_ * row_; }

  // The blocks of a share, for some of the panels.
  void add(int64_t share, int64_t panel, int64_t last_panel, float* to, float* bias) const {
    const int64_t end = (share + 1) * blocks_ / shares_;
    for (int64_t i = share * blocks_ / shares_, first = i; i < end; ++i) {
      WinogradBlock tiles;
      tiles.first = i * g_.x.tiles() / blocks_;
      tiles.tiles = (i + 1) * g_.x.tiles() / blocks_ - tiles.first;
      tiles.parts = divided(tiles.tiles, steps_.rows);
      const int64_t size = tiles.parts * kPositions * steps_.rows * steps_.width;
      WinogradGradientBlock block{tiles, tiles};
      block.x.v = scratch.of((2 + result_groups_) * size);
      block.grad.v = block.x.v + 2 * size;
      steps_.spread(g_, block, bias);
      for (int64_t p = panel; p < last_panel; ++p) {
        steps_.add(g_, block, p, i == first, to + 2 * p * row_);
      }
    }
  }

  void finish(std::vector<float>& all, int64_t panel, float* weight) const {
    const int64_t begin = 2 * panel * row_;
    const int64_t size = std::min(channel_groups_ - 2 * panel, int64_t(2)) * row_;
    float* const to = all.data() + begin;
    for (int64_t share = 1; share < shares_; ++share) {
      const float* const from = to + share * sums();
      for (int64_t i = 0; i < size; ++i) to[i] += from[i];
    }
    steps_.finish(g_, panel, to, weight);
  }

  WinogradGradients g_;
  const WinogradGradientSteps& steps_;
  int64_t channel_groups_, result_groups_, panels_, row_;  // row_: sums of a vector of channels
  int64_t blocks_, shares_;
};

Winograd tiled(const Tensor& images) {
  Winograd w;
  w.sources[0] = static_cast<const float*>(images.const_data_ptr());
  w.source_channels[0] = images.size(1);
  w.batch = images.size(0), w.height = images.size(2), w.width = images.size(3);
  w.tile_rows = divided(w.height, w.tile), w.tile_columns = divided(w.width, w.tile);
  return w;
}

std::tuple<Tensor, Tensor> conv3x3_weight_gradient_cpu(const Tensor& grad, const Tensor& x,
                                                       int64_t tile, int64_t instruction_set) {
  const AmxWeightGradientSteps* const amx = weight_gradient_steps();
  RDDM_CHECK(tile == 1 || tile == 4, "conv3x3_weight_gradient: tile must be 1 or 4");
  RDDM_CHECK(tile == 4 || amx, "conv3x3_weight_gradient: a tile of 1 needs AMX");
  static const auto sets = supported<WinogradGradientSteps>(RDDM_EVERY_SET(kWinogradGradients));
  RDDM_CHECK(instruction_set >= -1 && instruction_set < int64_t(sets.size()),
             "conv3x3_weight_gradient: this machine has no such instruction set");
  RDDM_CHECK(grad.dim() == 4 && x.dim() == 4 && grad.scalar_type() == ScalarType::Float &&
                 x.scalar_type() == ScalarType::Float && grad.size(0) == x.size(0) &&
                 grad.size(2) == x.size(2) && grad.size(3) == x.size(3),
             "conv3x3_weight_gradient: grad (B, K, H, W) and x (B, C, H, W) must be float32 "
             "images of one size");
  constexpr auto kChannelsLast = torch::headeronly::MemoryFormat::ChannelsLast;
  Tensor weight = torch::stable::empty({grad.size(1), x.size(1), 3, 3}, ScalarType::Float,
                                       std::nullopt, x.device(), std::nullopt, kChannelsLast);
  Tensor bias = torch::stable::new_empty(x, {grad.size(1)});
  const Tensor grads = torch::stable::contiguous(grad, kChannelsLast);
  const Tensor images = torch::stable::contiguous(x, kChannelsLast);
  if (x.numel() == 0 || grad.numel() == 0) {
    return {torch::stable::zero_(weight), torch::stable::zero_(bias)};
  }
  float* const to_weight = static_cast<float*>(weight.mutable_data_ptr());
  float* const to_bias = static_cast<float*>(bias.mutable_data_ptr());
  if (tile == 4) {
    const auto& steps = *(instruction_set < 0 ? sets.back() : sets[size_t(instruction_set)]);
    WinogradSums({tiled(images), tiled(grads)}, steps).run(to_weight, to_bias);
    return {weight, bias};
  }
  AmxWeightGradients g;
  g.x = static_cast<const float*>(images.const_data_ptr());
  g.grad = static_cast<const float*>(grads.const_data_ptr());
  g.batch = x.size(0), g.height = x.size(2), g.width = x.size(3);
  g.channels = x.size(1), g.result_channels = grad.size(1);
  run(*amx, g, to_weight, to_bias);
  return {weight, bias};
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("conv3x3_weight_gradient", TORCH_BOX(&rddm::conv3x3_weight_gradient_cpu));
}
