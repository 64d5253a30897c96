// group_norm_silu on the CPU.
#include <torch/csrc/stable/library.h>

#include "check.h"
#include "group_norm_silu/group_norm_silu_walks.h"

namespace rddm {
namespace {

Tensor group_norm_silu_cpu(const Tensor& x, const std::optional<Tensor>& x_bias,
                           const Tensor& weight, const Tensor& bias, int64_t groups, double eps,
                           const std::optional<Tensor>& scale_shift,
                           const std::optional<Tensor>& residual) {
  RDDM_CHECK(x.dim() >= 2 && groups > 0 && x.size(1) % groups == 0,
             "group_norm_silu: the channels must divide into the groups");
  const auto is_row = [&](const Tensor& t, int64_t size) {
    return t.scalar_type() == ScalarType::Float && t.is_contiguous() && t.size(t.dim() - 1) == size;
  };
  RDDM_CHECK(
      weight.dim() == 1 && bias.dim() == 1 && is_row(weight, x.size(1)) && is_row(bias, x.size(1)),
      "group_norm_silu: weight and bias must be float32, one value a channel");
  RDDM_CHECK(!x_bias || (x_bias->dim() == 1 && is_row(*x_bias, x.size(1))),
             "group_norm_silu: x_bias must be float32, one value a channel");
  RDDM_CHECK(!scale_shift || (scale_shift->dim() == 2 && is_row(*scale_shift, 2 * x.size(1)) &&
                              (scale_shift->size(0) == 1 || scale_shift->size(0) == x.size(0))),
             "group_norm_silu: scale_shift must be float32, (1 or B, 2 C)");
  Result result(x, true);
  if (x.numel() == 0) return result.finish();
  const Tensor image = in_layout_of(x, result.tensor);
  std::optional<Tensor> rest;
  if (residual) {
    rest = matching(*residual, result.tensor, x.scalar_type(), "group_norm_silu", "residual");
  }
  const GroupNormInputs in{x, weight, bias, x_bias, scale_shift, groups, eps};
  const Cut cut(result.tensor, *pixel_layout(result.tensor));
  for_dtype<false>(x.scalar_type(), "group_norm_silu: no CPU kernel", [&]<class Storage>() {
    const auto statistics = statistics_of<Storage>(in, image, cut);
    activate_all<Storage>(affines(in, statistics), image, rest, cut, result.tensor);
  });
  return result.finish();
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("group_norm_silu", TORCH_BOX(&rddm::group_norm_silu_cpu));
}
