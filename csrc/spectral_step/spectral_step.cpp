// spectral_step_ on the CPU.
#include "spectral_step/spectral_step.h"
#include "check.h"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "common/cpu_results.h"
#include "common/dispatch.h"
#include "common/overlap.h"

namespace rddm {
namespace {

// The coefficients of a block of coordinates, each in an array of its own.
template <class T>
struct TermsBlock {
  alignas(64) T k_0[kBlock];
  alignas(64) T k_epsilon[kBlock];
  alignas(64) T k_y[kBlock];
  alignas(64) T k_z[kBlock];
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
RDDM_CLONES void step(SpectralNumbers<T> c, const TermsBlock<T>& k, const T* x, const T* epsilon,
                      const T* y_bar, const T* z, T* next, T* x_0, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const SpectralResult<T> result = spectral_step<T>(
        c, {k.k_0[i], k.k_epsilon[i], k.k_y[i], k.k_z[i]}, x[i], epsilon[i], y_bar[i], z[i]);
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

// A block of coordinates at a time. Its coefficients, which take longer than the rest, serve all
// samples that share a row of s.
template <bool Strict, bool Clean, class Storage>
void run(const SpectralStepInputs& in, const SpectralNumbers<Computed<Storage>>& numbers) {
  using T = Computed<Storage>;
  Storage* const x = static_cast<Storage*>(in.x.mutable_data_ptr());
  const T* const s = static_cast<const T*>(in.s.const_data_ptr());
  const int64_t block = block_size(in.noise), rows = in.s.size(0);
  const int64_t blocks = (in.size + block - 1) / block;
  const int64_t samples = in.x.size(0) / std::max<int64_t>(1, rows);  // of a row
  const int64_t grain = std::max<int64_t>(1, kGrain / (block * std::max<int64_t>(1, samples)));
  const bool fetched = in.noise.drawn;
  torch::stable::parallel_for(0, rows * blocks, grain, [&](int64_t first, int64_t last) {
    Block<Storage, T> state(x, fetched), epsilon(data_of<Storage>(in.epsilon), fetched);
    Block<Storage, T> y_bar(data_of<Storage>(in.y_bar));
    NoiseBlock<Storage, T> noise(in.noise, x, data_of<Storage>(in.epsilon),
                                 data_of<Storage>(in.clean));
    Written<Storage, T> next(x, fetched), clean(data_to<Storage>(in.clean), fetched);
    TermsBlock<T> terms;
    alignas(64) T one_s[kBlock];
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t row = piece / blocks, begin = piece % blocks * block;
      const int64_t n = std::min(block, in.size - begin);
      const T* values = s + row * in.s.size(1) + begin;
      if (in.s.size(1) == 1) {
        std::fill_n(one_s, n, s[row]);
        values = one_s;
      }
      fill_terms<Strict>(numbers, values, terms.k_0, terms.k_epsilon, terms.k_y, terms.k_z, n);
      for (int64_t sample = row * samples; sample < (row + 1) * samples; ++sample) {
        const int64_t i = sample * in.size + begin;
        // The samples' blocks are far apart, so the processor does not foresee the next one.
        const int64_t later_step = sample - row * samples + kBlocksAhead;
        const int64_t later_begin = begin + later_step / samples * block;
        const int64_t later_sample = row * samples + later_step % samples;
        const int64_t later = later_sample * in.size + later_begin;
        const T* const z = noise.at(i, n, later);  // before the images, which it fetches
        T* const x_0 = Clean ? clean.at(i) : nullptr;
        step<Clean>(numbers, terms, state.at(i, n, later), epsilon.at(i, n, later),
                    y_bar.at(SpectralStepInputs::row(in.y_bar, sample) + begin, n,
                             SpectralStepInputs::row(in.y_bar, later_sample) + later_begin),
                    z, next.at(i), x_0, n);
        next.done(i, n);
        if constexpr (Clean) clean.done(i, n);
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
