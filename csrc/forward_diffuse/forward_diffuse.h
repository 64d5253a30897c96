// The arithmetic of the forward process (RDDM, eq. 7), for one pixel, shared by the host and the
// device:
//
//   I_t = I_0 + alpha_bar_t (I_in - I_0) + beta_bar_t epsilon
#pragma once

#include "common/inline.h"

namespace rddm {

template <class T>
RDDM_INLINE T forward_diffuse(T I_0, T I_in, T epsilon, T alpha_bar, T beta_bar) {
  return I_0 + alpha_bar * (I_in - I_0) + beta_bar * epsilon;
}

}  // namespace rddm
