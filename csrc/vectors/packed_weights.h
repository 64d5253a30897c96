// Weights that are arranged for an instruction set, in a tensor of one axis.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace rddm {

using torch::stable::Tensor;

constexpr int64_t kHeader = 16;  // Packed weights begin with a line that says what they are.

inline int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether a tensor is contiguous float32 of one axis.
inline bool is_packed(const Tensor& x) {
  return x.dim() == 1 && x.is_contiguous() &&
         x.scalar_type() == torch::headeronly::ScalarType::Float;
}

}  // namespace rddm
