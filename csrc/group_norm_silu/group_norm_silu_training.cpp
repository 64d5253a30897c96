// group_norm_silu for training, on the CPU in float32: forwards with the statistics, and backwards.
//
// With a = factor x + term the value before SiLU, the backward pass sums silu'(a) grad, and that
// times x - mean, over the pixels of each channel. From these two sums follow the gradients of all
// parameters, and those of the group's mean and variance. A second walk computes silu'(a) grad
// again, and the gradient of x.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "check.h"
#include "group_norm_silu/group_norm_silu_walks.h"

namespace rddm {
namespace {

constexpr auto kChannelsLast = torch::headeronly::MemoryFormat::ChannelsLast;

RDDM_INLINE float silu_gradient(float a) {
  const float s = 1.0f / (1.0f + exponential(-a));
  return s + a * s * (1.0f - s);
}

// Of one channel of a sample.
struct ChannelRows {
  const float *factors, *terms, *means;
};

// sums[c] of silu'(a) grad over n pixels, and products[c] of that times x - mean.
RDDM_CLONES void sum_gradients(const float* __restrict x, const float* __restrict grad,
                               ChannelRows rows, int64_t n, int64_t channels,
                               float* __restrict sums, float* __restrict products) {
  std::fill_n(sums, channels, 0.f);
  std::fill_n(products, channels, 0.f);
  for (int64_t p = 0; p < n; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t i = p * channels + c;
      const float own = grad[i] * silu_gradient(rows.factors[c] * x[i] + rows.terms[c]);
      sums[c] += own;
      products[c] += own * (x[i] - rows.means[c]);
    }
  }
}

// The gradient of x: factors[c] silu'(a) grad - slopes[c] (x - mean) - shifts[c].
RDDM_CLONES void apply_gradients(const float* __restrict x, const float* __restrict grad,
                                 ChannelRows rows, const float* __restrict slopes,
                                 const float* __restrict shifts, int64_t n, int64_t channels,
                                 float* __restrict to) {
  for (int64_t p = 0; p < n; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t i = p * channels + c;
      const float own = grad[i] * silu_gradient(rows.factors[c] * x[i] + rows.terms[c]);
      to[i] = rows.factors[c] * own - slopes[c] * (x[i] - rows.means[c]) - shifts[c];
    }
  }
}

const float* values_of(const Tensor& x) { return static_cast<const float*>(x.const_data_ptr()); }
float* values_to(Tensor& x) { return static_cast<float*>(x.mutable_data_ptr()); }

void check_arguments(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias,
                     int64_t groups, const std::optional<Tensor>& scale_shift) {
  RDDM_CHECK(
      x.dim() == 4 && x.scalar_type() == ScalarType::Float && groups > 0 && x.size(1) % groups == 0,
      op, ": x must be float32 images whose channels divide into the groups");
  const auto is_row = [&](const Tensor& t, int64_t dim, int64_t size) {
    return t.dim() == dim && t.scalar_type() == ScalarType::Float && t.is_contiguous() &&
           t.size(dim - 1) == size;
  };
  RDDM_CHECK(is_row(weight, 1, x.size(1)) && is_row(bias, 1, x.size(1)), op,
             ": weight and bias must be float32, one value a channel");
  RDDM_CHECK(
      !scale_shift || (is_row(*scale_shift, 2, 2 * x.size(1)) && scale_shift->size(0) == x.size(0)),
      op, ": scale_shift must be float32, (B, 2 C)");
}

std::tuple<Tensor, Tensor> group_norm_silu_training_cpu(const Tensor& x, const Tensor& weight,
                                                        const Tensor& bias, int64_t groups,
                                                        double eps,
                                                        const std::optional<Tensor>& scale_shift) {
  check_arguments("group_norm_silu_training", x, weight, bias, groups, scale_shift);
  const Tensor image = torch::stable::contiguous(x, kChannelsLast);
  Tensor y = torch::stable::empty_like(image);
  Tensor statistics = torch::stable::new_empty(x, {x.size(0), groups, 2});
  if (x.numel() == 0) return {y, torch::stable::zero_(statistics)};
  const std::optional<Tensor> none;
  const GroupNormInputs in{x, weight, bias, none, scale_shift, groups, eps};
  const Cut cut(image, PixelLayout{x.size(1), x.size(2) * x.size(3)});
  const auto moments = statistics_of<float>(in, image, cut);
  activate_all<float>(affines(in, moments), image, none, cut, y);
  float* to = values_to(statistics);
  for (const Moments& m : moments) {
    *to++ = float(m.mean);
    *to++ = float(1.0 / std::sqrt(m.squares / m.count + eps));
  }
  return {y, statistics};
}

// The factors, terms and means of all samples' channels, and what the walks and the parameters need
// beside them.
struct Channels {
  std::vector<float> factors, terms, means, rstd, scales;

