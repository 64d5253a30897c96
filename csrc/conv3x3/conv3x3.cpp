// conv3x3 on the CPU: a 3x3 convolution of channels-last images in float32, by Winograd's minimal
// filtering or in AMX. How is packed with the weights: a tile of 4 or 2 is Winograd's, and a tile
// of 1, each output by itself, is AMX's.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "amx/bands.h"
#include "check.h"
#include "conv3x3/winograd_sets.h"
#include "vectors/convolution_tensors.h"

namespace rddm {
namespace {

using torch::headeronly::ScalarType;

constexpr int kAmxTile = 1;

struct Header {
  float tile, width, result_channels, channels;
};

int64_t packed_values(int tile, int width, int64_t result_channels, int64_t channels) {
  if (tile == kAmxTile) return kHeader + amx_steps()->packed_size(9, result_channels, channels);
  return kHeader + (tile + 2) * (tile + 2) * channels * width * divided(result_channels, width);
}

int64_t best_tile(int64_t channels) {
  return amx_steps() && channels <= kAmxChannels ? kAmxTile : 4;
}

// Weights (K, C, 3, 3) as they lie in memory, contiguous or channels-last. Turned, they are those
// of the gradient of the images: by half, with the channels exchanged.
PlainWeight plain_weight(const Tensor& weight, bool is_channels_last, bool turned) {
  const int64_t result_channels = weight.size(0), channels = weight.size(1);
  PlainWeight w = contiguous_weight(static_cast<const float*>(weight.const_data_ptr()),
                                    result_channels, channels, 9);
  if (is_channels_last) w.channel = 1, w.tap = channels;
  if (turned) {
    std::swap(w.result_channels, w.channels);
    std::swap(w.result_channel, w.channel);
    w.data += 8 * w.tap, w.tap = -w.tap;
  }
  return w;
}

bool is_channels_last(const Tensor& weight) {
  const int64_t channels = weight.size(1);
  return weight.stride(1) == 1 && weight.stride(3) == channels &&
         weight.stride(2) == 3 * channels && weight.stride(0) == 9 * channels;
}

Tensor pack_conv3x3_cpu(const Tensor& weight, int64_t tile, int64_t instruction_set, bool turned) {
  const auto& sets = winograd_sets();
  RDDM_CHECK(tile == kAmxTile || tile == 2 || tile == 4, "pack_conv3x3: tile must be 1, 2 or 4");
  RDDM_CHECK(tile != kAmxTile || amx_steps(), "pack_conv3x3: a tile of 1 needs AMX");
  RDDM_CHECK(instruction_set >= -1 && instruction_set < int64_t(sets.size()),
             "pack_conv3x3: this machine has no such instruction set");
  RDDM_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 &&
                 weight.numel() > 0 && weight.scalar_type() == ScalarType::Float,
             "pack_conv3x3: weight must be float32 of shape (K, C, 3, 3)");
  const WinogradSteps& steps = *(instruction_set < 0 ? sets.back() : sets[size_t(instruction_set)]);
  const bool as_it_is = is_channels_last(weight);
  const Tensor plain = as_it_is ? weight : torch::stable::contiguous(weight);
  const int64_t result_channels = weight.size(turned), channels = weight.size(!turned);
  const int width = tile == kAmxTile ? kAmxPanel : steps.width;
  Tensor packed = torch::stable::new_empty(
      weight, {packed_values(int(tile), width, result_channels, channels)});
  float* const to = static_cast<float*>(packed.mutable_data_ptr());
  std::fill_n(to, kHeader, 0.f);
  *reinterpret_cast<Header*>(to) = {float(tile), float(width), float(result_channels),
                                    float(channels)};
  const PlainWeight own = plain_weight(plain, as_it_is, turned);
  if (tile == kAmxTile) {
    pack_amx(*amx_steps(), own, to + kHeader);
  } else {
    // A thread for less than 4096 pairs of channels takes longer to start than it saves.
    const int64_t panels = divided(divided(result_channels, width), 2);
    const int64_t grain = divided(4096, 2 * width * channels);
    torch::stable::parallel_for(0, panels, grain, [&](int64_t first, int64_t last) {
      for (int64_t panel = first; panel < last; ++panel) {
        steps.pack(int(tile), own, panel, to + kHeader);
      }
    });
  }
  return packed;
}

// The steps whose vectors the weights are packed for, or null.
const WinogradSteps* steps_of(const Header& header) {
  const auto& sets = winograd_sets();
  const auto is_set = [&](const WinogradSteps* set) { return float(set->width) == header.width; };
  const auto set = std::find_if(sets.begin(), sets.end(), is_set);
  return set == sets.end() || (header.tile != 2 && header.tile != 4) ? nullptr : *set;
}

// Whether the result is so large that it leaves the cache before it is read.
bool leaves_cache(const ConvolutionData& data, const Tensor& x) {
  return x.size(0) * x.size(2) * x.size(3) * data.result_channels > (1 << 21);
}

void convolve_by_tiles(const ConvolutionData& data, const Tensor& x, const Header& header) {
  const WinogradSteps& steps = *steps_of(header);
  Winograd w{data};
  w.tile = int(header.tile);
  w.batch = x.size(0), w.height = x.size(2), w.width = x.size(3);
  w.tile_rows = divided(w.height, w.tile), w.tile_columns = divided(w.width, w.tile);
  w.past_cache = leaves_cache(data, x) && w.result_channels % steps.width == 0;
  run_winograd(w, steps);
}

void convolve_by_amx(const ConvolutionData& data, const Tensor& x) {
  AmxConvolution conv{data};
  conv.batch = x.size(0), conv.height = x.size(2), conv.width = x.size(3);
  conv.bands = amx_bands(conv, *amx_steps());
  conv.past_cache = leaves_cache(data, x) && data.result_channels % kAmxPanel == 0;
  run_amx(conv, *amx_steps());
}

Tensor conv3x3_cpu(const Tensor& x, const std::optional<Tensor>& x_2, const Tensor& weight,
                   const std::optional<Tensor>& packed, const std::optional<Tensor>& bias,
                   bool upsample) {
  RDDM_CHECK(!upsample, "conv3x3: upsample is for a GPU");
  ConvolutionData data;
  const ConvolutionTensors tensors("conv3x3", x, x_2, weight, bias, data);
  const Tensor weights =
      packed ? *packed : pack_conv3x3_cpu(weight, best_tile(data.channels()), -1, false);
  RDDM_CHECK(is_packed(weights) && weights.numel() >= kHeader,
             "conv3x3: packed must come from pack_conv3x3");
  const float* const values = static_cast<const float*>(weights.const_data_ptr());
  const Header header = *reinterpret_cast<const Header*>(values);
  const bool by_amx = amx_steps() && header.tile == kAmxTile && header.width == kAmxPanel;
  RDDM_CHECK((by_amx || steps_of(header)) &&
                 header.result_channels == float(data.result_channels) &&
                 header.channels == float(data.channels()) &&
                 weights.numel() == packed_values(int(header.tile), int(header.width),
                                                  data.result_channels, data.channels()),
             "conv3x3: packed must come from pack_conv3x3, of this weight and on this machine");
  if (tensors.result.numel() == 0) return tensors.result;
  data.packed = values + kHeader;
  by_amx ? convolve_by_amx(data, x) : convolve_by_tiles(data, x, header);
  return tensors.result;
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("conv3x3", TORCH_BOX(&rddm::conv3x3_cpu));
  m.impl("pack_conv3x3", TORCH_BOX(&rddm::pack_conv3x3_cpu));
}
