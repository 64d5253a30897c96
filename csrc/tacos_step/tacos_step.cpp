// tacos_step on the CPU, in tiles of up to kBlock pixels of a sample, each with all channels.
#include "tacos_step/tacos_step.h"

#include <torch/csrc/stable/library.h>

#include "common/cpu_results.h"
#include "common/dispatch.h"
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

template <class Storage>
void run(const TacosStepInputs& in) {
  using T = Computed<Storage>;
  Storage* const result = static_cast<Storage*>(in.result.mutable_data_ptr());
  const auto from = SnowLevel<T>::of(in.first, in.layer_s.has_value());
  const auto to = SnowLevel<T>::of(in.second, in.layer_to.has_value());
  const int64_t tiles = (in.pixels + kBlock - 1) / kBlock;
  const int64_t grain = std::max<int64_t>(1, kGrain / (kBlock * std::max<int64_t>(1, in.channels)));
  torch::stable::parallel_for(0, in.batch * tiles, grain, [&](int64_t begin, int64_t end) {
    Block<Storage, T> x_s(data_of<Storage>(in.x_s)), x_0(data_of<Storage>(in.x_0));
    Block<Storage, T> x_end(data_of<Storage>(in.x_end));
    Block<T, T> layer_s(data_of<T>(in.layer_s)), layer_to(data_of<T>(in.layer_to));
    Written<Storage, T> next(result);
    alignas(64) T weight[kBlock], far[kBlock];
    std::fill_n(weight, kBlock, T(1));
    std::fill_n(far, kBlock, T(0));
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t sample = tile / tiles, pixel = tile % tiles * kBlock;
      const int64_t n = std::min(kBlock, in.pixels - pixel);
      const auto first_of = [&](int64_t channel) {
        return (sample * in.channels + channel) * in.pixels + pixel;
      };
      const T* const before = layer_s.at(sample * in.layer_stride(in.layer_s) + pixel, n);
      const T* const after = layer_to.at(sample * in.layer_stride(in.layer_to) + pixel, n);
      if (in.kind != TacosKind::kSnow && in.layer_to) subtract(after, before, weight, n);
      if (in.needs_grey()) {
        std::fill_n(far, n, T(0));
        for (int64_t c = 0; c < in.channels; ++c) {
          add(grey_weight<T>(in.kind, c, in.channels), x_0.at(first_of(c), n), far, n);
        }
      }
      for (int64_t c = 0; c < in.channels; ++c) {
        const int64_t first = first_of(c);
        const T* end_values = far;
        if (in.x_end) {
          const int64_t at = sample * in.end_sample + c * in.end_channel + pixel * in.end_pixel;
          end_values = x_end.at(at, in.end_pixel ? n : 1);
          if (!in.end_pixel) {
            std::fill_n(far, n, *end_values);
            end_values = far;
          }
        }
        if (in.kind == TacosKind::kSnow) {
          snow(from, to, x_s.at(first, n), x_0.at(first, n), far, before, after, next.at(first), n);
        } else {
          mix(x_s.at(first, n), x_0.at(first, n), end_values, weight, T(in.first), T(in.second),
              next.at(first), n);
        }
        next.done(first, n);
      }
    }
  });
}

Tensor tacos_step_cpu(const Tensor& x_s, const Tensor& x_0, const std::optional<Tensor>& x_end,
                      const std::optional<Tensor>& layer_s, const std::optional<Tensor>& layer_to,
                      int64_t kind, const std::vector<double>& numbers) {
  const TacosStepInputs in(x_s, x_0, x_end, layer_s, layer_to, kind, numbers);
  for_dtype<true>(in.x_s.scalar_type(), "tacos_step: no CPU kernel",
                  [&]<class Storage>() { run<Storage>(in); });
  return in.finish();
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("tacos_step", TORCH_BOX(&rddm::tacos_step_cpu));
}
