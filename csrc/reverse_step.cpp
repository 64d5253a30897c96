// reverse_step on the CPU. Storage dtypes do not multiply with objectives and terms: the blocks
// (cpu_blocks.h) bring 3 widening loops and 3 rounding ones, and here are 35 loops that compute.
#include "reverse_step.h"

#include <torch/csrc/stable/library.h>

#include "cpu_results.h"
#include "reverse_step_inputs.h"

namespace rddm {
namespace {

// `next` may be I_t itself. I_0 is written where the terms are any.
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

template <Objective O, class T>
Step<T> step_for(StepTerms terms) {
  if constexpr (std::is_same_v<T, float>) {  // float64 is for checking
    if (terms == StepTerms::kDeterministic) return step<O, StepTerms::kDeterministic, T>;
    if (terms == StepTerms::kStochastic) return step<O, StepTerms::kStochastic, T>;
    if (terms == StepTerms::kClean) return step<O, StepTerms::kClean, T>;
  }
  return step<O, StepTerms::kAny, T>;
}

template <class T>
Step<T> step_for(Objective objective, StepTerms terms) {
  switch (objective) {
    case Objective::kPredResNoise:
      return step_for<Objective::kPredResNoise, T>(terms);
    case Objective::kPredResAddNoise:
      return step_for<Objective::kPredResAddNoise, T>(terms);
    case Objective::kPredX0Noise:
      return step_for<Objective::kPredX0Noise, T>(terms);
    case Objective::kPredX0AddNoise:
      return step_for<Objective::kPredX0AddNoise, T>(terms);
    case Objective::kPredRes:
      return step_for<Objective::kPredRes, T>(terms);
    case Objective::kPredNoise:
      return step_for<Objective::kPredNoise, T>(terms);
    case Objective::kPredX0:
      return step_for<Objective::kPredX0, T>(terms);
  }
  STD_TORCH_CHECK(false, "reverse_step: unknown objective");
}

// Image: how I_t, I_in, noise and the result are stored. Output: how the network's outputs are.
template <class Image, class Output, class T>
void run(const ReverseStepInputs& in, const StepCoefficients<T>& coefficients) {
  const Step<T> step =
      step_for<T>(in.objective, in.clean ? StepTerms::kAny : terms_of(coefficients));
  Image* const result = static_cast<Image*>(in.result.tensor.mutable_data_ptr());
  const int64_t numel = in.result.tensor.numel();
  torch::stable::parallel_for(0, numel, kGrain, [&](int64_t first, int64_t last) {
    Block<Image, T> I_t(data_of<Image>(in.I_t)), I_in(data_of<Image>(in.I_in));
    Block<Output, T> out0(data_of<Output>(in.out0)), out1(data_of<Output>(in.out1));
    NoiseBlock<Image, T> noise(in.noise);
    Written<Image, T> next(result);
    const Placed<Output, T> next_input(data_to<Output>(in.next_input), in.next_input_placement);
    const Placed<Output, T> clean(data_to<Output>(in.clean), in.clean_placement);
    alignas(64) T I_0[kBlock];
    for (int64_t i = first; i < last; i += kBlock) {
      const int64_t n = std::min(kBlock, last - i);
      T* const to = next.at(i);
      step(coefficients, I_t.at(i, n), out0.at(i, n), out1.at(i, n), I_in.at(i, n), noise.at(i, n),
           to, I_0, n);
      next_input.write(to, i, n);
      clean.write(I_0, i, n);
      next.done(i, n);
    }
  });
}

void run(const ReverseStepInputs& in, const StepCoefficients<float>& coefficients) {
  const ScalarType image = in.I_t.scalar_type(), output = in.out0.scalar_type();
  if (image == ScalarType::Float && output == ScalarType::Float) {
    run<float, float>(in, coefficients);
  } else if (image == ScalarType::Float && output == ScalarType::BFloat16) {
    run<float, BFloat16>(in, coefficients);
  } else if (image == ScalarType::Float && output == ScalarType::Half) {
    run<float, Half>(in, coefficients);
  } else if (image == ScalarType::BFloat16 && output == ScalarType::BFloat16) {
    run<BFloat16, BFloat16>(in, coefficients);
  } else if (image == ScalarType::Half && output == ScalarType::Half) {
    run<Half, Half>(in, coefficients);
  } else {
    STD_TORCH_CHECK(false, "reverse_step: no CPU kernel for I_t in ",
                    torch::headeronly::toString(image), " beside out0 in ",
                    torch::headeronly::toString(output));
  }
}

Tensor reverse_step_cpu(const Tensor& I_t, const Tensor& out0, const std::optional<Tensor>& out1,
                        const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
                        std::optional<int64_t> seed, int64_t stream, int64_t objective,
                        double alpha_bar, double beta_bar, double one_minus_alpha_bar, double k_t,
                        double k_res, double k_noise, double k_0, double sigma, double offset,
                        double clip_res, double clip_0) {
  const ReverseStepInputs in =
      functional_inputs({I_t, out0, out1, I_in, noise, seed, stream, objective}, sigma);
  const auto coefficients = [&]<class T>(T) {
    return StepCoefficients<T>::from(alpha_bar, beta_bar, one_minus_alpha_bar, k_t, k_res, k_noise,
                                     k_0, sigma, offset, clip_res, clip_0);
  };
  if (in.I_t.scalar_type() == ScalarType::Double && in.out0.scalar_type() == ScalarType::Double) {
    run<double, double>(in, coefficients(0.));
  } else {
    run(in, coefficients(0.f));
  }
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
                                         seed_tensor, next_input, clean);
  const StepRow row = step_row(table, step, index, I_t);
  const int64_t number = step + (index ? *data_of<int64_t>(index) : 0);
  STD_TORCH_CHECK(number >= 0 && number < row.rows(), "reverse_step_: there is no step ", number,
                  " in a table of ", row.rows());
  const auto& coefficients =
      static_cast<const StepCoefficients<float>*>(table.const_data_ptr())[number];
  STD_TORCH_CHECK(coefficients.sigma == 0 || in.noise.tensor || in.noise.drawn,
                  "reverse_step_: sigma != 0 needs noise or a seed");
  if (in.noise.seed_tensor) in.noise.seed = uint64_t(*data_of<int64_t>(in.noise.seed_tensor));
  in.noise.stream += uint64_t(number);
  if (coefficients.sigma == 0) in.noise = {};
  run(in, coefficients);
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("reverse_step", TORCH_BOX(&rddm::reverse_step_cpu));
  m.impl("reverse_step_", TORCH_BOX(&rddm::reverse_step_in_place_cpu));
}
