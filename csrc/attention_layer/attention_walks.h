// The two walks of linear attention over all images, on torch's threads.
//
// The first walk gathers what the keys and values of all pixels say: it takes chunks of a fixed
// size, each with the largest key so far, and joins them in order. The second computes the results.
#pragma once

#include <algorithm>
#include <vector>

#include "attention_layer/attention.h"
#include "vectors/packed_weights.h"

namespace rddm {

// The widest vectors that the channels and the features of a head divide into; null if none.
// `width` is 0, or the vectors' length.
const AttentionSteps* attention_steps(int64_t channels, int64_t features, int64_t width);

// Whether vectors of a length serve so many channels and features of a head.
constexpr bool serves_attention(int64_t width, int64_t channels, int64_t features) {
  return channels % width == 0 && features % (2 * width) == 0;
}

// The size of the packed weights, in float32 values.
int64_t attention_weights_size(const AttentionSteps&, int64_t inner, int64_t channels);

// Packs the weights of the queries, then of the keys and values, each channel times its gain if
// there are gains, and then of the output.
void pack_attention(const AttentionSteps&, const float* to_qkv, const float* gain,
                    const float* to_out, int64_t inner, int64_t channels, float* to);

// Lets the walks read weights that were packed so.
void use_packed(const float* packed, Attention&);

class AttentionWalks {
 public:
  AttentionWalks(const AttentionSteps& steps, const Attention& a, AttentionImage images,
                 int64_t batch)
      : steps_(steps), a_(a), images_(images), batch_(batch) {}

  void gather();
  // After gather().
  void apply() const;
  AttentionContext context(int64_t image) const;

 private:
  int64_t chunks() const;
  int64_t context_size() const { return a_.inner() * (2 + a_.features); }
  int64_t lanes() const { return divided(a_.channels, 2 * steps_.width) * 2 * steps_.width; }
  int64_t scratch() const { return steps_.pixels * (lanes() + 2 * a_.inner()); }
  AttentionContext at(float* data) const {
    return {data, data + a_.inner(), data + 2 * a_.inner()};
  }
  AttentionImage image(int64_t i) const {
    const int64_t bytes = i * a_.pixels * a_.channels * (images_.is_bfloat16 ? 2 : 4);
    return {static_cast<const char*>(images_.x) + bytes, static_cast<char*>(images_.result) + bytes,
            images_.is_bfloat16};
  }

  const AttentionSteps& steps_;
  const Attention& a_;
  AttentionImage images_;
  int64_t batch_;
  std::vector<float> contexts_;  // of each chunk; an image's first one is joined with its others
};

}  // namespace rddm
