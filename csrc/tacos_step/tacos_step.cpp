// tacos_step on the CPU: by tacos_planes.h, or in tiles of a sample's pixels with all channels.
#include "tacos_step/tacos_step.h"

#include <torch/csrc/stable/library.h>

#include "common/cpu_results.h"
#include "common/dispatch.h"
#include "tacos_step/tacos_planes.h"
#include "tacos_step/tacos_step_inputs.h"

namespace rddm {
namespace {

template <class T>
RDDM_CLONES void mix(const T* __restrict x_s, const T* __restrict x_0, const T* __restrict far,
                     const T* __restrict weight, T k_0, T k_end, T* __restrict result, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    result[i] = mixed_step(x_s[i], x_0[i], far[i], weight[i], k_0, k_end);
  }
}

// The same for pixels whose three channels are adjacent, without x_end.
template <class T>
RDDM_CLONES void mix_rgb(const T* __restrict x_s, const T* __restrict x_0, const T* __restrict from,
                         const T* __restrict to, T k_0, T* __restrict result, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T weight = to[i] - from[i];
#pragma GCC unroll 3
    for (int64_t k = 3 * i; k < 3 * i + 3; ++k) {
      result[k] = mixed_step(x_s[k], x_0[k], T(0), weight, k_0, T(0));
    }
  }
}

template <class T>
RDDM_CLONES void snow(SnowLevel<T> from, SnowLevel<T> to, const T* __restrict x_s,
                      const T* __restrict x_0, const T* __restrict grey,
                      const T* __restrict layer_s, const T* __restrict layer_to,
                      T* __restrict result, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    result[i] = snow_step(from, to, x_s[i], x_0[i], grey[i], layer_s[i], layer_to[i]);
  }
}

template <class T>
RDDM_CLONES void subtract(const T* __restrict from, const T* __restrict other, T* __restrict result,
                          int64_t n) {
  for (int64_t i = 0; i < n; ++i) result[i] = from[i] - other[i];
}

template <class T>
RDDM_CLONES void add(T weight, const T* __restrict x, T* __restrict sum, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += weight * x[i];
}

// The same for adjacent channels, in the same order. C is their number, or 0 for any.
template <int C, class T>
RDDM_CLONES void add_adjacent(const T* __restrict weights, const T* __restrict x, int64_t channels,
                              T* __restrict sums, int64_t n) {
  const int64_t step = C ? C : channels;
  for (int64_t i = 0; i < n; ++i) {
    T sum = 0;
    for (int64_t c = 0; c < step; ++c) sum += weights[c] * x[i * step + c];
    sums[i] = sum;
  }
}

// The values of pixels, once for each of their adjacent channels.
template <int C, class T>
RDDM_CLONES void repeat(const T* __restrict x, int64_t channels, T* __restrict to, int64_t n) {
  const int64_t step = C ? C : channels;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < step; ++c) to[i * step + c] = x[i];
  }
}

constexpr int64_t kMostAdjacent = 64;  // channels

// The tiles of one thread. A tile's values are computed a channel at a time, or all together where
// the channels of a pixel are adjacent: what belongs to a pixel is then repeated for each of them.
template <class Storage>
class Tiles {
 public:
  using T = Computed<Storage>;

  explicit Tiles(const TacosStepInputs& in)
      : in_(in),
        step_(in.adjacent ? in.channels : 1),
        from_(SnowLevel<T>::of(in.first, in.layer_s.has_value())),
        to_(SnowLevel<T>::of(in.second, in.layer_to.has_value())),
        x_s_(data_of<Storage>(in.x_s)),
        x_0_(data_of<Storage>(in.x_0)),
        x_end_(data_of<Storage>(in.x_end)),
        layer_s_(data_of<T>(in.layer_s)),
        layer_to_(data_of<T>(in.layer_to)),
        next_(data_to<Storage>(in.result)) {
    std::fill_n(weight_, kBlock, T(1));
    std::fill_n(far_, kBlock, T(0));
    for (int64_t c = 0; c < step_; ++c) weights_[c] = grey_weight<T>(in.kind, c, in.channels);
  }

