// The instruction sets for which Winograd's steps are compiled.
#pragma once

#include <vector>

#include "conv3x3/winograd.h"

namespace rddm {

// Those that this machine has, the fastest last.
const std::vector<const WinogradSteps*>& winograd_sets();

}  // namespace rddm
