// How range_null_step cuts an image into tiles on a CUDA device, and a tile among threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "common/divisor.cuh"
#include "range_null_step/range_null_step_inputs.h"

namespace rddm {
namespace {

// 96 or 128 threads are the most of a tile: 256 x 256 pixels then spread over all multiprocessors.
constexpr int kTileThreads = 128, kMostGroups = 16;

// How a launch cuts its image into tiles, and a thread block into lanes and groups.
struct RangeNullTiles {
  SmallDivisor across;     // tiles in a row of blocks
  SmallDivisor down;       // rows of blocks in a channel, or in an image if its channels are joined
  SmallDivisor per_image;  // blocks' channels in an image
  SmallDivisor factor;
  int64_t width, pixels, mask_stride;
  int columns, channels, lines, groups, lane_bits;
  bool once;     // each thread has one pack
  float square;  // <v, v> of a block without a mask
  float weights[kMostWeights];

  template <int N>
  static RangeNullTiles of(const RangeNullBlocks& b) {
    RangeNullTiles t{SmallDivisor(1), SmallDivisor(b.height / b.factor),
                     SmallDivisor(b.channels / b.channels_of_block()), SmallDivisor(b.factor)};
    t.width = b.width;
    t.pixels = b.pixels();
    t.mask_stride = b.mask_stride;
    t.channels = int(b.channels_of_block());
    t.lines = int(b.factor) * t.channels;
    t.square = float(b.square_of_weights() * double(b.factor * b.factor));
    for (int c = 0; c < t.channels; ++c) t.weights[c] = float(b.weights[size_t(c)]);
    const int of_group = (t.lines + kMostGroups - 1) / kMostGroups;
    t.groups = (t.lines + of_group - 1) / of_group;
    t.lane_bits = 0;
    while ((t.groups << t.lane_bits) * 2 <= kTileThreads && t.slots<N>() < b.width) ++t.lane_bits;
    // Whole blocks, and whole packs unless both together are wider than the lanes.
    const int64_t slots = t.slots<N>(), both = std::lcm(b.factor, int64_t(N));
    const int64_t unit = both <= slots ? both : b.factor;
    t.columns = int(std::min(b.width, std::max(unit, slots / unit * unit)));
    t.once = of_group == 1 && t.columns <= slots;
    t.across = SmallDivisor((b.width + t.columns - 1) / t.columns);
    return t;
  }

  template <int N>
  RDDM_INLINE int slots() const {
    return N << lane_bits;
  }
  RDDM_INLINE int threads() const { return ((groups << lane_bits) + 31) / 32 * 32; }
  unsigned count(const RangeNullBlocks& b) const {
    return across.divisor * down.divisor * per_image.divisor * unsigned(b.images);
  }
};

}  // namespace
}  // namespace rddm
