#include "attention_layer/attention_walks.h"

#include <torch/csrc/stable/ops.h>

#include "vectors/instruction_sets.h"

namespace rddm {
namespace {

constexpr int64_t kChunk = 2048;  // pixels of one gathering: fixed, so that threads change no bit
constexpr int64_t kPart = 512;    // pixels whose results are one share of the work

}  // namespace

const AttentionSteps* attention_steps(int64_t channels, int64_t features, int64_t width) {
  static const auto sets = supported<AttentionSteps>(RDDM_EVERY_SET(kAttention));
  return widest(sets, width,
                [&](int64_t own) { return serves_attention(own, channels, features); });
}

int64_t attention_weights_size(const AttentionSteps& steps, int64_t inner, int64_t channels) {
  const int64_t panel = 2 * steps.width;
  return inner * (3 * channels + divided(channels, panel) * panel);
}

void pack_attention(const AttentionSteps& steps, const float* to_qkv, const float* gain,
                    const float* to_out, int64_t inner, int64_t channels, float* to) {
  const int64_t weights = inner * channels;
  steps.pack(to_qkv, gain, inner, channels, to);
  steps.pack(to_qkv + weights, gain, 2 * inner, channels, to + weights);
  steps.pack(to_out, nullptr, channels, inner, to + 3 * weights);
}

void use_packed(const float* packed, Attention& a) {
  const int64_t weights = a.inner() * a.channels;
  a.queries = packed, a.keys_values = packed + weights, a.out = packed + 3 * weights;
}

int64_t AttentionWalks::chunks() const { return divided(a_.pixels, kChunk); }

AttentionContext AttentionWalks::context(int64_t image) const {
  return at(const_cast<float*>(contexts_.data()) + image * chunks() * context_size());
}

void AttentionWalks::gather() {
  const int64_t own = context_size();
  contexts_.resize(batch_ * chunks() * own);
  torch::stable::parallel_for(0, batch_ * chunks(), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> work(own + scratch());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % chunks() * kChunk;
      std::fill_n(work.data(), own, 0.f);
      steps_.gather(a_, image(i / chunks()), first, std::min(first + kChunk, a_.pixels),
                    at(work.data()));
      std::copy_n(work.data(), own, contexts_.data() + i * own);
    }
  });
  for (int64_t n = 0; n < batch_; ++n) {
    float* const first = contexts_.data() + n * chunks() * own;
    for (int64_t i = 1; i < chunks(); ++i) steps_.join(a_, at(first), at(first + i * own));
  }
}

void AttentionWalks::apply() const {
  const int64_t projection = a_.inner() * lanes(), parts = divided(a_.pixels, kPart);
  std::vector<float> projections(batch_ * projection);
  for (int64_t n = 0; n < batch_; ++n) {
    steps_.finish(a_, context(n), projections.data() + n * projection);
  }
  torch::stable::parallel_for(0, batch_ * parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> work(scratch());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % parts * kPart;
      steps_.apply(a_, image(i / parts), first, std::min(first + kPart, a_.pixels),
                   projections.data() + i / parts * projection, work.data());
    }
  });
}

}  // namespace rddm
