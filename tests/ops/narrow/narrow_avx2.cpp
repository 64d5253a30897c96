// The AVX2 loops on two-byte images, for test_narrow_avx2.py, which compiles them alone.
#include "group_norm_silu/narrow_activation.h"
#include "joint_loss/narrow_losses.h"
#include "range_null_step/narrow_joined.h"
#include "reverse_step/narrow_steps.h"
#include "spectral_step/narrow_spectral.h"
#include "tacos_step/tacos_planes.h"

using namespace rddm;

extern "C" {

bool supported() { return kNarrowStepsAvx2.is_supported(); }

void reverse_step(int objective, int terms, bool bfloat16, const float* c,
                  const uint16_t* const* images, uint16_t* next, int64_t n) {
  const StepCoefficients<float> coefficients = {c[0], c[1], c[2], c[3],  c[4],  c[5],  c[6],
                                                c[7], c[8], c[9], c[10], c[11], c[12], c[13]};
  kNarrowStepsAvx2.walk(Objective(objective), StepTerms(terms), bfloat16)(
      coefficients, {images[0], images[1], images[2], images[3], images[4]}, next, n);
}

void range_null_step(bool bfloat16, const double* numbers, const float* weights, float inverse,
                     const uint16_t* const* images, const uint8_t* mask, uint16_t* to, int64_t n) {
  NarrowPlanes planes{};
  for (int c = 0; c < 3; ++c) {
    planes.x_t[c] = images[0] + c * n, planes.epsilon[c] = images[1] + c * n;
    planes.noise[c] = images[2] + c * n, planes.pinv_y[c] = images[3] + c * n;
    planes.to[c] = to + c * n;
  }
  planes.mask = mask;
  kNarrowJoinedAvx2.walk(bfloat16)(RangeNullNumbers<float>::of(numbers), weights, inverse, planes,
                                   n);
}

void tacos_step(int kind, int stored, float first, float second, const char* x_s, const char* x_0,
                const float* layer_s, const float* layer_to, char* to, int64_t n) {
  const int64_t plane = n * (Stored(stored) == Stored::kFloat32 ? 4 : 2);
  TacosPlanes planes{};
  for (int c = 0; c < 3; ++c) {
    planes.x_s[c] = x_s + c * plane, planes.x_0[c] = x_0 + c * plane;
    planes.to[c] = to + c * plane;
  }
  planes.layer_s = layer_s, planes.layer_to = layer_to;
  kTacosPlanesAvx2.walk(TacosKind(kind), Stored(stored))(first, second, planes, n);
}

void spectral_step(bool bfloat16, float sigma_t, float inv_root_a_t, const uint16_t* const* images,
                   const float* const* terms, uint16_t* next, int64_t n) {
  SpectralNumbers<float> numbers{};
  numbers.sigma_t = sigma_t, numbers.inv_root_a_t = inv_root_a_t;
  kNarrowSpectralAvx2.walk(bfloat16)(
      numbers, {images[0], images[1], images[2], images[3], terms[0], terms[1], terms[2], terms[3]},
      next, n);
}

void joint_loss(int objective, bool squared, bool bfloat16, const float* scales,
                const uint16_t* const* images, uint16_t* const* derivatives, double* sums,
                int64_t n) {
  const LossSums found = kNarrowLossesAvx2.walk(Objective(objective), squared, bfloat16)(
      {images[0], images[1], images[2], images[3], images[4]}, scales[0], scales[1], derivatives[0],
      derivatives[1], n);
  sums[0] = found.of0, sums[1] = found.of1;
}

void group_norm_silu(bool bfloat16, const uint16_t* x, const float* factors, const float* terms,
                     const uint16_t* rest, uint16_t* y, int64_t n) {
  kNarrowActivationAvx2.walk(bfloat16)(x, factors, terms, rest, y, n);
}
}
