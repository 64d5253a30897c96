// spectral_step_ on two-byte coordinates, in registers from loading to storing: see
// reverse_step/narrow_steps.h.
#pragma once

#include <cstdint>

#include "spectral_step/spectral_step.h"
#include "vectors/instruction_sets.h"

namespace rddm {

// A run of a sample's coordinates, all bfloat16 or all float16. Absent noise is null.
struct NarrowCoordinates {
  const uint16_t *x, *epsilon, *y_bar, *noise;
  const float *k_0, *k_epsilon, *k_y, *k_z;  // the coefficients of each
};

struct NarrowSpectral {
  // `next` may be x itself.
  using Walk = void (*)(const SpectralNumbers<float>& c, const NarrowCoordinates& in,
                        uint16_t* next, int64_t n);

  const char* name;
  bool (*is_supported)();
  Walk (*walk)(bool bfloat16);  // null where the processor converts none
};

RDDM_DECLARE_FOR_EVERY_SET(NarrowSpectral, kNarrowSpectral);

}  // namespace rddm
