// The second walk of group_norm_silu over two-byte values, in registers from loading to storing
// (reverse_step/narrow_steps.h says why).
#pragma once

#include <cstdint>

#include "vectors/instruction_sets.h"

namespace rddm {

struct NarrowActivation {
  // y[i] = silu(factors[i] x[i] + terms[i]), plus rest[i] unless `rest` is null; n values, all
  // bfloat16 or all float16.
  using Walk = void (*)(const uint16_t* x, const float* factors, const float* terms,
                        const uint16_t* rest, uint16_t* y, int64_t n);

  const char* name;
  bool (*is_supported)();
  Walk (*walk)(bool bfloat16);
};

RDDM_DECLARE_FOR_EVERY_SET(NarrowActivation, kNarrowActivation);

}  // namespace rddm
