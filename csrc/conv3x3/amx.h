// A 3x3 convolution in the matrix unit of Intel's processors (AMX), with the accuracy of float32.
//
// The unit multiplies whole numbers of 8 bits, and sums them exactly in 32. So a value is taken as
// a whole number of 24 bits, in a scale that its band of the image shares, or its channel of the
// weights, and that number as three digits to the base 256 from -128 to 127. Of the nine products
// of two values' digits the six larger are summed, by their order in three sums. What is dropped
// is 1e-6 of the results' deviation, as much as a direct convolution in float32 rounds away. The
// convolution is direct, and its weights take three quarters of the memory of plain ones.
//
// The steps here work on a band, some rows of an image, and know no threads: amx_bands.cpp divides
// the work. A band's digits lie as [block of channels][row][column][digit, the highest first]
// [channel of the block], with a border of zeros.
#pragma once

#include "vectors/convolution_data.h"

namespace rddm {

constexpr int kAmxPanel = 16;  // output channels that are computed at once
constexpr int kAmxBlock = 64;  // input channels whose products are summed at once

// What the results of one band say of a panel's channels.
struct AmxStatistics {
  float mean[kAmxPanel], squares[kAmxPanel];  // sums of squared deviations from the mean
  float least[kAmxPanel], most[kAmxPanel];
};

struct AmxConvolution : ConvolutionData {
  int64_t batch = 0, height = 0, width = 0;
  int64_t bands = 1;        // of an image
  bool past_cache = false;  // Write whole vectors of the result past the cache; they are aligned.
  // If given, silu(factor x + term) is convolved instead of x, of one source. They are of every
  // image's channels, with zeros up to a whole block, and come with the largest magnitude of an
  // image's values.
  const float *factors = nullptr, *terms = nullptr, *largest = nullptr;
  AmxStatistics* statistics = nullptr;  // [image][band][panel], or null

  // Whether a band has three copies of its rows, one for each column of taps, and no border at the
  // sides. The unit takes 16 pixels that lie at equal distances. In rows with a border these end
  // with the row; in copies without one they go on in the next row, for images that do not divide
  // into 16 columns.
  bool has_copies() const { return (width + 15) / 16 * 16 * 8 > width * 9; }
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
  int64_t (*packed_size)(int64_t result_channels, int64_t channels);
  // Takes weights (K, C, 3, 3) apart into [panel][block of channels][tap][digit] of fours of
  // channels, as the unit reads them, behind the scale of each output channel.
  void (*pack)(const float* weight, int64_t result_channels, int64_t channels, float* to);
  // The size of a band of so many rows, in bytes.
  int64_t (*band_size)(const AmxConvolution&, int64_t rows);
  // The digits of a band.
  void (*split)(const AmxConvolution&, AmxBand&);
  // The results of a band for some panels. All of them are NaN if one of its values is not finite.
  void (*products)(const AmxConvolution&, const AmxBand&, int64_t first_panel, int64_t last_panel);
};

#if defined(RDDM_WITH_AMX)
extern const AmxSteps kAmx;
#endif

}  // namespace rddm
