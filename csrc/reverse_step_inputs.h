// What both launchers of reverse_step do before their loops: check the arguments, allocate the
// result, and bring every input to the result's memory layout so that one flat index serves all.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "reverse_step.h"

namespace rddm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Equal strides wherever a stride means something: not along dimensions of size 1.
inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

// `x` itself where it already lies in memory as `model` does, else a copy that does.
inline Tensor in_layout_of(const Tensor& x, const Tensor& model) {
  if (same_layout(x, model)) return x;
  int32_t dtype, device_type;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(model.dim(), model.sizes().data(),
                                                  model.strides().data(), dtype, device_type,
                                                  x.get_device_index(), &handle));
  Tensor copy(handle);
  torch::stable::copy_(copy, x);
  return copy;
}

// The tensors of one call, all in `result`'s layout. An input that the step does not read is
// absent.
struct ReverseStepInputs {
  Tensor result, I_t, out0;
  std::optional<Tensor> out1, I_in, noise;
  Objective objective;

  ReverseStepInputs(const Tensor& I_t_, const Tensor& out0_, const std::optional<Tensor>& out1_,
                    const std::optional<Tensor>& I_in_, const std::optional<Tensor>& noise_,
                    int64_t objective_, double sigma)
      : result(torch::stable::empty_like(I_t_)),
        I_t(in_layout_of(I_t_, result)),
        out0(matching(out0_, out0_.scalar_type(), "out0")),
        objective(static_cast<Objective>(objective_)) {
    STD_TORCH_CHECK(objective_ >= 0 && objective_ < kObjectives, "reverse_step: objective ",
                    objective_, " is not one of 0 to ", kObjectives - 1);
    STD_TORCH_CHECK(out1_.has_value() == has_two_outputs(objective),
                    "reverse_step: out1 must be given exactly where the objective has two outputs");
    STD_TORCH_CHECK(sigma == 0 || noise_.has_value(), "reverse_step: sigma != 0 needs noise");
    if (out1_) out1 = matching(*out1_, out0.scalar_type(), "out1");
    if (I_in_ && needs_input(objective)) I_in = matching(*I_in_, I_t.scalar_type(), "I_in");
    if (noise_ && sigma != 0) noise = matching(*noise_, I_t.scalar_type(), "noise");
  }

  // The start of a tensor's data, or null for an absent one. The caller has dispatched on the
  // dtype.
  template <class T>
  static const T* data(const std::optional<Tensor>& x) {
    return x ? static_cast<const T*>(x->const_data_ptr()) : nullptr;
  }

 private:
  // `x` in the result's layout, once it is known to be an image of the same shape, place and dtype.
  Tensor matching(const Tensor& x, ScalarType dtype, const char* name) const {
    bool same_shape = x.dim() == result.dim();
    for (int64_t d = 0; same_shape && d < x.dim(); ++d) same_shape = x.size(d) == result.size(d);
    STD_TORCH_CHECK(same_shape, "reverse_step: ", name, " must have I_t's shape");
    STD_TORCH_CHECK(x.device() == result.device(), "reverse_step: ", name,
                    " must be on I_t's device");
    STD_TORCH_CHECK(x.scalar_type() == dtype, "reverse_step: ", name,
                    " has the wrong dtype: ", torch::headeronly::toString(x.scalar_type()));
    return in_layout_of(x, result);
  }
};

}  // namespace rddm
