// The convolution in AMX divided into bands of rows and over threads.
//
// A band is taken apart into digits, then multiplied with one panel of weights after another, while
// it lies in the second-level cache. Threads take bands of their own. Where there are fewer bands
// than threads, several share a band: each takes it apart for itself, and computes some panels.
#include "amx/bands.h"
#include "check.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "vectors/packed_weights.h"
#include "vectors/scratch.h"

namespace rddm {
namespace {

thread_local Scratch scratch;

}  // namespace

const AmxSteps* amx_steps() {
#if defined(RDDM_WITH_AMX)
  static const bool supported = kAmx.is_supported();
  return supported ? &kAmx : nullptr;
#else
  return nullptr;
#endif
}

void pack_amx(const AmxSteps& steps, const PlainWeight& weight, float* to) {
  RDDM_CHECK(weight.channels <= kAmxChannels, "in AMX a weight has at most ", kAmxChannels,
             " channels, and this has ", weight.channels);
  torch::stable::parallel_for(0, divided(weight.result_channels, kAmxPanel), 4,
                              [&](int64_t begin, int64_t end) {
                                for (int64_t panel = begin; panel < end; ++panel)
                                  steps.pack(weight, panel, to);
                              });
}

int64_t amx_bands(const AmxConvolution& conv, const AmxSteps& steps) {
  // The sizes are measured, with 2 MiB of second-level cache: each band reads all weights once, so
  // that it should be large where they do not stay in the cache, and small where they do.
  const int64_t weights = steps.packed_size(conv.taps, conv.result_channels, conv.channels());
  const int64_t best = weights > (1 << 18) ? 1 << 20 : 3 << 17;
  const int64_t bands = divided(steps.band_size(conv, conv.height), best);
  // An even number divides among two threads.
  return std::min(conv.height, bands > 1 ? (bands + 1) / 2 * 2 : 1);
}

void run_amx(const AmxConvolution& conv, const AmxSteps& steps) {
  const int64_t panels = divided(conv.result_channels, kAmxPanel);
  const int64_t pixels = conv.height * conv.width;
  // Below 4 million products a second thread takes longer to start than it saves.
  const bool is_small =
      conv.batch * pixels * conv.taps * conv.channels() * conv.result_channels < (4 << 20);
  const int64_t threads = is_small ? 1 : torch::stable::get_num_threads();
  const int64_t all = conv.batch * conv.bands;
  const int64_t shares = all < threads ? std::min(panels, divided(threads, all)) : 1;
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t share = i % shares;
      AmxBand band;
      band.image = i / shares / conv.bands, band.number = i / shares % conv.bands;
      const int64_t rows = conv.first_row(band.number + 1) - conv.first_row(band.number);
      const int64_t size = steps.band_size(conv, rows);
      band.digits = reinterpret_cast<char*>(scratch.of(divided(size, 4)));
      steps.split(conv, band);
      steps.products(conv, band, share * panels / shares, (share + 1) * panels / shares);
    }
  };
  if (threads == 1) return run(0, all * shares);
  torch::stable::parallel_for(0, all * shares, 1, run);
}

}  // namespace rddm