  static int64_t pixels(const TacosStepInputs& in) {
    constexpr int64_t kValues = std::is_same_v<Storage, T> ? kBlock : kShortBlock;
    return kValues / (in.adjacent ? in.channels : 1);
  }

  // n pixels of a sample from `pixel` on, in the channels from c on.
  void run(int64_t sample, int64_t c, int64_t channels, int64_t pixel, int64_t n) {
    const bool snows = in_.kind == TacosKind::kSnow;
    const T* before = layer_s_.at(sample * in_.layer_stride(in_.layer_s) + pixel, n);
    const T* after = layer_to_.at(sample * in_.layer_stride(in_.layer_to) + pixel, n);
    const T *weight = weight_, *far = far_;
    if (in_.kind == TacosKind::kMix && step_ == 3 && in_.layer_to && !in_.x_end) {
      const int64_t first = at(sample, c, pixel), values = 3 * n;
      mix_rgb(x_s_.at(first, values), x_0_.at(first, values), before, after, T(in_.first),
              next_.at(first), n);
      next_.done(first, values);
      return;
    }
    if (snows) {
      before = in_.layer_s ? for_each_value(before, before_, n) : before;
      after = in_.layer_to ? for_each_value(after, after_, n) : after;
    } else if (in_.layer_to) {
      subtract(after, before, before_, n);
      weight = for_each_value(before_, weight_, n);
    }
    if (in_.needs_grey()) {
      find_grey(sample, pixel, n);
      far = for_each_value(grey_, far_, n);
    }
    const int64_t values = n * step_;
    for (const int64_t end = c + channels; c < end; c += step_) {
      const int64_t first = at(sample, c, pixel);
      if (in_.x_end) far = end_values(sample, c, pixel, n);
      const T *x_s = x_s_.at(first, values), *x_0 = x_0_.at(first, values);
      if (snows) {
        snow(from_, to_, x_s, x_0, far, before, after, next_.at(first), values);
      } else {
        mix(x_s, x_0, far, weight, T(in_.first), T(in_.second), next_.at(first), values);
      }
      next_.done(first, values);
    }
  }

 private:
  // Where a channel of a pixel is in memory.
  int64_t at(int64_t sample, int64_t channel, int64_t pixel) const {
    return in_.adjacent ? (sample * in_.pixels + pixel) * in_.channels + channel
                        : (sample * in_.channels + channel) * in_.pixels + pixel;
  }

  const T* for_each_value(const T* of_pixels, T* buffer, int64_t n) const {
    if (step_ == 1) return of_pixels;
    step_ == 3 ? repeat<3>(of_pixels, step_, buffer, n) : repeat<0>(of_pixels, step_, buffer, n);
    return buffer;
  }

  void find_grey(int64_t sample, int64_t pixel, int64_t n) {
    if (in_.adjacent) {
      const T* const x_0 = x_0_.at(at(sample, 0, pixel), n * step_);
      step_ == 3 ? add_adjacent<3>(weights_, x_0, step_, grey_, n)
                 : add_adjacent<0>(weights_, x_0, step_, grey_, n);
      return;
    }
    std::fill_n(grey_, n, T(0));
    for (int64_t c = 0; c < in_.channels; ++c) {
      add(grey_weight<T>(in_.kind, c, in_.channels), x_0_.at(at(sample, c, pixel), n), grey_, n);
    }
  }

  // x_end from channel c on.
  const T* end_values(int64_t sample, int64_t c, int64_t pixel, int64_t n) {
    const int64_t first = sample * in_.end_sample + c * in_.end_channel + pixel * in_.end_pixel;
    const bool as_image = in_.end_pixel == step_ && (step_ == 1 || in_.end_channel == 1);
    if (as_image) return x_end_.at(first, n * step_);
    const Storage* const x_end = data_of<Storage>(in_.x_end) + first;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; k < step_; ++k) {
        far_[i * step_ + k] = static_cast<T>(x_end[i * in_.end_pixel + k * in_.end_channel]);
      }
    }
    return far_;
  }

  const TacosStepInputs& in_;
  int64_t step_;  // values of a pixel that are computed together
  SnowLevel<T> from_, to_;
  Block<Storage, T> x_s_, x_0_, x_end_;
  Block<T, T> layer_s_, layer_to_;
  Written<Storage, T> next_;
  T weights_[kMostAdjacent];
  alignas(64) T weight_[kBlock], far_[kBlock], grey_[kBlock], before_[kBlock], after_[kBlock];
};

