// The instruction sets for which Winograd's steps are compiled, and a whole convolution by them.
#pragma once

#include <vector>

#include "conv3x3/winograd.h"

namespace rddm {

// Those that this machine has, the fastest last.
const std::vector<const WinogradSteps*>& winograd_sets();

// On torch's threads. The result has the same bits however many they are.
void run_winograd(const Winograd&, const WinogradSteps&);

}  // namespace rddm
