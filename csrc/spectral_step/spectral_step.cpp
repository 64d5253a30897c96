// spectral_step_ on the CPU.
#include "spectral_step/spectral_step.h"
#include "check.h"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "common/cpu_results.h"
#include "common/dispatch.h"
#include "common/overlap.h"
#include "spectral_step/narrow_spectral.h"

namespace rddm {
namespace {

// Coordinates whose coefficients are kept for all samples: 256 KiB, a quarter of the second-level
// cache. The processor foresees long runs of an image only: a Zen 4 takes 1.1 times as long with
// runs of 4096, and 1.3 times with 1024.
constexpr int64_t kRun = 16 * kBlock;

// The coefficients of a run of coordinates, each in an array of its own.
template <class T>
struct TermsOfRun {
  std::vector<T> k_0, k_epsilon, k_y, k_z;

  TermsOfRun() : k_0(kRun), k_epsilon(kRun), k_y(kRun), k_z(kRun) {}
};

template <bool Strict, class T>
RDDM_CLONES void fill_terms(SpectralNumbers<T> c, const T* __restrict s, T* __restrict k_0,
                            T* __restrict k_epsilon, T* __restrict k_y, T* __restrict k_z,
                            int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const SpectralTerms<T> k = spectral_terms<Strict, T>(c, s[i]);
    k_0[i] = k.k_0;
    k_epsilon[i] = k.k_epsilon;
    k_y[i] = k.k_y;
    k_z[i] = k.k_z;
  }
}

// `next` and x_0 may be what is read, element for element, so no pointer to an image is __restrict.
// x_0 is written only if Clean.
template <bool Clean, class T>
RDDM_CLONES void step(SpectralNumbers<T> c, const T* __restrict k_0, const T* __restrict k_epsilon,
                      const T* __restrict k_y, const T* __restrict k_z, const T* x,
                      const T* epsilon, const T* y_bar, const T* z, T* next, T* x_0, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const SpectralResult<T> result = spectral_step<T>(c, {k_0[i], k_epsilon[i], k_y[i], k_z[i]},
                                                      x[i], epsilon[i], y_bar[i], z[i]);
    next[i] = result.next;
    if constexpr (Clean) x_0[i] = result.x_0;
  }
}

// The same for coefficients that serve one sample: they are not kept.
template <bool Strict, bool Clean, class T>
RDDM_CLONES void step_alone(SpectralNumbers<T> c, const T* __restrict s, const T* x,
                            const T* epsilon, const T* y_bar, const T* z, T* next, T* x_0,
                            int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const SpectralResult<T> result =
        spectral_step<T>(c, spectral_terms<Strict, T>(c, s[i]), x[i], epsilon[i], y_bar[i], z[i]);
    next[i] = result.next;
    if constexpr (Clean) x_0[i] = result.x_0;
  }
}

// The tensors of one call. y_bar and s have a row for every sample, or one for all; s may have one
// number for a row.
struct SpectralStepInputs {
  Tensor x, epsilon, y_bar, s;
  std::optional<Tensor> clean;
  NoiseArgument noise;
  int64_t size;  // coordinates of a sample

  SpectralStepInputs(const Tensor& x_, const Tensor& epsilon_, const Tensor& y_bar_,
                     const Tensor& s_, const std::optional<Tensor>& noise_,
                     std::optional<int64_t> seed, int64_t stream,
                     const std::optional<Tensor>& clean_)
      : x(x_),
        epsilon(other(epsilon_, "epsilon")),
        y_bar(torch::stable::contiguous(y_bar_)),
        s(torch::stable::contiguous(s_)),
        clean(clean_) {
    RDDM_CHECK(x.dim() == 2 && x.is_contiguous(),
               "spectral_step_: x must be contiguous, of shape (B, N)");
    size = x.size(1);
    const auto has_rows = [&](const Tensor& t) {
      return t.dim() == 2 && (t.size(0) == 1 || t.size(0) == x.size(0)) && t.device() == x.device();
    };
    RDDM_CHECK(has_rows(y_bar) && y_bar.size(1) == size && y_bar.scalar_type() == x.scalar_type(),
               "spectral_step_: y_bar must be (B or 1, N), in x's dtype on x's device");
    const bool wide = x.scalar_type() == ScalarType::Double;
    RDDM_CHECK(has_rows(s) && (s.size(1) == 1 || s.size(1) == size) &&
                   s.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float),
               "spectral_step_: s must be (B or 1, N or 1), in float32, or in float64 beside "
               "a float64 x, on x's device");
    if (clean) {
      other(*clean, "clean");
      RDDM_CHECK(clean->is_contiguous(), "spectral_step_: clean must be contiguous");
    }
    check_overlap("spectral_step_", {{"x", x_}, {"clean", clean_, 1}},
                  {{"epsilon", epsilon_}, {"y_bar", y_bar_}, {"s", s_}, {"noise", noise_}});
    RDDM_CHECK(!noise_ || !seed, "spectral_step_: pass noise or a seed, not both");
    if (noise_) noise.tensor = other(*noise_, "noise");
    if (seed) {
      noise.drawn = true;
      noise.seed = static_cast<uint64_t>(*seed);
      noise.stream = static_cast<uint64_t>(stream);
    }
  }

  // Where the sample's row of `t` begins.
  static int64_t row(const Tensor& t, int64_t sample) {
    return t.size(0) == 1 ? 0 : sample * t.size(1);
  }

 private:
  Tensor other(const Tensor& t, const char* name) const {
    return matching(t, x, x.scalar_type(), "spectral_step_", name);
  }
};

