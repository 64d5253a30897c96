// range_null_step on two-byte images whose three channels are planes and a block, in registers from
// loading to storing: see reverse_step/narrow_steps.h.
#pragma once

#include <cstdint>

#include "range_null_step/range_null_step.h"
#include "vectors/instruction_sets.h"

namespace rddm {

// The planes of a run of pixels. Absent inputs are null and count as zeros; without a mask, which
// is one for the three, all pixels are kept.
struct NarrowPlanes {
  static constexpr int kChannels = 3;
  const uint16_t *x_t[kChannels], *epsilon[kChannels], *noise[kChannels], *pinv_y[kChannels];
  const uint8_t* mask;
  uint16_t* to[kChannels];  // may be those of x_t
};

struct NarrowJoined {
  // `weights` of the channels; `inverse` is 1 over the sum of their squares.
  using Walk = void (*)(const RangeNullNumbers<float>& c, const float* weights, float inverse,
                        const NarrowPlanes& planes, int64_t n);

  const char* name;
  bool (*is_supported)();
  Walk (*walk)(bool bfloat16);  // null where the processor converts none
};

RDDM_DECLARE_FOR_EVERY_SET(NarrowJoined, kNarrowJoined);

}  // namespace rddm
