// Division by numbers that are known at a launch, in multiplications: a device has no instruction
// for it.
#pragma once

#include <cstdint>

#include "common/inline.h"

namespace rddm {

// Of dividends below 2^31.
struct SmallDivisor {
  uint32_t divisor, factor = 0;  // factor is 2^shift / divisor, rounded up
  uint32_t shift = 31;

  // factor times d exceeds 2^shift by less than d <= 2^(shift - 31), so that a quotient exceeds the
  // true one by less than 1 / d for every dividend below 2^31, and does not reach the next integer.
  // Of a divisor from 2^31 on every quotient is 0, and so is the factor.
  explicit SmallDivisor(int64_t d) : divisor(uint32_t(d)) {
    if (d < 1 || d >= int64_t(1) << 31) return;
    while (int64_t(1) << (shift - 31) < d) ++shift;
    factor = uint32_t(((uint64_t(1) << shift) + uint64_t(d) - 1) / uint64_t(d));
  }

  RDDM_INLINE uint32_t divide(uint32_t dividend, uint32_t& remainder) const {
    const uint32_t quotient = uint32_t(uint64_t(dividend) * factor >> shift);
    remainder = dividend - quotient * divisor;
    return quotient;
  }
};

// Of any dividend below 2^52. A 64-bit division would be a call, around which registers spill.
struct Divisor {
  int64_t divisor;
  double reciprocal;
  SmallDivisor small;

  explicit Divisor(int64_t d) : divisor(d), reciprocal(1.0 / double(d)), small(d) {}

  RDDM_INLINE int64_t divide(int64_t dividend, int64_t& remainder) const {
    if (uint64_t(dividend) < uint64_t(1) << 31) {
      uint32_t rest;
      const uint32_t quotient = small.divide(uint32_t(dividend), rest);
      remainder = rest;
      return quotient;
    }
    int64_t quotient = int64_t(double(dividend) * reciprocal);
    remainder = dividend - quotient * divisor;
    if (remainder < 0) {
      remainder += divisor;
      --quotient;
    } else if (remainder >= divisor) {
      remainder -= divisor;
      ++quotient;
    }
    return quotient;
  }
};

}  // namespace rddm
