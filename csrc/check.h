// Checks whose error is the sentence alone, as a user reads it.
#pragma once

#include <torch/headeronly/util/Exception.h>

// STD_TORCH_CHECK writes the function, the file and the line before the sentence.
#define RDDM_CHECK(condition, ...)                                               \
  if (C10_UNLIKELY_OR_CONST(!(condition))) {                                     \
    throw std::runtime_error(STD_TORCH_CHECK_MSG(condition, "", ##__VA_ARGS__)); \
  }
