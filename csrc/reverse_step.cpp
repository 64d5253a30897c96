// reverse_step on the CPU.
//
// The image is worked through in blocks that stay in the first-level cache. A block of each input
// is widened to the precision the step computes in (or used where it lies, if it is stored in that
// precision), one vectorised loop computes the step, and the result is rounded once on its way out.
// So storage dtypes and objectives do not multiply: 3 widening loops, 14 step loops, 3 rounding
// ones.
#include "reverse_step.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <bit>
#include <type_traits>

#include "reverse_step_inputs.h"

// One binary for all x86-64 machines: the loader picks the widest of these that the machine has.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define RDDM_CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define RDDM_CLONES
#endif

namespace rddm {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int64_t kBlock = 1024;  // 5 inputs and a result in float32: 24 KiB
constexpr int64_t kGrain = 32 * kBlock;

template <class Storage>
RDDM_CLONES void widen(const Storage* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

template <class Storage>
RDDM_INLINE Storage rounded(float x) {
  return static_cast<Storage>(x);
}

// To nearest even, without the branches and the call of Half's own constructor, which keep a loop
// from being vectorised. Below the smallest normal half, adding 0.5 aligns a float's last bit with
// a half's, so that the addition rounds.
template <>
RDDM_INLINE Half rounded<Half>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x47800000u ? 0x7c00u : half;  // 65536 and above, infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;   // not a number
  return Half(static_cast<uint16_t>(half | (bits >> 16 & 0x8000u)), Half::from_bits());
}

template <class Storage>
RDDM_CLONES void round_to(const float* __restrict from, Storage* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = rounded<Storage>(from[i]);
}

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

// A block of one input in the precision T, wherever it has to come from. Absent inputs are zeros.
template <class Storage, class T>
class Block {
 public:
  explicit Block(const Storage* data) : data_(data) {
    if (!data_) std::fill_n(buffer_, kBlock, T(0));
  }

  const T* at(int64_t begin, int64_t n) {
    if (!data_) return buffer_;
    if constexpr (std::is_same_v<Storage, T>) {
      return data_ + begin;
    } else {
      widen(data_ + begin, buffer_, n);
      return buffer_;
    }
  }

 private:
  const Storage* data_;
  alignas(64) T buffer_[kBlock];
};

// Image: how I_t, I_in, noise and the result are stored. Output: how the network's outputs are.
template <class Image, class Output, class T>
void run(const ReverseStepInputs& in, const StepCoefficients<T>& coefficients) {
  using In = ReverseStepInputs;
  const Step<T> step = step_for<T>(in.objective);
  Image* const result = static_cast<Image*>(in.result.mutable_data_ptr());
  torch::stable::parallel_for(0, in.result.numel(), kGrain, [&](int64_t first, int64_t last) {
    Block<Image, T> I_t(In::data<Image>(in.I_t)), I_in(In::data<Image>(in.I_in)),
        noise(In::data<Image>(in.noise));
    Block<Output, T> out0(In::data<Output>(in.out0)), out1(In::data<Output>(in.out1));
    [[maybe_unused]] alignas(64) T rounded_from[kBlock];
    for (int64_t i = first; i < last; i += kBlock) {
      const int64_t n = std::min(kBlock, last - i);
      T* to;
      if constexpr (std::is_same_v<Image, T>) {
        to = result + i;
      } else {
        to = rounded_from;
      }
      step(coefficients, I_t.at(i, n), out0.at(i, n), out1.at(i, n), I_in.at(i, n), noise.at(i, n),
           to, n);
      if constexpr (!std::is_same_v<Image, T>) round_to(to, result + i, n);
    }
  });
}

Tensor reverse_step_cpu(const Tensor& I_t, const Tensor& out0, const std::optional<Tensor>& out1,
                        const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
                        int64_t objective, double alpha_bar, double beta_bar,
                        double one_minus_alpha_bar, double k_t, double k_res, double k_noise,
                        double k_0, double sigma, double clip_res, double clip_0) {
  const ReverseStepInputs in(I_t, out0, out1, I_in, noise, objective, sigma);
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
  return in.result;
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("reverse_step", TORCH_BOX(&rddm::reverse_step_cpu));
}
