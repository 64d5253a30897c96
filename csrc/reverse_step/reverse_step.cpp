// reverse_step on the CPU. Images that are all in bfloat16 or float16 go through narrow_steps.h
// where it can. For all other calls, storage dtypes do not multiply with objectives and terms:
// cpu_blocks.h has 3 loops that widen and 3 that round, and 35 loops here compute.
#include "reverse_step/reverse_step.h"
#include "check.h"

#include <torch/csrc/stable/library.h>

#include "common/cpu_results.h"
#include "common/dispatch.h"
#include "reverse_step/narrow_steps.h"
#include "reverse_step/reverse_step_inputs.h"

namespace rddm {
namespace {

// `next` may be I_t itself. I_0 is written only if Terms is kAny.
template <Objective O, StepTerms Terms, class T>
RDDM_CLONES void step(StepCoefficients<T> c, const T* I_t, const T* __restrict out0,
                      const T* __restrict out1, const T* __restrict I_in, const T* __restrict noise,
                      T* next, T* __restrict I_0, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const StepResult<T> result =
        reverse_step<O, Terms, T>(c, I_t[i], out0[i], out1[i], I_in[i], noise[i]);
    next[i] = result.next;
    if constexpr (Terms == StepTerms::kAny) I_0[i] = result.I_0;
  }
}

template <class T>
using Step = void (*)(StepCoefficients<T>, const T*, const T*, const T*, const T*, const T*, T*, T*,
                      int64_t);

// The loop for a call. In float32 there is one for each usual set of terms; in float64, which
// serves to check, there is one for any terms.
template <class T>
Step<T> step_for(Objective objective, StepTerms terms) {
  Step<T> chosen = nullptr;
  for_objective(objective, [&]<Objective O>() {
    chosen = step<O, StepTerms::kAny, T>;
    if constexpr (std::is_same_v<T, float>) {
      if (terms == StepTerms::kDeterministic) chosen = step<O, StepTerms::kDeterministic, T>;
      if (terms == StepTerms::kStochastic) chosen = step<O, StepTerms::kStochastic, T>;
      if (terms == StepTerms::kClean) chosen = step<O, StepTerms::kClean, T>;
    }
  });
  return chosen;
}

// Whether the call was one for narrow_steps.h, which has then computed it.
template <class Image>
bool run_narrow(const ReverseStepInputs& in, const StepCoefficients<float>& coefficients) {
  if (in.noise.drawn || in.next_input || in.clean) return false;
  static const NarrowSteps& loops = fastest<NarrowSteps>(RDDM_EVERY_SET(kNarrowSteps));
  const NarrowSteps::Walk walk =
      loops.walk(in.objective, terms_of(coefficients), std::is_same_v<Image, BFloat16>);
  if (!walk) return false;
  uint16_t* const result = static_cast<uint16_t*>(in.result.tensor.mutable_data_ptr());
  torch::stable::parallel_for(
      0, in.result.tensor.numel(), kGrain, [&](int64_t first, int64_t last) {
        walk(coefficients,
             {bits_of<Image>(in.I_t, first), bits_of<Image>(in.out0, first),
              bits_of<Image>(in.out1, first), bits_of<Image>(in.I_in, first),
              bits_of<Image>(in.noise.tensor, first)},
             result + first, last - first);
      });
  return true;
}

// Image: the dtype of I_t, I_in, noise and the result. Output: that of the network's outputs.
template <class Image, class Output, class T>
void run(const ReverseStepInputs& in, const StepCoefficients<T>& coefficients) {
  if constexpr (std::is_same_v<Image, Output> && sizeof(Image) == 2) {
    if (run_narrow<Image>(in, coefficients)) return;
  }
  const Step<T> step =
      step_for<T>(in.objective, in.clean ? StepTerms::kAny : terms_of(coefficients));
  Image* const result = static_cast<Image*>(in.result.tensor.mutable_data_ptr());
  const int64_t numel = in.result.tensor.numel();
  const int64_t block = block_size(in.noise);
  const bool fetched = in.noise.drawn;
  torch::stable::parallel_for(0, numel, kGrain, [&](int64_t first, int64_t last) {
    Block<Image, T> I_t(data_of<Image>(in.I_t), fetched), I_in(data_of<Image>(in.I_in), fetched);
    Block<Output, T> out0(data_of<Output>(in.out0), fetched),
        out1(data_of<Output>(in.out1), fetched);
    NoiseBlock<Image, T> noise(in.noise, data_of<Image>(in.I_t), data_of<Image>(in.I_in),
                               data_of<Output>(in.out0), data_of<Output>(in.out1), result);
    Written<Image, T> next(result, fetched);
    const Placed<Output, T> next_input(data_to<Output>(in.next_input), in.next_input_placement);
    const Placed<Output, T> clean(data_to<Output>(in.clean), in.clean_placement);
    alignas(64) T I_0[kBlock];
    for (int64_t i = first, n; i < last; i += n) {
      n = std::min(block, last - i);
      const T* const z = noise.at(i, n);  // before the images, which it fetches
      T* const to = next.at(i);
      step(coefficients, I_t.at(i, n), out0.at(i, n), out1.at(i, n), I_in.at(i, n), z, to, I_0, n);
      next_input.write(to, i, n);
      clean.write(I_0, i, n);
      next.done(i, n);
    }
  });
}

constexpr const char* kNoKernel = "reverse_step: no CPU kernel for I_t";

Tensor reverse_step_cpu(const Tensor& I_t, const Tensor& out0, const std::optional<Tensor>& out1,
                        const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
                        std::optional<int64_t> seed, int64_t stream, int64_t objective,
                        const std::vector<double>& numbers) {
  const ReverseStepInputs in =
      functional_inputs({I_t, out0, out1, I_in, noise, seed, stream, objective}, numbers);
  for_pair<true>(in.I_t.scalar_type(), in.out0.scalar_type(), kNoKernel,
                 [&]<class Image, class Output>() {
                   using T = Computed<Image>;
                   run<Image, Output, T>(in, StepCoefficients<T>::of(numbers.data()));
                 });
  return in.result.finish();
}

void reverse_step_in_place_cpu(const Tensor& I_t, const Tensor& out0,
                               const std::optional<Tensor>& out1, const std::optional<Tensor>& I_in,
                               const std::optional<Tensor>& noise, std::optional<int64_t> seed,
                               const std::optional<Tensor>& seed_tensor, int64_t stream,
                               int64_t objective, const Tensor& table, int64_t step,
                               const std::optional<Tensor>& index,
                               const std::optional<Tensor>& next_input,
                               const std::optional<Tensor>& clean) {
  ReverseStepInputs in = in_place_inputs({I_t, out0, out1, I_in, noise, seed, stream, objective},
                                         seed_tensor, table, index, next_input, clean);
  const int64_t number = step + (index ? *data_of<int64_t>(index) : 0);
  RDDM_CHECK(number >= 0 && number < table.size(0), "reverse_step_: there is no step ", number,
             " in a table of ", table.size(0));
  const auto& coefficients =
      static_cast<const StepCoefficients<float>*>(table.const_data_ptr())[number];
  RDDM_CHECK(coefficients.sigma == 0 || in.noise.tensor || in.noise.drawn,
             "reverse_step_: sigma != 0 needs noise or a seed");
  if (in.noise.seed_tensor) in.noise.seed = uint64_t(*data_of<int64_t>(in.noise.seed_tensor));
  in.noise.stream += uint64_t(number);
  if (coefficients.sigma == 0) in.noise = {};
  for_pair<false>(
      in.I_t.scalar_type(), in.out0.scalar_type(), kNoKernel,
      [&]<class Image, class Output>() { run<Image, Output, float>(in, coefficients); });
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("reverse_step", TORCH_BOX(&rddm::reverse_step_cpu));
  m.impl("reverse_step_", TORCH_BOX(&rddm::reverse_step_in_place_cpu));
}
