// Turns the values of a call into template arguments: the one place that lists what is compiled.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>
#include <utility>

#include "check.h"
#include "common/objective.h"

namespace rddm {

// call.operator()<O>() for every objective.
template <class Call>
void for_each_objective(Call&& call) {
  [&]<int... O>(std::integer_sequence<int, O...>) {
    (call.template operator()<Objective(O)>(), ...);
  }(std::make_integer_sequence<int, kObjectives>());
}

// Calls it for one objective.
template <class Call>
void for_objective(Objective objective, Call&& call) {
  for_each_objective([&]<Objective O>() {
    if (objective == O) call.template operator()<O>();
  });
}

template <class T>
constexpr torch::headeronly::ScalarType kDtype = torch::headeronly::CppTypeToScalarType<T>::value;

// call.operator()<Image, Output>() for every pair of dtypes that images and network outputs may
// have: both the same, or outputs in half precision beside float32 images.
template <class Call>
void for_each_pair(Call&& call) {
  using torch::headeronly::BFloat16;
  using torch::headeronly::Half;
  call.template operator()<float, float>();
  call.template operator()<float, BFloat16>();
  call.template operator()<float, Half>();
  call.template operator()<BFloat16, BFloat16>();
  call.template operator()<Half, Half>();
}

// Calls it for one pair; with `Wide` also for float64. The error begins with `otherwise`.
template <bool Wide, class Call>
void for_pair(torch::headeronly::ScalarType image, torch::headeronly::ScalarType output,
              const char* otherwise, Call&& call) {
  bool served = false;
  const auto try_pair = [&]<class Image, class Output>() {
    if (image != kDtype<Image> || output != kDtype<Output>) return;
    served = true;
    call.template operator()<Image, Output>();
  };
  for_each_pair(try_pair);
  if constexpr (Wide) try_pair.template operator()<double, double>();
  RDDM_CHECK(served, otherwise, " in ", torch::headeronly::toString(image), " beside outputs in ",
             torch::headeronly::toString(output));
}

// call.operator()<T>() for every dtype of an image that stands alone.
template <class Call>
void for_each_dtype(Call&& call) {
  call.template operator()<float>();
  call.template operator()<torch::headeronly::BFloat16>();
  call.template operator()<torch::headeronly::Half>();
}

// Calls it for one dtype; with `Wide` also for float64. The error begins with `otherwise`.
template <bool Wide, class Call>
void for_dtype(torch::headeronly::ScalarType dtype, const char* otherwise, Call&& call) {
  bool served = false;
  const auto try_one = [&]<class T>() {
    if (dtype != kDtype<T>) return;
    served = true;
    call.template operator()<T>();
  };
  for_each_dtype(try_one);
  if constexpr (Wide) try_one.template operator()<double>();
  RDDM_CHECK(served, otherwise, " for ", torch::headeronly::toString(dtype));
}

// The precision in which images of a storage dtype are computed.
template <class Storage>
using Computed = std::conditional_t<std::is_same_v<Storage, double>, double, float>;

}  // namespace rddm
