// The objects of a file that is compiled once for each instruction set (CMakeLists.txt): one name,
// such as kWinograd, and the set's at its end, as RDDM_OF_SET of vectors.h puts it there.
#pragma once

#if defined(__x86_64__)
#define RDDM_DECLARE_FOR_EVERY_SET(Type, name) \
  extern const Type name##Baseline, name##Avx2, name##Avx512
#define RDDM_EVERY_SET(name) {&name##Baseline, &name##Avx2, &name##Avx512}
#else
#define RDDM_DECLARE_FOR_EVERY_SET(Type, name) extern const Type name##Baseline
#define RDDM_EVERY_SET(name) {&name##Baseline}
#endif