  Channels(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t groups,
           const std::optional<Tensor>& scale_shift, const Tensor& statistics) {
    const int64_t channels = x.size(1), of_group = channels / groups;
    const float* const table = data_of<float>(scale_shift);
    for (int64_t n = 0; n < x.size(0); ++n) {
      const float* const row = table ? table + n * 2 * channels : nullptr;
      for (int64_t c = 0; c < channels; ++c) {
        const float* const own = values_of(statistics) + 2 * (n * groups + c / of_group);
        const float scale = row ? row[c] : 0, shift = row ? row[channels + c] : 0;
        const Affine a =
            normalised(own[0], own[1], values_of(weight)[c], values_of(bias)[c], scale, shift);
        factors.push_back(a.factor), terms.push_back(a.term);
        means.push_back(own[0]), rstd.push_back(own[1]), scales.push_back(scale + 1);
      }
    }
  }

  ChannelRows rows(int64_t first) const { return {&factors[first], &terms[first], &means[first]}; }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> group_norm_silu_backward_cpu(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t groups,
    const std::optional<Tensor>& scale_shift, const Tensor& statistics) {
  check_arguments("group_norm_silu_backward", x, weight, bias, groups, scale_shift);
  RDDM_CHECK(grad.dim() == 4 && grad.numel() == x.numel() && grad.size(1) == x.size(1) &&
                 grad.scalar_type() == ScalarType::Float &&
                 statistics.numel() == 2 * x.size(0) * groups && statistics.is_contiguous() &&
                 statistics.scalar_type() == ScalarType::Float,
             "group_norm_silu_backward: grad must have x's shape, and statistics be those of "
             "group_norm_silu_training");
  const Tensor image = torch::stable::contiguous(x, kChannelsLast);
  const Tensor grads = torch::stable::contiguous(grad, kChannelsLast);
  const int64_t samples = x.size(0), channels = x.size(1), of_group = channels / groups;
  Tensor x_grad = torch::stable::empty_like(image);
  Tensor weight_grad = torch::stable::new_empty(x, {channels});
  Tensor bias_grad = torch::stable::new_empty(x, {channels});
  Tensor table_grad =
      torch::stable::new_empty(x, {scale_shift ? samples : 0, scale_shift ? 2 * channels : 0});
  torch::stable::zero_(weight_grad);
  torch::stable::zero_(bias_grad);
  torch::stable::zero_(table_grad);
  if (x.numel() == 0) return {x_grad, weight_grad, bias_grad, table_grad};
  const Cut cut(image, PixelLayout{channels, x.size(2) * x.size(3)});
  const Channels rows(x, weight, bias, groups, scale_shift, statistics);
  const auto of_piece = [&](int64_t i, auto step) {
    const int64_t begin = i % cut.pieces * cut.piece, sample = i / cut.pieces;
    const int64_t at = (sample * cut.pixels + begin) * channels;
    step(values_of(image) + at, values_of(grads) + at, sample,
         std::min(cut.piece, cut.pixels - begin), at);
  };
  std::vector<float> parts(samples * cut.pieces * 2 * channels);
  torch::stable::parallel_for(0, samples * cut.pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      of_piece(i, [&](const float* own, const float* by, int64_t sample, int64_t n, int64_t) {
        float* const sums = parts.data() + i * 2 * channels;
        sum_gradients(own, by, rows.rows(sample * channels), n, channels, sums, sums + channels);
      });
    }
  });
  std::vector<float> slopes(samples * channels), shifts(samples * channels);
  std::vector<double> sums(2 * channels);
  float *const by_weight = values_to(weight_grad), *const by_bias = values_to(bias_grad);
  for (int64_t n = 0; n < samples; ++n) {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t i = n * cut.pieces; i < (n + 1) * cut.pieces; ++i) {
      for (int64_t c = 0; c < 2 * channels; ++c) sums[c] += parts[i * 2 * channels + c];
    }
    for (int64_t g = 0; g < groups; ++g) {
      double mean = 0, product = 0;  // of the gradient of the normalised values
      for (int64_t c = g * of_group; c < (g + 1) * of_group; ++c) {
        const int64_t at = n * channels + c;
        const double normalised = sums[channels + c] * rows.rstd[at], scale = rows.scales[at];
        const double w = values_of(weight)[c];
        mean += w * scale * sums[c];
        product += w * scale * normalised;
        by_weight[c] += float(scale * normalised);
        by_bias[c] += float(scale * sums[c]);
        if (scale_shift) {
          float* const row = values_to(table_grad) + n * 2 * channels;
          row[c] = float(w * normalised + values_of(bias)[c] * sums[c]);
          row[channels + c] = float(sums[c]);
        }
      }
      const double count = double(of_group * cut.pixels);
      for (int64_t at = n * channels + g * of_group; at < n * channels + (g + 1) * of_group; ++at) {
        const double rstd = rows.rstd[at];
        slopes[at] = float(rstd * rstd * product / count), shifts[at] = float(rstd * mean / count);
      }
    }
  }
  torch::stable::parallel_for(0, samples * cut.pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      of_piece(i, [&](const float* own, const float* by, int64_t sample, int64_t n, int64_t at) {
        const int64_t row = sample * channels;
        apply_gradients(own, by, rows.rows(row), &slopes[row], &shifts[row], n, channels,
                        values_to(x_grad) + at);
      });
    }
  });
  return {x_grad, weight_grad, bias_grad, table_grad};
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("group_norm_silu_training", TORCH_BOX(&rddm::group_norm_silu_training_cpu));
  m.impl("group_norm_silu_backward", TORCH_BOX(&rddm::group_norm_silu_backward_cpu));
}
