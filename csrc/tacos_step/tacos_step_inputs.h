// What both launchers of tacos_step do before their loops.
#pragma once

#include <vector>

#include "check.h"
#include "common/tensors.h"
#include "tacos_step/tacos_step.h"

namespace rddm {

// The tensors of one call. The images are contiguous, so that a pixel's values are `pixels` apart;
// or channels-last for a launcher that takes up to `most_adjacent` channels in that layout.
struct TacosStepInputs {
  Tensor wanted, result;  // laid out as the caller gets it, and what the kernel writes
  Tensor x_s, x_0;
  std::optional<Tensor> x_end, layer_s, layer_to;
  TacosKind kind;
  double first, second;
  int64_t batch, channels, pixels;
  bool adjacent;  // whether the channels of a pixel are
  // Elements from one sample, channel and pixel of x_end to the next; 0 where it is broadcast. Of
  // contiguous images end_pixel is 0 or 1.
  int64_t end_sample = 0, end_channel = 0, end_pixel = 0;

  TacosStepInputs(const Tensor& x_s_, const Tensor& x_0_, const std::optional<Tensor>& x_end_,
                  const std::optional<Tensor>& layer_s_, const std::optional<Tensor>& layer_to_,
                  int64_t kind_, const std::vector<double>& numbers, int64_t most_adjacent = 1)
      : wanted(torch::stable::empty_like(x_s_)),
        result(in_taken_layout(wanted, most_adjacent)),
        x_s(in_layout_of(x_s_, result)),
        x_0(matching(x_0_, result, x_s_.scalar_type(), "tacos_step", "x_0")),
        kind(static_cast<TacosKind>(kind_)) {
    RDDM_CHECK(x_s.dim() == 4, "tacos_step: the images must be (B, C, H, W)");
    RDDM_CHECK(kind_ >= 0 && kind_ < kTacosKinds, "tacos_step: kind ", kind_,
               " is not one of 0 to ", kTacosKinds - 1);
    RDDM_CHECK(numbers.size() == 2, "tacos_step: a step has 2 numbers, not ", numbers.size());
    first = numbers[0];
    second = numbers[1];
    batch = x_s.size(0);
    channels = x_s.size(1);
    pixels = x_s.size(2) * x_s.size(3);
    adjacent = pixel_layout(result)->channels > 1;
    if (x_end_) set_end(*x_end_);
    layer_s = layer(layer_s_, "layer_s");
    layer_to = layer(layer_to_, "layer_to");
    RDDM_CHECK(kind == TacosKind::kSnow || layer_s.has_value() == layer_to.has_value(),
               "tacos_step: pass both layers or none");
  }

  // Elements from one sample's layer to the next.
  int64_t layer_stride(const std::optional<Tensor>& layer) const {
    return layer && layer->size(0) > 1 ? pixels : 0;
  }

  bool needs_grey() const {
    return kind == TacosKind::kGrey ||
           (kind == TacosKind::kSnow && ((layer_s && first != 1) || (layer_to && second != 1)));
  }

  Tensor finish() const {
    if (wanted.data_ptr() == result.data_ptr()) return wanted;
    Tensor finished = wanted;
    torch::stable::copy_(finished, result);
    return finished;
  }

 private:
  void set_end(const Tensor& given) {
    RDDM_CHECK(kind == TacosKind::kMix, "tacos_step: only kind 0 has an x_end");
    const bool whole =
        given.dim() == 4 && given.size(2) == x_s.size(2) && given.size(3) == x_s.size(3);
    const bool flat = given.dim() == 4 && given.size(2) == 1 && given.size(3) == 1;
    RDDM_CHECK((whole || flat) && (given.size(0) == 1 || given.size(0) == batch) &&
                   (given.size(1) == 1 || given.size(1) == channels) &&
                   given.scalar_type() == x_s.scalar_type() && given.device() == x_s.device(),
               "tacos_step: x_end must be (B or 1, C or 1) planes or numbers like the images");
    const bool kept = adjacent && pixel_layout(given);
    x_end = kept ? given : torch::stable::contiguous(given);
    const int64_t channels_between = pixel_layout(*x_end)->channels;  // 1 in contiguous images
    end_pixel = whole && pixels > 1 ? channels_between : 0;
    end_channel = given.size(1) == 1 ? 0 : (channels_between > 1 || !whole ? 1 : pixels);
    end_sample = given.size(0) == 1 ? 0 : given.size(1) * (whole ? pixels : 1);
  }

  static Tensor in_taken_layout(const Tensor& image, int64_t most_adjacent) {
    const auto layout = pixel_layout(image);
    return layout && layout->channels <= most_adjacent ? image : torch::stable::contiguous(image);
  }

  std::optional<Tensor> layer(const std::optional<Tensor>& given, const char* name) const {
    if (!given) return std::nullopt;
    const bool wide = x_s.scalar_type() == ScalarType::Double;
    RDDM_CHECK(given->dim() == 4 && (given->size(0) == 1 || given->size(0) == batch) &&
                   given->size(1) == 1 && given->size(2) == x_s.size(2) &&
                   given->size(3) == x_s.size(3) &&
                   given->scalar_type() == (wide ? ScalarType::Double : ScalarType::Float) &&
                   given->device() == x_s.device(),
               "tacos_step: ", name,
               " must be (B or 1, 1, H, W) in float32, or in float64 beside "
               "float64 images, on the images' device");
    return torch::stable::contiguous(*given);
  }
};

}  // namespace rddm
