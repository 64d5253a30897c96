// tacos_step on images of three planes, a pixel's channels together in registers: their layers and
// their grey are read and computed once. Through buffers (tacos_step.cpp) a step of fade takes 1.2
// times as long on a Zen 4, in bfloat16 1.6 times.
#pragma once

#include <cstdint>

#include "tacos_step/tacos_step.h"
#include "vectors/instruction_sets.h"
#include "vectors/stored_dtypes.h"

namespace rddm {

// A run of pixels of one image. The planes are of the stored dtype; absent layers are null.
struct TacosPlanes {
  static constexpr int kChannels = 3;
  const void *x_s[kChannels], *x_0[kChannels];
  const float *layer_s, *layer_to;
  void* to[kChannels];
};

struct TacosPlaneSteps {
  // `first` and `second` are the op's numbers.
  using Walk = void (*)(float first, float second, const TacosPlanes& planes, int64_t n);

  const char* name;
  bool (*is_supported)();
  Walk (*walk)(TacosKind kind, Stored stored);  // null where the processor does not convert it
};

RDDM_DECLARE_FOR_EVERY_SET(TacosPlaneSteps, kTacosPlanes);

}  // namespace rddm
