// joint_loss on images that memory holds in two bytes, in registers from loading to storing
// (reverse_step/narrow_steps.h says why).
#pragma once

#include <cstdint>

#include "joint_loss/joint_loss.h"
#include "vectors/instruction_sets.h"

namespace rddm {

// The images of a loss, all bfloat16 or all float16. Absent ones are null and count as zeros.
struct NarrowLossImages {
  const uint16_t *I_0, *I_in, *noise, *out0, *out1;
};

// The sums of both outputs' distances.
struct LossSums {
  double of0, of1;
};

struct NarrowLosses {
  // Adds up n values, in 16 lanes for every set, and writes the derivatives of both outputs.
  using Walk = LossSums (*)(const NarrowLossImages& images, float scale0, float scale1,
                            uint16_t* derivative0, uint16_t* derivative1, int64_t n);

  const char* name;
  bool (*is_supported)();
  Walk (*walk)(Objective objective, bool squared, bool bfloat16);
};

RDDM_DECLARE_FOR_EVERY_SET(NarrowLosses, kNarrowLosses);

}  // namespace rddm
