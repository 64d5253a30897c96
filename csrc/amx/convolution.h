// A 3x3 or 1x1 convolution in the matrix unit of Intel's processors (AMX), with the accuracy of
// float32.
//
// The unit multiplies whole numbers of 8 bits, and sums them exactly in 32. So a value is taken as
// a whole number of 24 bits, in a scale that its band of the image shares, or its channel of the
// weights, and that number as three digits to the base 256 from -128 to 127. Of the nine products
// of two values' digits the six larger are summed, by their order in three sums. What is dropped
// is 1e-6 of the results' deviation, as much as a direct convolution in float32 rounds away. The
// convolution is direct, and its weights take three quarters of the memory of plain ones.
//
// The steps here work on a band, some rows of an image, and know no threads: bands.cpp divides the
// work. A band's digits lie as [block of channels][row][column][digit, the highest first][channel
// of the block], with a border of zeros for 3x3 taps.
#pragma once

#include "vectors/convolution_data.h"

namespace rddm {

constexpr int kAmxPanel = 16;  // output channels that are computed at once
constexpr int kAmxBlock = 64;  // input channels whose products are summed at once
// At most: 3 products of 2^14 for 9 taps of more channels might exceed 2^31.
constexpr int64_t kAmxChannels = 4096;

// What the results of one band say of a panel's channels.
struct AmxStatistics {
  float mean[kAmxPanel], squares[kAmxPanel];  // sums of squared deviations from the mean
  float least[kAmxPanel], most[kAmxPanel];
};

// A factor and a term of every image's channels, with zeros up to a whole block, for
// silu(factor x + term).
struct AmxActivation {
  const float *factors = nullptr, *terms = nullptr;
};

struct AmxConvolution : ConvolutionData {
  int64_t taps = 9;  // or 1
  int64_t batch = 0, height = 0, width = 0;
  int64_t bands = 1;        // of an image
  bool past_cache = false;  // Write whole vectors of the result past the cache; they are aligned.
  // If given, the only source is activated before it is convolved, and `largest` has the largest
  // magnitude that this gives in an image.
  AmxActivation before = {};
  const float* largest = nullptr;
  // If given, what the result's memory holds is activated, and added to the result.
  AmxActivation added = {};
  AmxStatistics* statistics = nullptr;  // [image][band][panel], or null

  int64_t border() const { return taps == 9; }
  // Whether the pixels of a band have no border at the sides; for 3x3 taps they are there three
  // times, once for each column of taps. The unit takes 16 pixels that lie at equal distances. In
  // rows with a border these end with the row; without one they go on in the next row, for images
  // that do not divide into 16 columns.
  bool is_flat() const { return taps == 1 || (width + 15) / 16 * 16 * 8 > width * 9; }
  int64_t first_row(int64_t band) const { return band * height / bands; }
};

struct AmxBand {
  int64_t image = 0, number = 0;
  char* digits = nullptr;  // of the band's size, at the start of a line of the cache
  float largest = 0;       // magnitude of the band's values; not finite if one of them is not
};

struct AmxSteps {
  // Whether this machine has the unit and its kernel lets this process use it.
  bool (*is_supported)();
  // The size of packed weights, in float32 values.
  int64_t (*packed_size)(int64_t taps, int64_t result_channels, int64_t channels);
  // Takes a panel's weights apart into [panel][block of channels][tap][digit] of fours of channels,
  // as the unit reads them, behind the scale of each output channel.
  void (*pack)(const PlainWeight&, int64_t panel, float* to);
  // The size of a band of so many rows, in bytes.
  int64_t (*band_size)(const AmxConvolution&, int64_t rows);
  // The digits of a band.
  void (*split)(const AmxConvolution&, AmxBand&);
  // The results of a band for some panels. All of them are NaN if one of its values is not finite.
  void (*products)(const AmxConvolution&, const AmxBand&, int64_t first_panel, int64_t last_panel);
  // y = silu(factor y + term) + x for n pixels of so many channels, whose factors and terms these
  // are.
  void (*activate_and_add)(AmxActivation, const float* x, int64_t n, int64_t channels, float* y);
};

#if defined(RDDM_WITH_AMX)
extern const AmxSteps kAmx;
#endif

}  // namespace rddm