// The loop of narrow_spectral.h for this call, or null.
template <class Storage>
NarrowSpectral::Walk narrow_walk(const SpectralStepInputs& in) {
  if (sizeof(Storage) != 2 || in.noise.drawn || in.clean) return nullptr;
  static const NarrowSpectral& loops = fastest<NarrowSpectral>(RDDM_EVERY_SET(kNarrowSpectral));
  return loops.walk(std::is_same_v<Storage, BFloat16>);
}

// A run of coordinates at a time. Its coefficients, which take longer than the rest, serve all
// samples that share a row of s.
template <bool Strict, bool Clean, class Storage>
void run(const SpectralStepInputs& in, const SpectralNumbers<Computed<Storage>>& numbers) {
  using T = Computed<Storage>;
  Storage* const x = static_cast<Storage*>(in.x.mutable_data_ptr());
  const T* const s = static_cast<const T*>(in.s.const_data_ptr());
  const int64_t block = block_size(in.noise), rows = in.s.size(0);
  const int64_t runs = (in.size + kRun - 1) / kRun;
  const int64_t samples = in.x.size(0) / std::max<int64_t>(1, rows);  // of a row
  const int64_t grain = std::max<int64_t>(1, kGrain / (kRun * std::max<int64_t>(1, samples)));
  const bool fetched = in.noise.drawn;
  const NarrowSpectral::Walk narrow = narrow_walk<Storage>(in);
  torch::stable::parallel_for(0, rows * runs, grain, [&](int64_t first, int64_t last) {
    Block<Storage, T> state(x, fetched), epsilon(data_of<Storage>(in.epsilon), fetched);
    Block<Storage, T> y_bar(data_of<Storage>(in.y_bar));
    NoiseBlock<Storage, T> noise(in.noise, x, data_of<Storage>(in.epsilon),
                                 data_of<Storage>(in.clean));
    Written<Storage, T> next(x, fetched), clean(data_to<Storage>(in.clean), fetched);
    TermsOfRun<T> k;
    std::vector<T> one_s(in.s.size(1) == 1 ? size_t(kRun) : 0);
    for (int64_t number = first; number < last; ++number) {
      const int64_t row = number / runs, begin = number % runs * kRun;
      const int64_t coordinates = std::min(kRun, in.size - begin);
      const T* values = s + row * in.s.size(1) + begin;
      if (in.s.size(1) == 1) {
        std::fill_n(one_s.data(), coordinates, s[row]);
        values = one_s.data();
      }
      if (samples > 1 || narrow)
        fill_terms<Strict>(numbers, values, k.k_0.data(), k.k_epsilon.data(), k.k_y.data(),
                           k.k_z.data(), coordinates);
      for (int64_t sample = row * samples; sample < (row + 1) * samples; ++sample) {
        const int64_t start_of_y = SpectralStepInputs::row(in.y_bar, sample) + begin;
        if constexpr (sizeof(Storage) == 2) {
          if (narrow) {
            const int64_t i = sample * in.size + begin;
            narrow(numbers,
                   {bits_of<Storage>(in.x, i), bits_of<Storage>(in.epsilon, i),
                    bits_of<Storage>(in.y_bar, start_of_y), bits_of<Storage>(in.noise.tensor, i),
                    k.k_0.data(), k.k_epsilon.data(), k.k_y.data(), k.k_z.data()},
                   reinterpret_cast<uint16_t*>(x + i), coordinates);
            continue;
          }
        }
        for (int64_t j = 0, n; j < coordinates; j += n) {
          n = std::min(block, coordinates - j);
          const int64_t i = sample * in.size + begin + j;
          const T* const z = noise.at(i, n);  // before the images, which it fetches
          T* const x_0 = Clean ? clean.at(i) : nullptr;
          const T *const x_t = state.at(i, n), *const noise_of_x = epsilon.at(i, n);
          const T* const y = y_bar.at(start_of_y + j, n);
          if (samples > 1) {
            step<Clean>(numbers, &k.k_0[j], &k.k_epsilon[j], &k.k_y[j], &k.k_z[j], x_t, noise_of_x,
                        y, z, next.at(i), x_0, n);
          } else {
            step_alone<Strict, Clean>(numbers, values + j, x_t, noise_of_x, y, z, next.at(i), x_0,
                                      n);
          }
          next.done(i, n);
          if constexpr (Clean) clean.done(i, n);
        }
      }
    }
  });
}

void spectral_step_cpu(const Tensor& x, const Tensor& epsilon, const Tensor& y_bar, const Tensor& s,
                       const std::optional<Tensor>& noise, std::optional<int64_t> seed,
                       int64_t stream, bool strict, const std::vector<double>& numbers,
                       const std::optional<Tensor>& clean) {
  using Numbers = SpectralNumbers<double>;
  RDDM_CHECK(numbers.size() == Numbers::kCount, "spectral_step_: a step has ", Numbers::kCount,
             " numbers, not ", numbers.size());
  const SpectralStepInputs in(x, epsilon, y_bar, s, noise, seed, stream, clean);
  for_dtype<true>(in.x.scalar_type(), "spectral_step_: no CPU kernel", [&]<class Storage>() {
    const auto of = SpectralNumbers<Computed<Storage>>::of(numbers.data());
    if (strict && clean) run<true, true, Storage>(in, of);
    if (strict && !clean) run<true, false, Storage>(in, of);
    if (!strict && clean) run<false, true, Storage>(in, of);
    if (!strict && !clean) run<false, false, Storage>(in, of);
  });
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("spectral_step_", TORCH_BOX(&rddm::spectral_step_cpu));
}
