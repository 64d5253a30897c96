// What the launchers of all ops do before their loops: they check the arguments and bring every
// input to the result's memory layout, so that one flat index serves all.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "check.h"

namespace rddm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Whether the strides are equal, except along dimensions of size 1, where they mean nothing.
inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

// `x` itself if it has the memory layout of `model`, else a copy that has it.
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

// Checks that `x` has the shape and device of `model` and this `dtype`, and returns it in the
// layout of `model`. `op` and `name` are for the message.
inline Tensor matching(const Tensor& x, const Tensor& model, ScalarType dtype, const char* op,
                       const char* name) {
  bool same_shape = x.dim() == model.dim();
  for (int64_t d = 0; same_shape && d < x.dim(); ++d) same_shape = x.size(d) == model.size(d);
  RDDM_CHECK(same_shape, op, ": ", name, " must have the image's shape");
  RDDM_CHECK(x.device() == model.device(), op, ": ", name, " must be on the image's device");
  RDDM_CHECK(x.scalar_type() == dtype, op, ": ", name,
             " has the wrong dtype: ", torch::headeronly::toString(x.scalar_type()));
  return in_layout_of(x, model);
}

// The data of a tensor, or null for an absent one. The caller has dispatched on the dtype.
template <class T>
const T* data_of(const std::optional<Tensor>& x) {
  return x ? static_cast<const T*>(x->const_data_ptr()) : nullptr;
}

// The same, to be written.
template <class T>
T* data_to(const std::optional<Tensor>& x) {
  return x ? static_cast<T*>(x->mutable_data_ptr()) : nullptr;
}

// How an image's memory order follows from its logical (N, C, H, W) order: `channels` values of a
// pixel are adjacent, and an image has `pixels` pixels. With one channel the two orders are equal.
struct PixelLayout {
  int64_t channels = 1, pixels = 1;
};

// The layout of `x` if it is contiguous or channels-last: in these, drawn noise can be counted.
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

// The noise of one call: none, a tensor's, or drawn from a seed, which may be in a tensor itself.
struct NoiseArgument {
  std::optional<Tensor> tensor, seed_tensor;
  bool drawn = false;
  uint64_t seed = 0, stream = 0;
  PixelLayout layout;
};

// Where the elements of an image go that is written into some channels of a larger one. In memory
// order the image's elements are `outer` by `middle` by `inner`.
struct Placement {
  int64_t middle = 1, inner = 1;
  int64_t outer_stride = 0, middle_stride = 0, inner_stride = 0;

  // Whether a sample's elements keep their order and have no gaps.
  bool samples_are_whole() const {
    return inner_stride == 1 && (middle == 1 || middle_stride == inner);
  }
};

// `to` must have the shape of `image`, which is contiguous or channels-last.
inline Placement placement(const Tensor& to, const Tensor& image, const char* op,
                           const char* name) {
  bool fits = to.dim() == 4 && image.dim() == 4;
  for (int64_t d = 0; fits && d < 4; ++d) fits = to.size(d) == image.size(d);
  RDDM_CHECK(fits, op, ": ", name, " must have I_t's shape, (B, C, H, W)");
  RDDM_CHECK(to.device() == image.device(), op, ": ", name, " must be on I_t's device");
  const int64_t channels = to.size(1), height = to.size(2), width = to.size(3);
  const int64_t pixel_stride = width == 1 ? to.stride(2) : to.stride(3);
  RDDM_CHECK(height <= 1 || width <= 1 || to.stride(2) == width * to.stride(3), op, ": ", name,
             " must be channels of a contiguous or channels-last image");
  if (pixel_layout(image)->channels == 1) {
    return {channels, height * width, to.stride(0), to.stride(1), pixel_stride};
  }
  return {height * width, channels, to.stride(0), pixel_stride, to.stride(1)};
}

// Where an op writes its result for `image`, laid out as by torch.empty_like. An op that must know
// an element's logical index (`counted`: for drawn noise, or for its sample) knows it in contiguous
// and channels-last images. For another layout `tensor` is contiguous, and `finish` copies it.
struct Result {
  Tensor tensor;
  std::optional<Tensor> wanted;

  // Writes in place, over `image`.
  explicit Result(const Tensor& image) : tensor(image) {}

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
