// reverse_step on images that memory holds in two bytes, in registers from loading to storing.
//
// Blocks that are widened, computed and rounded in turn (common/cpu_blocks.h) pass the first-level
// cache five times. On a Zen 4 (2 threads, 16 x 3 x 256 x 256 float16) that takes 1.26 times as
// long as one loop over vectors, and asking for memory ahead makes it slower still.
#pragma once

#include <cstdint>

#include "reverse_step/reverse_step.h"
#include "vectors/instruction_sets.h"

namespace rddm {

// The images of a step, all bfloat16 or all float16. Absent ones are null and count as zeros.
struct NarrowImages {
  const uint16_t *I_t, *out0, *out1, *I_in, *noise;
};

struct NarrowSteps {
  // `next` may be I_t itself.
  using Walk = void (*)(const StepCoefficients<float>& c, const NarrowImages& images,
                        uint16_t* next, int64_t n);

  const char* name;
  bool (*is_supported)();
  // The loop for an objective and its terms; null for any terms.
  Walk (*walk)(Objective objective, StepTerms terms, bool bfloat16);
};

RDDM_DECLARE_FOR_EVERY_SET(NarrowSteps, kNarrowSteps);

}  // namespace rddm
