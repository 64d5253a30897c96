// The choice of an instruction set when the program runs.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

// The objects of a file that is compiled once for each instruction set (CMakeLists.txt): one name,
// such as kWinograd, and the set's at its end, as RDDM_OF_SET of vectors.h puts it there.
#if defined(__x86_64__)
#define RDDM_DECLARE_FOR_EVERY_SET(Type, name) \
  extern const Type name##Baseline, name##Avx2, name##Avx512
#define RDDM_EVERY_SET(name) {&name##Baseline, &name##Avx2, &name##Avx512}
#else
#define RDDM_DECLARE_FOR_EVERY_SET(Type, name) extern const Type name##Baseline
#define RDDM_EVERY_SET(name) {&name##Baseline}
#endif

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

// The fastest of them. The baseline is everywhere.
template <class Steps>
const Steps& fastest(std::initializer_list<const Steps*> all) {
  return *supported(all).back();
}

// The last of the sets whose width is `width`, or any for 0, and divides the channels as asked;
// null if none does.
template <class Steps, class Divides>
const Steps* widest(const std::vector<const Steps*>& sets, int64_t width, Divides&& divides) {
  for (auto set = sets.rbegin(); set != sets.rend(); ++set) {
    if ((!width || width == (*set)->width) && divides((*set)->width)) return *set;
  }
  return nullptr;
}

}  // namespace rddm
