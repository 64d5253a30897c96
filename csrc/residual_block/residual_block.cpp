// residual_block on the CPU: a whole residual block of a U-Net in AMX, in three walks.
//
// The first convolves the images, and gathers the statistics of its results while they are at hand.
// The second normalises and activates those as it takes them apart into digits for the second
// convolution. The third normalises and activates its results, and adds the 1x1 convolution of the
// images, or the images themselves. So the norms read and write no images of their own.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "amx/bands.h"
#include "check.h"
#include "group_norm_silu/group_norm_silu.h"
#include "vectors/convolution_tensors.h"

namespace rddm {
namespace {

using torch::headeronly::ScalarType;

constexpr float kKind = -3;  // of the header; those of convolutions begin with a tile

struct Header {
  float kind, result_channels, channels, has_residual;
};

// Where the weights of the three convolutions lie in the packed tensor.
struct Sizes {
  int64_t first, second, residual;

  Sizes(const AmxSteps& steps, int64_t result_channels, int64_t channels, bool has_residual)
      : first(steps.packed_size(9, result_channels, channels)),
        second(steps.packed_size(9, result_channels, result_channels)),
        residual(has_residual ? steps.packed_size(1, result_channels, channels) : 0) {}
  int64_t all() const { return kHeader + first + second + residual; }
};

struct Norm {
  const float *weight, *bias;
  const float* scale_shift;    // or null
  int64_t scale_shift_stride;  // between images
};

// A channel's results in an image: their statistics, the least and the greatest.
struct ChannelResults {
  Moments moments;
  float least = std::numeric_limits<float>::infinity();
  float most = -std::numeric_limits<float>::infinity();
};

// The factors and terms that a norm gives every image's channels, from the statistics of the
// convolution before it, and the largest magnitude of what they make.
class Activation {
 public:
  Activation(const AmxConvolution& conv, const Norm& norm, int64_t groups, double eps)
      : channels_(conv.result_channels),
        padded_(divided(channels_, kAmxBlock) * kAmxBlock),
        factors_(size_t(conv.batch * padded_), 0.f),
        terms_(factors_),
        largest_(size_t(conv.batch), 0.f) {
    const int64_t of_group = channels_ / groups;
    std::vector<ChannelResults> results(static_cast<size_t>(channels_));
    for (int64_t image = 0; image < conv.batch; ++image) {
      for (int64_t c = 0; c < channels_; ++c) results[size_t(c)] = results_of(conv, image, c);
      const float* const row =
          norm.scale_shift ? norm.scale_shift + image * norm.scale_shift_stride : nullptr;
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t first = group * of_group;
        Moments all;
        for (int64_t c = first; c < first + of_group; ++c) all.join(results[size_t(c)].moments);
        const float rstd = float(1.0 / std::sqrt(all.squares / all.count + eps));
        for (int64_t c = first; c < first + of_group; ++c) {
          const Affine a = normalised(float(all.mean), rstd, norm.weight[c], norm.bias[c],
                                      row ? row[c] : 0, row ? row[channels_ + c] : 0);
          factors_[size_t(image * padded_ + c)] = a.factor;
          terms_[size_t(image * padded_ + c)] = a.term;
          widen(largest_[size_t(image)], a, results[size_t(c)]);
        }
      }
    }
  }

  AmxActivation of(int64_t image = 0) const {
    return {factors_.data() + image * padded_, terms_.data() + image * padded_};
  }
  const float* largest() const { return largest_.data(); }

 private:
  static ChannelResults results_of(const AmxConvolution& conv, int64_t image, int64_t c) {
    const int64_t panels = divided(conv.result_channels, kAmxPanel), i = c % kAmxPanel;
    ChannelResults all;
    for (int64_t band = 0; band < conv.bands; ++band) {
      const AmxStatistics& s =
          conv.statistics[(image * conv.bands + band) * panels + c / kAmxPanel];
      const int64_t rows = conv.first_row(band + 1) - conv.first_row(band);
      all.moments.join({double(rows * conv.width), s.mean[i], s.squares[i]});
      all.least = std::min(all.least, s.least[i]), all.most = std::max(all.most, s.most[i]);
    }
    return all;
  }

