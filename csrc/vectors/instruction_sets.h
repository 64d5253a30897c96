// The choice of an instruction set when the program runs.
#pragma once

#include <initializer_list>
#include <vector>

namespace rddm {

// Of an op's steps, those for the instruction sets that this machine has, the fastest last.
template <class Steps>
std::vector<const Steps*> supported(std::initializer_list<const Steps*> all) {
  std::vector<const Steps*> found;
  for (const Steps* steps : all) {
    if (steps->is_supported()) found.push_back(steps);
  }
  return found;
}

}  // namespace rddm
