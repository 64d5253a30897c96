// The second walk of group_norm_silu over two-byte values, for the instruction set that this file
// is compiled for.
#include "group_norm_silu/narrow_activation.h"

#include "group_norm_silu/group_norm_silu.h"
#include "vectors/stored.h"

namespace rddm {
namespace {

#if defined(RDDM_CONVERTS_STORED)

template <Stored S>
void walk(const uint16_t* x, const float* factors, const float* terms, const uint16_t* rest,
          uint16_t* y, int64_t n) {
  const StoredInput values(x), added(rest);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vec normal = load(factors + i) * values.at<S>(i) + load(terms + i);
    put_narrowed<S>(y + i, silu(normal) + added.at<S>(i));
  }
  if (const int64_t last = n - i; last > 0) {
    const Vec normal =
        load_some(factors + i, last) * values.last<S>(i, last) + load_some(terms + i, last);
    put_narrowed<S>(y + i, silu(normal) + added.last<S>(i, last), last);
  }
}

NarrowActivation::Walk walk_for(bool bfloat16) {
  return bfloat16 ? &walk<Stored::kBfloat16> : &walk<Stored::kFloat16>;
}

#else

NarrowActivation::Walk walk_for(bool) { return nullptr; }

#endif

}  // namespace

const NarrowActivation RDDM_OF_SET(kNarrowActivation) = {RDDM_SET_NAME, &is_supported, &walk_for};

}  // namespace rddm
