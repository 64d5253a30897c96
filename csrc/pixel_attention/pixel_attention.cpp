// pixel_attention on the CPU, and its gradients: linear attention with its projections, in float32.
// Everything between the pixels' values and the results stays in the cache. The backward walks
// compute queries, keys and values again.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "attention_layer/attention_walks.h"
#include "check.h"
#include "common/tensors.h"
#include "pixel_attention/attention_gradients.h"
#include "vectors/instruction_sets.h"

namespace rddm {
namespace {

// All are fixed, so that threads change no bit.
constexpr int64_t kChunk = 1024;  // pixels of a share of the work
constexpr int64_t kShares = 64;   // at most: each has a gradient of the weights of its own

struct Shapes {
  int64_t batch, pixels, channels, inner;

  Shapes(const char* op, const Tensor& x, const Tensor& to_qkv, const Tensor& to_out,
         int64_t heads) {
    const auto is_matrix = [](const Tensor& t, int64_t dim) {
      return t.dim() == dim && t.scalar_type() == ScalarType::Float && t.is_contiguous();
    };
    RDDM_CHECK(is_matrix(x, 3) && is_matrix(to_qkv, 2) && is_matrix(to_out, 2) && heads > 0 &&
                   to_out.size(0) == x.size(2) && to_qkv.size(1) == x.size(2) &&
                   to_qkv.size(0) == 3 * to_out.size(1) && to_out.size(1) % heads == 0,
               op,
               ": x (B, pixels, C), to_qkv (3 heads features, C) and to_out (C, heads "
               "features) must be contiguous and float32");
    batch = x.size(0), pixels = x.size(1), channels = x.size(2), inner = to_out.size(1);
  }

  float scale(double given) const { return float(given / double(std::max<int64_t>(pixels, 1))); }
};

std::tuple<Tensor, Tensor, Tensor> pixel_attention_cpu(const Tensor& x, const Tensor& to_qkv,
                                                       const Tensor& to_out, const Tensor& bias,
                                                       int64_t heads, double scale) {
  const Shapes s("pixel_attention", x, to_qkv, to_out, heads);
  const AttentionSteps* const steps = attention_steps(s.channels, s.inner / heads, 0);
  RDDM_CHECK(steps, "pixel_attention: the channels and features divide into no vectors");
  RDDM_CHECK(is_packed(bias) && bias.size(0) == s.channels,
             "pixel_attention: bias must be float32, one value a channel");
  const int64_t features = s.inner / heads;
  Tensor out = torch::stable::empty_like(x);
  Tensor keys = torch::stable::new_empty(x, {s.batch, s.inner});
  Tensor contexts = torch::stable::new_empty(x, {s.batch, s.inner, features});
  if (x.numel() == 0) {
    return {out, torch::stable::zero_(keys), torch::stable::zero_(contexts)};
  }
  std::vector<float> packed(attention_weights_size(*steps, s.inner, s.channels));
  pack_attention(*steps, data_of<float>(to_qkv), nullptr, data_of<float>(to_out), s.inner,
                 s.channels, packed.data());
  Attention a;
  a.pixels = s.pixels, a.channels = s.channels, a.heads = heads, a.features = features;
  a.has_norms = false, a.scale = s.scale(scale), a.bias = data_of<float>(bias);
  use_packed(packed.data(), a);
  AttentionWalks walks(*steps, a, {data_of<float>(x), data_to<float>(out), false}, s.batch);
  walks.gather();
  walks.apply();
  float *log_sum = data_to<float>(keys), *context = data_to<float>(contexts);
  for (int64_t n = 0; n < s.batch; ++n) {
    const AttentionContext own = walks.context(n);
    for (int64_t i = 0; i < s.inner; ++i, ++log_sum) {
      *log_sum = own.largest[i] + std::log(own.total[i]);
      for (int64_t e = 0; e < features; ++e, ++context) {
        *context = own.values[i * features + e] / own.total[i];
      }
    }
  }
  return {out, keys, contexts};
}

const AttentionGradientSteps* gradient_steps(int64_t channels, int64_t features) {
  static const auto sets = supported<AttentionGradientSteps>(RDDM_EVERY_SET(kAttentionGradients));
  return widest(sets, 0, [&](int64_t own) { return serves_attention(own, channels, features); });
}

// to += all of the others, one behind the other.
void add_up(const float* others, int64_t n, int64_t size, float* to) {
  std::fill_n(to, size, 0.f);
  for (int64_t i = 0; i < n; ++i, others += size) {
    for (int64_t j = 0; j < size; ++j) to[j] += others[j];
  }
}

std::vector<float> transposed(const float* x, int64_t rows, int64_t columns) {
  std::vector<float> y(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) y[j * rows + i] = x[i * columns + j];
  }
  return y;
}

class Backward {
 public:
  Backward(const AttentionGradientSteps& steps, const AttentionGradients& a, int64_t batch,
           AttentionGradientImage images)
      : steps_(steps), a_(a), batch_(batch), images_(images) {}