  // SiLU is between -0.2785 and the positive part of its argument, and grows with that.
  static void widen(float& largest, const Affine& a, const ChannelResults& results) {
    const float one = a.factor * results.least + a.term;
    const float other = a.factor * results.most + a.term;
    const float own = std::max(silu(std::max({one, other, 0.f})), 0.2785f);
    const bool is_finite = std::isfinite(one) && std::isfinite(other) && std::isfinite(largest);
    largest = is_finite ? std::max(largest, own) : std::numeric_limits<float>::quiet_NaN();
  }

  int64_t channels_, padded_;
  std::vector<float> factors_, terms_, largest_;
};

std::vector<AmxStatistics> convolve(AmxConvolution& conv, const AmxSteps& steps) {
  conv.bands = amx_bands(conv, steps);
  std::vector<AmxStatistics> statistics(
      size_t(conv.batch * conv.bands * divided(conv.result_channels, kAmxPanel)));
  conv.statistics = statistics.data();
  run_amx(conv, steps);
  return statistics;
}

void add_images(const AmxConvolution& conv, const AmxSteps& steps, const Activation& activation,
                const float* x) {
  const int64_t channels = conv.result_channels, rows = conv.batch * conv.height;
  const int64_t grain = std::max<int64_t>(1, (1 << 15) / (conv.width * channels));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * conv.width * channels;
      steps.activate_and_add(activation.of(row / conv.height), x + at, conv.width, channels,
                             conv.result + at);
    }
  });
}

const float* row_of(const Tensor& row, int64_t size, const char* name) {
  RDDM_CHECK(is_packed(row) && row.size(0) == size, "residual_block: ", name,
             " must be float32, one value a channel");
  return static_cast<const float*>(row.const_data_ptr());
}

const float* row_of(const std::optional<Tensor>& row, int64_t size, const char* name) {
  return row ? row_of(*row, size, name) : nullptr;
}

void pack_one(const AmxSteps& steps, const Tensor& weight, int64_t taps, float* to) {
  RDDM_CHECK(weight.dim() == 4 && weight.size(2) * weight.size(3) == taps &&
                 weight.scalar_type() == ScalarType::Float,
             "pack_residual_block: weights must be float32 of shapes (K, C, 3, 3), (K, K, 3, "
             "3) and (K, C, 1, 1)");
  const Tensor plain = torch::stable::contiguous(weight);
  const float* const data = static_cast<const float*>(plain.const_data_ptr());
  pack_amx(steps, contiguous_weight(data, weight.size(0), weight.size(1), taps), to);
}

Tensor pack_residual_block_cpu(const Tensor& weight_1, const Tensor& weight_2,
                               const std::optional<Tensor>& res_weight) {
  const AmxSteps* const steps = amx_steps();
  RDDM_CHECK(steps, "pack_residual_block: this machine has no AMX");
  const int64_t result_channels = weight_1.size(0), channels = weight_1.size(1);
  RDDM_CHECK(weight_2.size(0) == result_channels && weight_2.size(1) == result_channels &&
                 (!res_weight ||
                  (res_weight->size(0) == result_channels && res_weight->size(1) == channels)),
             "pack_residual_block: the weights' channels do not fit together");
  const Sizes sizes(*steps, result_channels, channels, res_weight.has_value());
  Tensor packed = torch::stable::new_empty(weight_1, {sizes.all()});
  float* to = static_cast<float*>(packed.mutable_data_ptr());
  std::fill_n(to, kHeader, 0.f);
  *reinterpret_cast<Header*>(to) = {kKind, float(result_channels), float(channels),
                                    float(res_weight.has_value())};
  to += kHeader;
  pack_one(*steps, weight_1, 9, to);
  pack_one(*steps, weight_2, 9, to + sizes.first);
  if (res_weight) pack_one(*steps, *res_weight, 1, to + sizes.first + sizes.second);
  return packed;
}

