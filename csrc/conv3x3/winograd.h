// Winograd's 3x3 convolution on the CPU: what its three steps share, and the steps of each
// instruction set. The steps work on blocks of tiles and know no threads: conv3x3.cpp divides the
// work.
//
// A block's transformed input V, and the products M of one panel of output channels, lie in scratch
// memory as [vector of channels][part][position][tile of the part][channel of the vector]. Where a
// number of channels is no multiple of a vector's, the last vector overlaps the one before it.
#pragma once

#include "vectors/convolution_data.h"
#include "vectors/instruction_sets.h"

namespace rddm {

struct Winograd : ConvolutionData {
  int tile = 4;  // F(tile x tile, 3x3)
  int64_t batch = 0, height = 0, width = 0;
  int64_t tile_rows = 0, tile_columns = 0;  // of an image
  bool past_cache = false;  // Write the result past the cache; its vectors are aligned.

  int64_t tiles() const { return batch * tile_rows * tile_columns; }
  int positions() const { return (tile + 2) * (tile + 2); }
};

// A block of tiles, divided into parts of nearly equal size, and its scratch memory.
struct WinogradBlock {
  int64_t first = 0, tiles = 0, parts = 0;
  float *v = nullptr, *m = nullptr;

  int64_t begin(int64_t part) const { return part * tiles / parts; }
};

struct WinogradSteps {
  const char* name;
  int width;  // float32 values of a vector
  int rows;   // tiles of a part, at most
  bool (*is_supported)();
  // Transforms a panel's weights of 3x3 taps to [position][C][panel's channels], behind those of
  // the panels before it. A panel has two vectors of output channels; the last one may have one.
  void (*pack)(int tile, const PlainWeight&, int64_t panel, float* to);
  // B' d B of the block's tiles, for a vector of channels.
  void (*input)(const Winograd&, const WinogradBlock&, int64_t group);
  // The products of a panel, into m.
  void (*products)(const Winograd&, const WinogradBlock&, int64_t panel);
  // A' m A + bias of a panel.
  void (*output)(const Winograd&, const WinogradBlock&, int64_t panel);
};

RDDM_DECLARE_FOR_EVERY_SET(WinogradSteps, kWinograd);

}  // namespace rddm
