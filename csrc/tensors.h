// What the launchers of all ops do before their loops: check the arguments, and bring every input
// to the result's memory layout, so that one flat index serves all.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

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

// `x` in the layout of `model`, once it is known to be of that shape, on that device and of
// `dtype`. `op` and `name` are for the message.
inline Tensor matching(const Tensor& x, const Tensor& model, ScalarType dtype, const char* op,
                       const char* name) {
  bool same_shape = x.dim() == model.dim();
  for (int64_t d = 0; same_shape && d < x.dim(); ++d) same_shape = x.size(d) == model.size(d);
  STD_TORCH_CHECK(same_shape, op, ": ", name, " must have the image's shape");
  STD_TORCH_CHECK(x.device() == model.device(), op, ": ", name, " must be on the image's device");
  STD_TORCH_CHECK(x.scalar_type() == dtype, op, ": ", name,
                  " has the wrong dtype: ", torch::headeronly::toString(x.scalar_type()));
  return in_layout_of(x, model);
}

// The start of a tensor's data, or null for an absent one. The caller has dispatched on the dtype.
template <class T>
const T* data_of(const std::optional<Tensor>& x) {
  return x ? static_cast<const T*>(x->const_data_ptr()) : nullptr;
}

// How an image's memory order follows from its logical (N, C, H, W) order: `channels` values of a
// pixel lie together and an image has `pixels` of them. One channel means that the two orders are
// the same.
struct PixelLayout {
  int64_t channels = 1, pixels = 1;
};

// The layout of `x` if it is contiguous or channels-last, which drawn noise can be counted in.
inline std::optional<PixelLayout> pixel_layout(const Tensor& x) {
  int64_t expected = 1;
  bool contiguous = true;
  for (int64_t d = x.dim() - 1; d >= 0; --d) {
    contiguous = contiguous && (x.size(d) == 1 || x.stride(d) == expected);
    expected *= x.size(d);
  }
  if (contiguous || x.numel() == 0) return PixelLayout{};
  if (x.dim() != 4) return std::nullopt;
  expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (x.size(d) != 1 && x.stride(d) != expected) return std::nullopt;
    expected *= x.size(d);
  }
  return PixelLayout{x.size(1), x.size(2) * x.size(3)};
}

// The noise of one call: none, a tensor's, or drawn from a seed.
struct NoiseArgument {
  std::optional<Tensor> tensor;
  bool drawn = false;
  uint64_t seed = 0, stream = 0;
  PixelLayout layout;
};

// Where an op writes its result for `image`, laid out as torch.empty_like lays it out. An op that
// has to know which element it is at (`counted`: for drawn noise, or for its sample) knows it in
// contiguous and channels-last images: for another layout `tensor` is contiguous, and `finish`
// copies it.
struct Result {
  Tensor tensor;
  std::optional<Tensor> wanted;

  Result(const Tensor& image, bool counted) : tensor(torch::stable::empty_like(image)) {
    if (counted && !pixel_layout(tensor)) {
      wanted = tensor;
      tensor = torch::stable::contiguous(tensor);
    }
  }

  Tensor finish() const {
    if (!wanted) return tensor;
    Tensor result = *wanted;
    torch::stable::copy_(result, tensor);
    return result;
  }
};

}  // namespace rddm
