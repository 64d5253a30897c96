// spectral_step_ on two-byte coordinates, for the instruction set that this file is compiled for.
#include "spectral_step/narrow_spectral.h"

#include "vectors/stored.h"

namespace rddm {
namespace {

#if defined(RDDM_CONVERTS_STORED)

// Values by which memory is asked for before its use: 2 KiB. Without it a Zen 4 takes 1.05 times as
// long.
constexpr int64_t kAhead = 1024;

template <Stored S>
void walk(const SpectralNumbers<float>& numbers, const NarrowCoordinates& in, uint16_t* next,
          int64_t n) {
  SpectralNumbers<Vec> c{};
  c.sigma_t = all(numbers.sigma_t);
  c.inv_root_a_t = all(numbers.inv_root_a_t);
  const StoredInput x(in.x), epsilon(in.epsilon), y_bar(in.y_bar), noise(in.noise);
  int64_t i = 0;
#pragma GCC unroll 2
  for (; i + kWidth <= n; i += kWidth) {
    x.prefetch(i + kAhead);
    epsilon.prefetch(i + kAhead);
    noise.prefetch(i + kAhead);
    const SpectralTerms<Vec> k = {load(in.k_0 + i), load(in.k_epsilon + i), load(in.k_y + i),
                                  load(in.k_z + i)};
    const auto result =
        spectral_step<Vec>(c, k, x.at<S>(i), epsilon.at<S>(i), y_bar.at<S>(i), noise.at<S>(i));
    put_narrowed<S>(next + i, result.next);
  }
  if (const int64_t rest = n - i; rest > 0) {
    const SpectralTerms<Vec> k = {load_some(in.k_0 + i, rest), load_some(in.k_epsilon + i, rest),
                                  load_some(in.k_y + i, rest), load_some(in.k_z + i, rest)};
    const auto result = spectral_step<Vec>(c, k, x.last<S>(i, rest), epsilon.last<S>(i, rest),
                                           y_bar.last<S>(i, rest), noise.last<S>(i, rest));
    put_narrowed<S>(next + i, result.next, rest);
  }
}

NarrowSpectral::Walk walk_for(bool bfloat16) {
  return bfloat16 ? &walk<Stored::kBfloat16> : &walk<Stored::kFloat16>;
}

#else

NarrowSpectral::Walk walk_for(bool) { return nullptr; }

#endif

}  // namespace

const NarrowSpectral RDDM_OF_SET(kNarrowSpectral) = {RDDM_SET_NAME, &is_supported, &walk_for};

}  // namespace rddm
