// Whether the tensors of one call overlap in memory so that an op that writes in place could read
// what it has written. rddm_fast/ops/overlap.py is the same for the other backends.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>

#include "check.h"
#include "common/tensors.h"

namespace rddm {

// The memory of a tensor: the dimensions with more than one element, by falling stride.
struct Memory {
  static constexpr int kMostDims = 8;
  uintptr_t begin = 0, end = 0;  // in bytes; equal if there are no elements
  int64_t item = 0;
  int dims = 0;
  std::array<int64_t, kMostDims> sizes{}, strides{};

  explicit Memory(const Tensor& x) {
    const auto all_sizes = x.sizes(), all_strides = x.strides();
    int64_t last = 0;
    for (size_t d = 0; d < all_sizes.size(); ++d) {
      const int64_t size = all_sizes[d], stride = all_strides[d];
      if (size == 0) {
        dims = 0;
        return;
      }
      last += (size - 1) * stride;
      if (size == 1) continue;
      RDDM_CHECK(dims < kMostDims,
                 "a tensor that is written in place, or read beside one, "
                 "has at most ",
                 kMostDims, " dimensions with more than one element");
      int at = dims++;
      for (; at > 0 && strides[at - 1] < stride; --at) {
        sizes[at] = sizes[at - 1];
        strides[at] = strides[at - 1];
      }
      sizes[at] = size;
      strides[at] = stride;
    }
    item = int64_t(x.element_size());
    begin = reinterpret_cast<uintptr_t>(x.const_data_ptr());
    end = begin + uintptr_t((last + 1) * item);
  }

  bool meets(const Memory& other) const { return begin < other.end && other.begin < end; }

  // Whether two elements may share memory: whether a stride is not beyond all that smaller ones
  // reach.
  bool meets_itself() const {
    int64_t reach = 0;
    for (int d = dims - 1; d >= 0; --d) {
      if (strides[d] <= reach) return true;
      reach += (sizes[d] - 1) * strides[d];
    }
    return false;
  }

  // Whether elements may lie `distance` elements apart. Strides that do not meet leave two
  // candidates in each dimension.
  bool has_distance(int64_t distance, int d = 0) const {
    if (d == dims) return distance == 0;
    const int64_t steps = distance / strides[d];
    for (const int64_t n : {steps - 1, steps, steps + 1}) {
      if (std::abs(n) < sizes[d] && has_distance(distance - n * strides[d], d + 1)) return true;
    }
    return false;
  }
};

// Whether every element of `a` is at the place of the same element of `b`.
inline bool are_one(const Tensor& a, const Tensor& b) {
  if (a.const_data_ptr() != b.const_data_ptr() || a.dim() != b.dim() ||
      a.scalar_type() != b.scalar_type()) {
    return false;
  }
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) return false;
  }
  return same_layout(a, b);
}

// Whether elements of `a`, which does not meet itself, and of `b` may share memory. Two views of
// one layout, such as channels of one image, are told apart exactly.
inline bool may_meet(const Memory& a, const Memory& b) {
  if (!a.meets(b)) return false;
  if (a.item != b.item || a.dims != b.dims || a.strides != b.strides) return true;
  const int64_t bytes = int64_t(b.begin - a.begin);
  if (bytes % a.item != 0) return true;
  Memory both = a;  // i in a and j in b: i - j is between -(sizes of b - 1) and sizes of a - 1
  for (int d = 0; d < a.dims; ++d) both.sizes[d] = std::max(a.sizes[d], b.sizes[d]);
  return both.meets_itself() || both.has_distance(bytes / a.item);
}

// An argument of an op that writes in place. Tensors that receive the same `values` may be one.
struct Argument {
  const char* name;
  const Tensor* tensor;  // null if absent
  int values = 0;

  Argument(const char* name_, const Tensor& x, int values_ = 0)
      : name(name_), tensor(&x), values(values_) {}
  Argument(const char* name_, const std::optional<Tensor>& x, int values_ = 0)
      : name(name_), tensor(x ? &*x : nullptr), values(values_) {}
};

// Refuses a call whose result would depend on the order in which elements are written. What an op
// reads may be what it writes, element for element: every element is read before it is written.
inline void check_overlap(const char* op, std::initializer_list<Argument> written,
                          std::initializer_list<Argument> read) {
  for (const Argument* w = written.begin(); w != written.end(); ++w) {
    if (!w->tensor) continue;
    const Memory to(*w->tensor);
    RDDM_CHECK(!to.meets_itself(), op, ": elements of ", w->name,
               " share memory, and it is written: pass a tensor that is not expanded");
    for (const Argument* other = written.begin(); other != w; ++other) {
      if (!other->tensor || !may_meet(to, Memory(*other->tensor))) continue;
      RDDM_CHECK(other->values == w->values && are_one(*w->tensor, *other->tensor), op, ": ",
                 other->name, " and ", w->name,
                 " share memory, and both are written: give each memory of its own");
    }
    for (const Argument& r : read) {
      if (!r.tensor || !may_meet(to, Memory(*r.tensor))) continue;
      RDDM_CHECK(are_one(*w->tensor, *r.tensor), op, ": ", r.name, " shares some of the memory of ",
                 w->name, ", which is written: pass ", r.name, ".clone()");
    }
  }
}

}  // namespace rddm
