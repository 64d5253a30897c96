// Winograd's convolution divided into blocks of tiles and over threads.
//
// A block's tiles are transformed, multiplied with the transformed weights and transformed back,
// one panel of output channels after another, while they lie in the second-level cache. Threads
// take blocks of their own. Where there are fewer blocks than threads, several share a block: each
// transforms the input for itself and takes some of the panels, so that it reads only their
// weights.
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "conv3x3/winograd_sets.h"
#include "vectors/instruction_sets.h"
#include "vectors/packed_weights.h"
#include "vectors/scratch.h"

namespace rddm {
namespace {

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

}  // namespace

const std::vector<const WinogradSteps*>& winograd_sets() {
  static const auto sets = supported<WinogradSteps>(RDDM_EVERY_SET(kWinograd));
  return sets;
}

void run_winograd(const Winograd& w, const WinogradSteps& steps) { Convolution(w, steps).run(); }

}  // namespace rddm
