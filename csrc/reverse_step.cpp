// reverse_step on the CPU. Storage dtypes and objectives do not multiply: the blocks (cpu_blocks.h)
// bring 3 widening loops and 3 rounding ones, and here are 14 loops that compute.
#include "reverse_step.h"

#include <torch/csrc/stable/library.h>

#include "cpu_blocks.h"
#include "reverse_step_inputs.h"

namespace rddm {
namespace {

template <Objective O, class T>
RDDM_CLONES void step(StepCoefficients<T> c, const T* __restrict I_t, const T* __restrict out0,
                      const T* __restrict out1, const T* __restrict I_in, const T* __restrict noise,
                      T* __restrict result, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    result[i] = reverse_step<O, T>(c, I_t[i], out0[i], out1[i], I_in[i], noise[i]);
  }
}

template <class T>
using Step = void (*)(StepCoefficients<T>, const T*, const T*, const T*, const T*, const T*, T*,
                      int64_t);

template <class T>
Step<T> step_for(Objective objective) {
  switch (objective) {
    case Objective::kPredResNoise:
      return step<Objective::kPredResNoise, T>;
    case Objective::kPredResAddNoise:
      return step<Objective::kPredResAddNoise, T>;
    case Objective::kPredX0Noise:
      return step<Objective::kPredX0Noise, T>;
    case Objective::kPredX0AddNoise:
      return step<Objective::kPredX0AddNoise, T>;
    case Objective::kPredRes:
      return step<Objective::kPredRes, T>;
    case Objective::kPredNoise:
      return step<Objective::kPredNoise, T>;
    case Objective::kPredX0:
      return step<Objective::kPredX0, T>;
  }
  STD_TORCH_CHECK(false, "reverse_step: unknown objective");
}

// Image: how I_t, I_in, noise and the result are stored. Output: how the network's outputs are.
template <class Image, class Output, class T>
void run(const ReverseStepInputs& in, const StepCoefficients<T>& coefficients) {
  const Step<T> step = step_for<T>(in.objective);
  Image* const result = static_cast<Image*>(in.result.tensor.mutable_data_ptr());
  torch::stable::parallel_for(
      0, in.result.tensor.numel(), kGrain, [&](int64_t first, int64_t last) {
        Block<Image, T> I_t(data_of<Image>(in.I_t)), I_in(data_of<Image>(in.I_in));
        Block<Output, T> out0(data_of<Output>(in.out0)), out1(data_of<Output>(in.out1));
        NoiseBlock<Image, T> noise(in.noise);
        [[maybe_unused]] alignas(64) T rounded_from[kBlock];
        for (int64_t i = first; i < last; i += kBlock) {
          const int64_t n = std::min(kBlock, last - i);
          T* to;
          if constexpr (std::is_same_v<Image, T>) {
            to = result + i;
          } else {
            to = rounded_from;
          }
          step(coefficients, I_t.at(i, n), out0.at(i, n), out1.at(i, n), I_in.at(i, n),
               noise.at(i, n), to, n);
          if constexpr (!std::is_same_v<Image, T>) round_to(to, result + i, n);
        }
      });
}

Tensor reverse_step_cpu(const Tensor& I_t, const Tensor& out0, const std::optional<Tensor>& out1,
                        const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
                        std::optional<int64_t> seed, int64_t stream, int64_t objective,
                        double alpha_bar, double beta_bar, double one_minus_alpha_bar, double k_t,
                        double k_res, double k_noise, double k_0, double sigma, double clip_res,
                        double clip_0) {
  const ReverseStepInputs in(I_t, out0, out1, I_in, noise, seed, stream, objective, sigma);
  const auto coefficients = [&]<class T>(T) {
    return StepCoefficients<T>::from(alpha_bar, beta_bar, one_minus_alpha_bar, k_t, k_res, k_noise,
                                     k_0, sigma, clip_res, clip_0);
  };
  const ScalarType image = in.I_t.scalar_type(), output = in.out0.scalar_type();
  if (image == ScalarType::Float && output == ScalarType::Float) {
    run<float, float>(in, coefficients(0.f));
  } else if (image == ScalarType::Float && output == ScalarType::BFloat16) {
    run<float, BFloat16>(in, coefficients(0.f));
  } else if (image == ScalarType::Float && output == ScalarType::Half) {
    run<float, Half>(in, coefficients(0.f));
  } else if (image == ScalarType::BFloat16 && output == ScalarType::BFloat16) {
    run<BFloat16, BFloat16>(in, coefficients(0.f));
  } else if (image == ScalarType::Half && output == ScalarType::Half) {
    run<Half, Half>(in, coefficients(0.f));
  } else if (image == ScalarType::Double && output == ScalarType::Double) {
    run<double, double>(in, coefficients(0.));
  } else {
    STD_TORCH_CHECK(false, "reverse_step: no CPU kernel for I_t in ",
                    torch::headeronly::toString(image), " beside out0 in ",
                    torch::headeronly::toString(output));
  }
  return in.result.finish();
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("reverse_step", TORCH_BOX(&rddm::reverse_step_cpu));
}