Tensor residual_block_cpu(const Tensor& x, const std::optional<Tensor>& x_2, const Tensor& weight_1,
                          const Tensor& weight_2, const std::optional<Tensor>& res_weight,
                          const std::optional<Tensor>& packed, const std::optional<Tensor>& bias_1,
                          const std::optional<Tensor>& bias_2,
                          const std::optional<Tensor>& res_bias, const Tensor& norm_1_weight,
                          const Tensor& norm_1_bias, const Tensor& norm_2_weight,
                          const Tensor& norm_2_bias, int64_t groups, double eps,
                          const std::optional<Tensor>& scale_shift) {
  const AmxSteps* const steps = amx_steps();
  RDDM_CHECK(steps, "residual_block: this machine has no AMX");
  AmxConvolution first;
  const ConvolutionTensors between("residual_block", x, x_2, weight_1, bias_1, first);
  const int64_t result_channels = first.result_channels, channels = first.channels();
  RDDM_CHECK(groups > 0 && result_channels % groups == 0,
             "residual_block: the channels must divide into the groups");
  RDDM_CHECK(res_weight || (!x_2 && channels == result_channels),
             "residual_block: without res_weight the images must have the result's channels");
  const Tensor weights = packed ? *packed : pack_residual_block_cpu(weight_1, weight_2, res_weight);
  const Sizes sizes(*steps, result_channels, channels, res_weight.has_value());
  RDDM_CHECK(is_packed(weights) && weights.numel() == sizes.all(),
             "residual_block: packed must come from pack_residual_block, of these weights");
  const float* const data = static_cast<const float*>(weights.const_data_ptr());
  const Header header = *reinterpret_cast<const Header*>(data);
  RDDM_CHECK(header.kind == kKind && header.result_channels == float(result_channels) &&
                 header.channels == float(channels) &&
                 header.has_residual == float(res_weight.has_value()),
             "residual_block: packed must come from pack_residual_block, of these weights");
  Norm norm_1{row_of(norm_1_weight, result_channels, "norm_1_weight"),
              row_of(norm_1_bias, result_channels, "norm_1_bias"), nullptr, 0};
  const Norm norm_2{row_of(norm_2_weight, result_channels, "norm_2_weight"),
                    row_of(norm_2_bias, result_channels, "norm_2_bias"), nullptr, 0};
  if (scale_shift) {
    RDDM_CHECK(scale_shift->dim() == 2 && scale_shift->is_contiguous() &&
                   scale_shift->scalar_type() == ScalarType::Float &&
                   scale_shift->size(1) == 2 * result_channels &&
                   (scale_shift->size(0) == 1 || scale_shift->size(0) == x.size(0)),
               "residual_block: scale_shift must be float32, (1 or B, 2 K)");
    norm_1.scale_shift = static_cast<const float*>(scale_shift->const_data_ptr());
    norm_1.scale_shift_stride = scale_shift->size(0) > 1 ? 2 * result_channels : 0;
  }
  Tensor result = torch::stable::empty_like(between.result);
  if (result.numel() == 0) return result;

  first.batch = x.size(0), first.height = x.size(2), first.width = x.size(3);
  AmxConvolution second = first, third = first;  // of the same images' sizes
  first.packed = data + kHeader;
  const auto statistics_1 = convolve(first, *steps);
  const Activation activation_1(first, norm_1, groups, eps);

  second.sources[0] = first.result, second.sources[1] = nullptr;
  second.source_channels[0] = result_channels, second.source_channels[1] = 0;
  second.packed = first.packed + sizes.first;
  second.bias = row_of(bias_2, result_channels, "bias_2");
  second.result = static_cast<float*>(result.mutable_data_ptr());
  second.before = activation_1.of(), second.largest = activation_1.largest();
  const auto statistics_2 = convolve(second, *steps);
  const Activation activation_2(second, norm_2, groups, eps);

  if (!res_weight) {
    add_images(second, *steps, activation_2, first.sources[0]);
    return result;
  }
  third.taps = 1;
  third.packed = second.packed + sizes.second;
  third.bias = row_of(res_bias, result_channels, "res_bias");
  third.result = second.result;
  third.added = activation_2.of();
  third.bands = amx_bands(third, *steps);
  run_amx(third, *steps);
  return result;
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("residual_block", TORCH_BOX(&rddm::residual_block_cpu));
  m.impl("pack_residual_block", TORCH_BOX(&rddm::pack_residual_block_cpu));
}
