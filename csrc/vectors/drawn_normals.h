// The noise of noise.h, many blocks at a time: the loop of each instruction set.
#pragma once

#include <cstdint>

#include "common/inline.h"
#include "vectors/instruction_sets.h"

namespace rddm {

// Images that are read or written where the noise goes. The loop asks for their memory line by
// line while it computes: asked for afterwards, it would take as long as the noise itself.
struct Ahead {
  static constexpr int kMost = 6;
  static constexpr int64_t kLead = 256;  // elements, so that a step's last lines are there in time

  struct Image {
    const char* data;
    int64_t size;  // of an element
  };
  Image images[kMost];
  int count = 0;

  template <class Element>
  RDDM_INLINE void add(const Element* data) {
    const char* const bytes = reinterpret_cast<const char*>(data);
    for (int i = 0; i < count; ++i) {
      if (images[i].data == bytes) return;  // a result in place
    }
    if (data) images[count++] = {bytes, int64_t(sizeof(Element))};
  }

  // One request for every 16 elements: a line of float32.
  RDDM_INLINE void fetch(int64_t element, int64_t n) const {
    for (int i = 0; i < count; ++i) {
      for (int64_t k = 0; k < n; k += 16) {
        __builtin_prefetch(images[i].data + (element + kLead + k) * images[i].size);
      }
    }
  }
};

struct NormalsLoop {
  static constexpr int64_t kMostAtOnce = 8;  // blocks

  const char* name;
  bool (*is_supported)();
  // The normals of `blocks` consecutive blocks, in order. The blocks' numbers share their upper 32
  // bits. It writes a multiple of up to kMostAtOnce blocks: `to` must have the room. The images'
  // elements that the noise is for begin with `element`.
  void (*run)(uint64_t seed, uint64_t stream, uint64_t first_block, int64_t blocks, float* to,
              const Ahead& ahead, int64_t element);
};

RDDM_DECLARE_FOR_EVERY_SET(NormalsLoop, kNormals);

}  // namespace rddm
