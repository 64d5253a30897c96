// forward_diffuse on the CPU.
#include "forward_diffuse/forward_diffuse.h"
#include "check.h"

#include <torch/csrc/stable/library.h>

#include "common/cpu_results.h"
#include "common/dispatch.h"
#include "forward_diffuse/forward_diffuse_inputs.h"

namespace rddm {
namespace {

template <class T>
RDDM_CLONES void diffuse(const T* __restrict I_0, const T* __restrict I_in,
                         const T* __restrict noise, T alpha_bar, T beta_bar, T* __restrict result,
                         int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    result[i] = forward_diffuse(I_0[i], I_in[i], noise[i], alpha_bar, beta_bar);
  }
}

template <class Image, class T>
void run(const ForwardDiffuseInputs& in) {
  Image* const result = static_cast<Image*>(in.result.tensor.mutable_data_ptr());
  const int64_t* const t = static_cast<const int64_t*>(in.t.const_data_ptr());
  const float* const alpha_bar = static_cast<const float*>(in.alpha_bar.const_data_ptr());
  const float* const beta_bar = static_cast<const float*>(in.beta_bar.const_data_ptr());
  for (int64_t sample = 0; sample < in.t.numel(); ++sample) {
    RDDM_CHECK(t[sample] >= 0 && t[sample] < in.alpha_bar.numel(), "forward_diffuse: t[", sample,
               "] is ", t[sample], ", and the tables have ", in.alpha_bar.numel(), " entries");
  }
  const bool fetched = in.noise.drawn;
  const int64_t block = block_size(in.noise);
  torch::stable::parallel_for(0, in.I_0.numel(), kGrain, [&](int64_t first, int64_t last) {
    Block<Image, T> I_0(data_of<Image>(in.I_0), fetched), I_in(data_of<Image>(in.I_in), fetched);
    NoiseBlock<Image, T> noise(in.noise, data_of<Image>(in.I_0), data_of<Image>(in.I_in), result);
    Written<Image, T> I_t(result, fetched);
    for (int64_t i = first, n; i < last; i += n) {
      const int64_t sample = i / in.per_sample, end = (sample + 1) * in.per_sample;
      n = std::min({block, last - i, end - i});
      const T a = alpha_bar[t[sample]], b = beta_bar[t[sample]];
      const T* const z = noise.at(i, n);  // before the images, which it fetches
      diffuse(I_0.at(i, n), I_in.at(i, n), z, a, b, I_t.at(i), n);
      I_t.done(i, n);
    }
  });
}

Tensor forward_diffuse_cpu(const Tensor& I_0, const std::optional<Tensor>& I_in, const Tensor& t,
                           const Tensor& alpha_bar, const Tensor& beta_bar,
                           const std::optional<Tensor>& noise, std::optional<int64_t> seed,
                           int64_t stream) {
  const ForwardDiffuseInputs in(I_0, I_in, t, alpha_bar, beta_bar, noise, seed, stream);
  for_dtype<true>(in.I_0.scalar_type(), "forward_diffuse: no CPU kernel",
                  [&]<class Image>() { run<Image, Computed<Image>>(in); });
  return in.result.finish();
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("forward_diffuse", TORCH_BOX(&rddm::forward_diffuse_cpu));
}