template <class Storage>
void run(const TacosStepInputs& in) {
  const int64_t pixels = Tiles<Storage>::pixels(in), tiles = (in.pixels + pixels - 1) / pixels;
  // Channels that do not need each other are walked through one by one, in the order of memory.
  const int64_t together = in.adjacent || in.needs_grey() ? in.channels : 1;
  const int64_t groups = together ? in.channels / together : 0;
  const int64_t grain = std::max<int64_t>(1, kGrain / (pixels * std::max<int64_t>(1, together)));
  torch::stable::parallel_for(0, in.batch * groups * tiles, grain, [&](int64_t begin, int64_t end) {
    Tiles<Storage> walk(in);
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t plane = tile / tiles, pixel = tile % tiles * pixels;
      walk.run(plane / groups, plane % groups * together, together, pixel,
               std::min(pixels, in.pixels - pixel));
    }
  });
}

// Whether the call was one for tacos_planes.h, which has then computed it.
template <class Storage>
bool run_planes(const TacosStepInputs& in) {
  constexpr int kChannels = TacosPlanes::kChannels;
  constexpr Stored kStored = std::is_same_v<Storage, float>      ? Stored::kFloat32
                             : std::is_same_v<Storage, BFloat16> ? Stored::kBfloat16
                                                                 : Stored::kFloat16;
  if (in.channels != kChannels || in.adjacent || in.x_end) return false;
  static const TacosPlaneSteps& loops = fastest<TacosPlaneSteps>(RDDM_EVERY_SET(kTacosPlanes));
  const TacosPlaneSteps::Walk walk = loops.walk(in.kind, kStored);
  if (!walk) return false;
  const Storage *const x_s = data_of<Storage>(in.x_s), *const x_0 = data_of<Storage>(in.x_0);
  Storage* const to = data_to<Storage>(in.result);
  const auto layer = [&](const std::optional<Tensor>& x, int64_t image, int64_t pixel) {
    return x ? data_of<float>(x) + image * in.layer_stride(x) + pixel : nullptr;
  };
  torch::stable::parallel_for(
      0, in.batch * in.pixels, kGrain / kChannels, [&](int64_t first, int64_t last) {
        for (int64_t i = first, n; i < last; i += n) {
          const int64_t image = i / in.pixels, pixel = i % in.pixels;
          n = std::min(last - i, in.pixels - pixel);
          TacosPlanes planes{};
          planes.layer_s = layer(in.layer_s, image, pixel);
          planes.layer_to = layer(in.layer_to, image, pixel);
          for (int c = 0; c < kChannels; ++c) {
            const int64_t start = (image * kChannels + c) * in.pixels + pixel;
            planes.x_s[c] = x_s + start, planes.x_0[c] = x_0 + start, planes.to[c] = to + start;
          }
          walk(float(in.first), float(in.second), planes, n);
        }
      });
  return true;
}

Tensor tacos_step_cpu(const Tensor& x_s, const Tensor& x_0, const std::optional<Tensor>& x_end,
                      const std::optional<Tensor>& layer_s, const std::optional<Tensor>& layer_to,
                      int64_t kind, const std::vector<double>& numbers) {
  const TacosStepInputs in(x_s, x_0, x_end, layer_s, layer_to, kind, numbers, kMostAdjacent);
  for_dtype<true>(in.x_s.scalar_type(), "tacos_step: no CPU kernel", [&]<class Storage>() {
    if constexpr (!std::is_same_v<Storage, double>) {
      if (run_planes<Storage>(in)) return;
    }
    run<Storage>(in);
  });
  return in.finish();
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("tacos_step", TORCH_BOX(&rddm::tacos_step_cpu));
}
