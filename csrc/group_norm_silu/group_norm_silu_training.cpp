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
  float* to = data_to<float>(statistics);
  for (const Moments& m : moments) {
    *to++ = float(m.mean);
    *to++ = float(1.0 / std::sqrt(m.squares / m.count + eps));
  }
  return {y, statistics};
}

// The backward pass. Its steps work on a piece or a sample.
class Backward {
 public:
  std::vector<float> by_weight, by_bias;  // of each sample

  Backward(const Tensor& grads, const Tensor& images, const Tensor& weight, const Tensor& bias,
           int64_t groups, const std::optional<Tensor>& scale_shift, const Tensor& statistics,
           float* to, float* table)
      : cut_(images, PixelLayout{images.size(1), images.size(2) * images.size(3)}),
        channels_(images.size(1)),
        groups_(groups),
        x_(data_of<float>(images)),
        grad_(data_of<float>(grads)),
        weight_(data_of<float>(weight)),
        bias_(data_of<float>(bias)),
        to_(to),
        table_(table) {
    const int64_t all = cut_.samples * channels_, of_group = channels_ / groups;
    by_weight.resize(all), by_bias.resize(all), slopes_.resize(all), shifts_.resize(all);
    parts_.resize(2 * all * cut_.pieces);
    const float *const given = data_of<float>(scale_shift), *const of_groups =
                                                                data_of<float>(statistics);
    for (int64_t n = 0; n < cut_.samples; ++n) {
      const float* const row = given ? given + n * 2 * channels_ : nullptr;
      for (int64_t c = 0; c < channels_; ++c) {
        const float* const own = of_groups + 2 * (n * groups + c / of_group);
        const float scale = row ? row[c] : 0, shift = row ? row[channels_ + c] : 0;
        const Affine a = normalised(own[0], own[1], weight_[c], bias_[c], scale, shift);
        factors_.push_back(a.factor), terms_.push_back(a.term);
        means_.push_back(own[0]), rstd_.push_back(own[1]), scales_.push_back(scale + 1);
      }
    }
  }

  void run() {
    const int64_t pieces = cut_.samples * cut_.pieces;
    if (cut_.samples >= torch::stable::get_num_threads()) {
      // Whole samples: most are still in the second-level cache for the second walk.
      return torch::stable::parallel_for(0, cut_.samples, 1, [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) {
          for (int64_t i = n * cut_.pieces; i < (n + 1) * cut_.pieces; ++i) sum(i);
          turn(n);
          for (int64_t i = n * cut_.pieces; i < (n + 1) * cut_.pieces; ++i) apply(i);
        }
      });
    }
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) sum(i);
    });
    for (int64_t n = 0; n < cut_.samples; ++n) turn(n);
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) apply(i);
    });
  }

 private:
  int64_t pixels_of(int64_t piece) const {
    return std::min(cut_.piece, cut_.pixels - piece % cut_.pieces * cut_.piece);
  }
  int64_t place_of(int64_t piece) const {
    const int64_t sample = piece / cut_.pieces, begin = piece % cut_.pieces * cut_.piece;
    return (sample * cut_.pixels + begin) * channels_;
  }
  ChannelRows rows_of(int64_t piece) const {
    const int64_t first = piece / cut_.pieces * channels_;
    return {&factors_[first], &terms_[first], &means_[first]};
  }

  void sum(int64_t piece) {
    float* const sums = parts_.data() + piece * 2 * channels_;
    const int64_t at = place_of(piece);
    sum_gradients(x_ + at, grad_ + at, rows_of(piece), pixels_of(piece), channels_, sums,
                  sums + channels_);
  }

  // From a sample's sums to the gradients of its parameters and its group's statistics.
  void turn(int64_t n) {
    std::vector<double> sums(2 * channels_);
    for (int64_t i = n * cut_.pieces; i < (n + 1) * cut_.pieces; ++i) {
      for (int64_t c = 0; c < 2 * channels_; ++c) sums[c] += parts_[i * 2 * channels_ + c];
    }
    const int64_t of_group = channels_ / groups_;
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t begin = g * of_group, end = begin + of_group;
      double mean = 0, product = 0;  // of the gradient of the normalised values
      for (int64_t c = begin; c < end; ++c) {
        const int64_t at = n * channels_ + c;
        const double by_normalised = sums[channels_ + c] * rstd_[at], scale = scales_[at];
        const double w = weight_[c];
        mean += w * scale * sums[c], product += w * scale * by_normalised;
        by_weight[at] = float(scale * by_normalised), by_bias[at] = float(scale * sums[c]);
        if (table_) {
          float* const row = table_ + n * 2 * channels_;
          row[c] = float(w * by_normalised + bias_[c] * sums[c]);
          row[channels_ + c] = float(sums[c]);
        }
      }
      const double count = double(of_group * cut_.pixels);
      for (int64_t at = n * channels_ + begin; at < n * channels_ + end; ++at) {
        const double rstd = rstd_[at];
        slopes_[at] = float(rstd * rstd * product / count);
        shifts_[at] = float(rstd * mean / count);
      }
    }
  }

  void apply(int64_t piece) {
    const int64_t at = place_of(piece), row = piece / cut_.pieces * channels_;
    apply_gradients(x_ + at, grad_ + at, rows_of(piece), &slopes_[row], &shifts_[row],
                    pixels_of(piece), channels_, to_ + at);
  }

  Cut cut_;
  int64_t channels_, groups_;
  const float *x_, *grad_, *weight_, *bias_;
  float *to_, *table_;
  std::vector<float> factors_, terms_, means_, rstd_, scales_;  // of all samples' channels
  std::vector<float> slopes_, shifts_;                          // of all samples' channels
  std::vector<float> parts_;  // the sums and the products of each piece
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
  const Tensor images = torch::stable::contiguous(x, kChannelsLast);
  const Tensor grads = torch::stable::contiguous(grad, kChannelsLast);
  const int64_t channels = x.size(1);
  Tensor x_grad = torch::stable::empty_like(images);
  Tensor weight_grad = torch::stable::new_empty(x, {channels});
  Tensor bias_grad = torch::stable::new_empty(x, {channels});
  Tensor table_grad =
      torch::stable::new_empty(x, {scale_shift ? x.size(0) : 0, scale_shift ? 2 * channels : 0});
  torch::stable::zero_(weight_grad);
  torch::stable::zero_(bias_grad);
  if (x.numel() == 0) {
    return {x_grad, weight_grad, bias_grad, torch::stable::zero_(table_grad)};
  }
  Backward backward(grads, images, weight, bias, groups, scale_shift, statistics,
                    data_to<float>(x_grad), scale_shift ? data_to<float>(table_grad) : nullptr);
  backward.run();
  float *const by_weight = data_to<float>(weight_grad), *const by_bias = data_to<float>(bias_grad);
  for (int64_t i = 0; i < x.size(0) * channels; ++i) {
    by_weight[i % channels] += backward.by_weight[i];
    by_bias[i % channels] += backward.by_bias[i];
  }
  return {x_grad, weight_grad, bias_grad, table_grad};
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("group_norm_silu_training", TORCH_BOX(&rddm::group_norm_silu_training_cpu));
  m.impl("group_norm_silu_backward", TORCH_BOX(&rddm::group_norm_silu_backward_cpu));
}
