// conv3x3 on the CPU: a 3x3 convolution of channels-last images by Winograd's minimal filtering, in
// float32. Here the work is divided into blocks of tiles and over threads.
//
// A block's tiles are transformed, multiplied with the transformed weights and transformed back,
// one panel of output channels after another, while they lie in the second-level cache. Threads
// take blocks of their own. Where there are fewer blocks than threads, several share a block: each
// transforms the input for itself and takes some of the panels, so that it reads only their
// weights.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "conv3x3/winograd_sets.h"
#include "vectors/convolution_tensors.h"
#include "vectors/instruction_sets.h"

namespace rddm {

const std::vector<const WinogradSteps*>& winograd_sets() {
  static const auto sets = supported<WinogradSteps>({
      &kWinogradBaseline,
#if defined(__x86_64__)
      &kWinogradAvx2,
      &kWinogradAvx512,
#endif
  });
  return sets;
}

namespace {

using torch::headeronly::ScalarType;

struct Header {
  float tile, width, result_channels, channels;
};

// Memory of a thread's own that is kept between calls: fresh pages would take as long as the work.
class Scratch {
 public:
  float* of(int64_t values) {
    if (values > size_) {
      data_.reset(static_cast<float*>(std::aligned_alloc(64, (values * 4 + 63) / 64 * 64)));
      size_ = data_ ? values : 0;
      if (!data_) throw std::bad_alloc();
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t size_ = 0;
};

thread_local Scratch scratch;

class Convolution {
 public:
  Convolution(const Winograd& w, const WinogradSteps& steps)
      : w_(w),
        steps_(steps),
        v_groups_(divided(w.source_channels[0], steps.width) +
                  divided(w.source_channels[1], steps.width)),
        m_groups_(divided(w.result_channels, steps.width)),
        panels_(divided(m_groups_, 2)),
        part_(int64_t(w.positions()) * steps.rows * steps.width) {}

  // The sizes are measured, on cores with AVX-512 and 2 MiB of second-level cache each: smaller
  // blocks read the weights from memory more often, larger ones do not stay in the cache.
  void run() {
    const int64_t tiles = w_.tiles(), weights = w_.positions() * w_.channels() * w_.result_channels;
    // Below 4 million products a second thread takes longer to start than it saves.
    const int64_t threads = tiles * weights < (4 << 20) ? 1 : torch::stable::get_num_threads();
    int64_t blocks = divided(tiles, weights > (4 << 20) ? 84 : 28), shares = 1;
    if (blocks < threads) {
      shares = std::min(panels_, divided(threads, blocks));
    } else {
      blocks = std::min(tiles, divided(blocks, threads) * threads);
    }
    const auto run_shares = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t share = i % shares;
        run_block(block(i / shares, blocks), share * panels_ / shares,
                  (share + 1) * panels_ / shares);
      }
    };
    if (threads == 1) return run_shares(0, blocks * shares);
    torch::stable::parallel_for(0, blocks * shares, 1, run_shares);
  }

 private:
  // Block i of n.
  WinogradBlock block(int64_t i, int64_t n) {
    WinogradBlock b;
    b.first = i * w_.tiles() / n;
    b.tiles = (i + 1) * w_.tiles() / n - b.first;
    b.parts = divided(b.tiles, steps_.rows);
    b.v = scratch.of((v_groups_ + 2) * b.parts * part_);
    b.m = b.v + v_groups_ * b.parts * part_;
    return b;
  }

  void run_block(const WinogradBlock& b, int64_t panel, int64_t last_panel) {
    for (int64_t group = 0; group < v_groups_; ++group) steps_.input(w_, b, group);
    for (; panel < last_panel; ++panel) {
      steps_.products(w_, b, panel);
      steps_.output(w_, b, panel);
    }
  }

  const Winograd& w_;
  const WinogradSteps& steps_;
  int64_t v_groups_, m_groups_, panels_, part_;
};

int64_t packed_values(int tile, int width, int64_t result_channels, int64_t channels) {
  return kHeader + (tile + 2) * (tile + 2) * channels * width * divided(result_channels, width);
}

Tensor pack_conv3x3_cpu(const Tensor& weight, int64_t tile, int64_t instruction_set) {
  const auto& sets = winograd_sets();
  STD_TORCH_CHECK(tile == 2 || tile == 4, "pack_conv3x3: tile must be 2 or 4");
  STD_TORCH_CHECK(instruction_set >= -1 && instruction_set < int64_t(sets.size()),
                  "pack_conv3x3: this machine has no such instruction set");
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 &&
                      weight.numel() > 0 && weight.scalar_type() == ScalarType::Float,
                  "pack_conv3x3: weight must be float32 of shape (K, C, 3, 3)");
  const WinogradSteps& steps = *(instruction_set < 0 ? sets.back() : sets[size_t(instruction_set)]);
  const Tensor plain = torch::stable::contiguous(weight);
  const int64_t result_channels = weight.size(0), channels = weight.size(1);
  Tensor packed = torch::stable::new_empty(
      weight, {packed_values(int(tile), steps.width, result_channels, channels)});
  float* const to = static_cast<float*>(packed.mutable_data_ptr());
  std::fill_n(to, kHeader, 0.f);
  *reinterpret_cast<Header*>(to) = {float(tile), float(steps.width), float(result_channels),
                                    float(channels)};
  const float* const from = static_cast<const float*>(plain.const_data_ptr());
  steps.pack(int(tile), from, result_channels, channels, to + kHeader);
  return packed;
}

Tensor conv3x3_cpu(const Tensor& x, const std::optional<Tensor>& x_2, const Tensor& weight,
                   const std::optional<Tensor>& packed, const std::optional<Tensor>& bias,
                   bool upsample) {
  STD_TORCH_CHECK(!upsample, "conv3x3: upsample is for a GPU");
  Winograd w;
  const ConvolutionTensors tensors("conv3x3", x, x_2, weight, bias, w);
  const Tensor weights = packed ? *packed : pack_conv3x3_cpu(weight, 4, -1);
  w.batch = x.size(0), w.height = x.size(2), w.width = x.size(3);
  STD_TORCH_CHECK(is_packed(weights) && weights.numel() >= kHeader,
                  "conv3x3: packed must come from pack_conv3x3");
  const float* const data = static_cast<const float*>(weights.const_data_ptr());
  const Header header = *reinterpret_cast<const Header*>(data);
  const auto is_set = [&](const WinogradSteps* set) { return float(set->width) == header.width; };
  const auto set = std::find_if(winograd_sets().begin(), winograd_sets().end(), is_set);
  w.tile = int(header.tile);
  STD_TORCH_CHECK(
      set != winograd_sets().end() && (w.tile == 2 || w.tile == 4) &&
          header.result_channels == float(w.result_channels) &&
          header.channels == float(w.channels()) &&
          weights.numel() == packed_values(w.tile, (*set)->width, w.result_channels, w.channels()),
      "conv3x3: packed must come from pack_conv3x3, of this weight and on this machine");
  if (tensors.result.numel() == 0) return tensors.result;
  w.packed = data + kHeader;
  w.tile_rows = divided(w.height, w.tile), w.tile_columns = divided(w.width, w.tile);
  // A larger result leaves the cache before it is read.
  w.past_cache = tensors.result.numel() > (1 << 21) && w.result_channels % (*set)->width == 0;
  Convolution(w, **set).run();
  return tensors.result;
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("conv3x3", TORCH_BOX(&rddm::conv3x3_cpu));
  m.impl("pack_conv3x3", TORCH_BOX(&rddm::pack_conv3x3_cpu));
}