  // The gradients of to_qkv (3 inner, channels), to_out (inner, channels) and the bias.
  void run(float* qkv, float* out, float* bias) const {
    const int64_t chunks = divided(a_.pixels, kChunk), inner = a_.inner();
    const int64_t lanes = divided(a_.channels, 2 * steps_.width) * 2 * steps_.width;
    const int64_t own = a_.projection_size(), matrices = ContextGradients::size(a_);
    std::vector<float> sums(batch_ * chunks * own);
    torch::stable::parallel_for(0, batch_ * chunks, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(steps_.pixels * (2 * a_.channels + inner));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % chunks * kChunk;
        steps_.sum_projection(a_, image(i / chunks), first, std::min(first + kChunk, a_.pixels),
                              sums.data() + i * own, scratch.data());
      }
    });
    std::vector<float> contexts(batch_ * matrices), outs(batch_ * inner * a_.channels);
    std::vector<float> biases(batch_ * a_.channels);
    torch::stable::parallel_for(0, batch_, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(inner * (a_.channels + a_.features) + a_.features * a_.features),
          total(own);
      for (int64_t n = begin; n < end; ++n) {
        add_up(sums.data() + n * chunks * own, chunks, own, total.data());
        steps_.turn(a_, image(n), total.data(), of_image(contexts, n),
                    outs.data() + n * inner * a_.channels, scratch.data());
        std::copy_n(total.data() + inner * a_.channels, a_.channels,
                    biases.data() + n * a_.channels);
      }
    });
    add_up(outs.data(), batch_, inner * a_.channels, out);
    add_up(biases.data(), batch_, a_.channels, bias);
    const int64_t all = batch_ * chunks, shares = std::min(all, kShares);
    std::vector<float> weights(shares * a_.qkv_size());
    torch::stable::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(steps_.pixels * (a_.channels + lanes + 6 * inner));
      for (int64_t share = begin; share < end; ++share) {
        for (int64_t i = share * all / shares; i < (share + 1) * all / shares; ++i) {
          const int64_t first = i % chunks * kChunk;
          steps_.apply(a_, image(i / chunks), of_image(contexts, i / chunks), first,
                       std::min(first + kChunk, a_.pixels), weights.data() + share * a_.qkv_size(),
                       scratch.data());
        }
      }
    });
    add_up(weights.data(), shares, a_.qkv_size(), qkv);
  }

 private:
  AttentionGradientImage image(int64_t n) const {
    const int64_t at = n * a_.pixels * a_.channels, inner = a_.inner();
    return {images_.x + at, images_.grad + at, images_.x_grad + at, images_.keys + n * inner,
            images_.context + n * inner * a_.features};
  }
  ContextGradients of_image(std::vector<float>& contexts, int64_t n) const {
    return {a_, contexts.data() + n * ContextGradients::size(a_)};
  }

  const AttentionGradientSteps& steps_;
  const AttentionGradients& a_;
  int64_t batch_;
  AttentionGradientImage images_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor> pixel_attention_backward_cpu(
    const Tensor& grad, const Tensor& x, const Tensor& to_qkv, const Tensor& to_out,
    const Tensor& keys, const Tensor& context, int64_t heads, double scale) {
  const Shapes s("pixel_attention_backward", x, to_qkv, to_out, heads);
  const int64_t features = s.inner / heads;
  const AttentionGradientSteps* const steps = gradient_steps(s.channels, features);
  RDDM_CHECK(steps, "pixel_attention_backward: the channels and features divide into no vectors");
  const auto has = [](const Tensor& t, int64_t dim, int64_t values) {
    return t.dim() == dim && t.numel() == values && t.scalar_type() == ScalarType::Float;
  };
  RDDM_CHECK(has(grad, 3, x.numel()) && has(keys, 2, s.batch * s.inner) &&
                 has(context, 3, s.batch * s.inner * features) && keys.is_contiguous() &&
                 context.is_contiguous(),
             "pixel_attention_backward: grad must have x's shape, and keys and context be "
             "those that pixel_attention returned");
  const Tensor grads = torch::stable::contiguous(grad);
  Tensor x_grad = torch::stable::empty_like(x), qkv_grad = torch::stable::empty_like(to_qkv);
  Tensor out_grad = torch::stable::empty_like(to_out);
  Tensor bias_grad = torch::stable::new_empty(x, {s.channels});
  const std::vector<float> qkv = transposed(data_of<float>(to_qkv), 3 * s.inner, s.channels);
  const std::vector<float> out = transposed(data_of<float>(to_out), s.channels, s.inner);
  std::vector<float> packed(qkv.size()), back(3 * s.inner * (s.channels + 2 * steps->width));
  steps->pack(data_of<float>(to_qkv), 3 * s.inner, s.channels, packed.data());
  steps->pack(qkv.data(), s.channels, 3 * s.inner, back.data());
  AttentionGradients a;
  a.pixels = s.pixels, a.channels = s.channels, a.heads = heads, a.features = features;
  a.scale = s.scale(scale), a.qkv = packed.data(), a.back = back.data(), a.out = out.data();
  std::vector<float> turned(s.inner * s.channels);
  Backward(*steps, a, s.batch,
           {data_of<float>(x), data_of<float>(grads), data_to<float>(x_grad), data_of<float>(keys),
            data_of<float>(context)})
      .run(data_to<float>(qkv_grad), turned.data(), data_to<float>(bias_grad));
  const std::vector<float> straight = transposed(turned.data(), s.inner, s.channels);
  std::copy_n(straight.data(), straight.size(), data_to<float>(out_grad));
  return {x_grad, qkv_grad, out_grad, bias_grad};
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("pixel_attention", TORCH_BOX(&rddm::pixel_attention_cpu));
  m.impl("pixel_attention_backward", TORCH_BOX(&rddm::pixel_attention_backward_cpu));
}
