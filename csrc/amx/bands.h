// A whole convolution in AMX.
#pragma once

#include "amx/convolution.h"

namespace rddm {

// Null on a machine without AMX.
const AmxSteps* amx_steps();

// The weights, packed to `to`.
void pack_amx(const AmxSteps&, const PlainWeight&, float* to);

// The number of bands of an image, by the sizes alone: a band's values share their scale, so that
// other bands would give other bits.
int64_t amx_bands(const AmxConvolution&, const AmxSteps&);

// On torch's threads, in conv.bands bands.
void run_amx(const AmxConvolution&, const AmxSteps&);

}  // namespace rddm
