// joint_loss on the CPU.
#include "joint_loss/joint_loss.h"

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "common/cpu_results.h"
#include "common/dispatch.h"
#include "joint_loss/joint_loss_inputs.h"
#include "joint_loss/narrow_losses.h"

namespace rddm {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kNarrowBlock =
    4096;  // values that narrow_losses.h adds up in float32, 256 a lane

// The sum of n <= kBlock values, in an order that does not depend on the machine.
template <class T>
RDDM_CLONES double sum(const T* __restrict x, int64_t n) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane];
  }
  for (int64_t lane = 0; i < n; ++i, ++lane) lanes[lane] += x[i];
  double total = 0;
  for (const T lane : lanes) total += double(lane);
  return total;
}

template <Objective O, bool Squared, class T>
RDDM_CLONES void terms(const T* __restrict I_0, const T* __restrict I_in, const T* __restrict noise,
                       const T* __restrict out0, const T* __restrict out1, T scale0, T scale1,
                       T* __restrict value0, T* __restrict value1, T* __restrict derivative0,
                       T* __restrict derivative1, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto t =
        joint_loss<O, Squared, T>(I_0[i], I_in[i], noise[i], out0[i], out1[i], scale0, scale1);
    value0[i] = t.value0;
    derivative0[i] = t.derivative0;
    if constexpr (has_two_outputs(O)) {
      value1[i] = t.value1;
      derivative1[i] = t.derivative1;
    }
  }
}

template <class T>
using Terms = void (*)(const T*, const T*, const T*, const T*, const T*, T, T, T*, T*, T*, T*,
                       int64_t);

template <class T>
Terms<T> terms_for(Objective objective, bool squared) {
  Terms<T> chosen = nullptr;
  for_objective(objective,
                [&]<Objective O>() { chosen = squared ? terms<O, true, T> : terms<O, false, T>; });
  return chosen;
}

// The loop of narrow_losses.h for this call, or null.
template <class Image, class Output>
NarrowLosses::Walk narrow_walk(const JointLossInputs& in) {
  if (!std::is_same_v<Image, Output> || sizeof(Image) != 2 || in.noise.drawn) return nullptr;
  static const NarrowLosses& loops = fastest<NarrowLosses>(RDDM_EVERY_SET(kNarrowLosses));
  return loops.walk(in.objective, in.squared, std::is_same_v<Image, BFloat16>);
}

template <class Image, class Output, class T>
void run(const JointLossInputs& in, double weight0, double weight1, T* loss, T* parts) {
  if (in.lam) {
    weight0 = *data_of<float>(in.lam);
    weight1 = 1 - weight0;
  }
  const bool two = has_two_outputs(in.objective);
  const T scale0 = T(weight0 * in.scale), scale1 = T(weight1 * in.scale);
  const Terms<T> terms = terms_for<T>(in.objective, in.squared);
  const NarrowLosses::Walk narrow = narrow_walk<Image, Output>(in);
  Output* const gradient0 = static_cast<Output*>(in.gradient0.tensor.mutable_data_ptr());
  Output* const gradient1 = static_cast<Output*>(in.gradient1.tensor.mutable_data_ptr());
  const int64_t numel = in.out0.numel(), size = narrow ? kNarrowBlock : block_size(in.noise);
  const int64_t blocks = (numel + size - 1) / size;
  std::vector<double> sums0(blocks), sums1(blocks);  // per block, not per thread: a fixed order
  const bool fetched = in.noise.drawn;
  torch::stable::parallel_for(0, blocks, kGrain / size, [&](int64_t first, int64_t last) {
    Block<Image, T> I_0(data_of<Image>(in.I_0), fetched), I_in(data_of<Image>(in.I_in), fetched);
    Block<Output, T> out0(data_of<Output>(in.out0), fetched),
        out1(data_of<Output>(in.out1), fetched);
    NoiseBlock<Image, T> noise(in.noise, data_of<Image>(in.I_0), data_of<Image>(in.I_in),
                               data_of<Output>(in.out0), data_of<Output>(in.out1), gradient0,
                               gradient1);
    Written<Output, T> to0(gradient0, fetched), to1(gradient1, fetched);
    alignas(64) T values0[kBlock], values1[kBlock], unused[kBlock];
    for (int64_t block = first; block < last; ++block) {
      const int64_t i = block * size, n = std::min(size, numel - i);
      if constexpr (std::is_same_v<Image, Output> && sizeof(Image) == 2) {
        if (narrow) {
          const auto bits = [i](const auto& x) { return bits_of<Image>(x, i); };
          const LossSums sums = narrow(
              {bits(in.I_0), bits(in.I_in), bits(in.noise.tensor), bits(in.out0), bits(in.out1)},
              scale0, scale1, reinterpret_cast<uint16_t*>(gradient0 + i),
              reinterpret_cast<uint16_t*>(gradient1 + i), n);
          sums0[block] = sums.of0;
          sums1[block] = sums.of1;
          continue;
        }
      }
      const T* const z = noise.at(i, n);  // before the images, which it fetches
      terms(I_0.at(i, n), I_in.at(i, n), z, out0.at(i, n), out1.at(i, n), scale0, scale1, values0,
            values1, to0.at(i), two ? to1.at(i) : unused, n);
      sums0[block] = sum(values0, n);
      to0.done(i, n);
      if (two) {
        sums1[block] = sum(values1, n);
        to1.done(i, n);
      }
    }
  });
  double total0 = 0, total1 = 0;
  for (const double s : sums0) total0 += s;
  for (const double s : sums1) total1 += s;
  const double mean0 = total0 / double(numel), mean1 = two ? total1 / double(numel) : 0.0;
  parts[0] = T(mean0);
  parts[1] = T(mean1);
  *loss = T(two ? weight0 * mean0 + weight1 * mean1 : weight0 * mean0);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> joint_loss_cpu(
    const Tensor& out0, const std::optional<Tensor>& out1, const Tensor& I_0,
    const std::optional<Tensor>& I_in, const std::optional<Tensor>& noise,
    std::optional<int64_t> seed, int64_t stream, const std::optional<Tensor>& lam, double weight0,
    double weight1, int64_t objective, bool squared) {
  const JointLossInputs in(out0, out1, I_0, I_in, noise, seed, stream, objective, squared, lam);
  const bool wide = in.out0.scalar_type() == ScalarType::Double;
  const auto dtype = wide ? ScalarType::Double : ScalarType::Float;
  Tensor loss = torch::stable::new_empty(out0, {}, dtype);
  Tensor parts = torch::stable::new_empty(out0, {2}, dtype);
  for_pair<true>(in.I_0.scalar_type(), in.out0.scalar_type(), "joint_loss: no CPU kernel for I_0",
                 [&]<class Image, class Output>() {
                   using T = Computed<Image>;
                   run<Image, Output, T>(in, weight0, weight1,
                                         static_cast<T*>(loss.mutable_data_ptr()),
                                         static_cast<T*>(parts.mutable_data_ptr()));
                 });
  return {loss, parts, in.gradient0.finish(), in.gradient1.finish()};
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("joint_loss", TORCH_BOX(&rddm::joint_loss_cpu));
}
