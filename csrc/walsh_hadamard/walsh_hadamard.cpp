// walsh_hadamard on the CPU: one walk, or two for images of more than 4096 pixels.
//
// The first walk takes 4096 values at a time, through buffers in the first-level cache: the stages
// of their indices' 12 bits. Of a larger image's values, every 4096th is still to be combined. The
// second walk takes a panel of adjacent columns of these, through such buffers again.
#include "walsh_hadamard/walsh_hadamard.h"
#include "check.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "common/dispatch.h"

namespace rddm {
namespace {

constexpr int kChunkBits = 12;
constexpr int64_t kChunk = 1 << kChunkBits;  // 16 KiB in float32
constexpr int64_t kLine = 64;                // bytes

// A panel's buffer: 32 KiB, or more for the many rows of a large image, at least a line of each.
int64_t columns_of(int64_t rows, int64_t size) {
  return std::clamp<int64_t>((32 << 10) / size / rows, kLine / size, 64);
}

template <class T, int... Bits>
constexpr auto tile_table(std::integer_sequence<int, Bits...>) {
  return std::array{&within_tiles<Bits, T>...};
}

template <bool Last, class T, int... Bits>
constexpr auto row_table(std::integer_sequence<int, Bits...>) {
  return std::array{&across_rows<Bits, Last, T>...};
}

// The loops by the number of their bits.
template <class T>
constexpr auto kWithinTiles = tile_table<T>(std::make_integer_sequence<int, kTileBits + 1>());
template <bool Last, class T>
constexpr auto kAcrossRows = row_table<Last, T>(std::make_integer_sequence<int, 5>());

// The stages of the lowest 12 bits, or of all `bits` if those are fewer, in n values: whole images,
// or kChunk values of one.
template <class Storage, class T>
class Chunks {
 public:
  explicit Chunks(int bits, T factor)
      : bits_(std::min(bits, kChunkBits)), last_(bits <= kChunkBits), factor_(factor) {}

  int64_t size() const { return std::max(int64_t(1) << bits_, kTile); }

  void run(const Storage* from, T* to, int64_t n) {
    const T* source = in_precision(from, n);
    const int64_t tiles = size() / kTile;
    kWithinTiles<T>[std::min(bits_, kTileBits)](source, tiled_, tiles);
    const int rows = std::max(bits_ - kTileBits, 0);
    T* const target = n < size() ? wide_ : to;
    const auto across = last_ ? kAcrossRows<true, T>[rows] : kAcrossRows<false, T>[rows];
    across(tiled_, kTile, target, kTile, kTile, factor_);
    if (target != to) std::copy_n(target, n, to);
  }

 private:
  const T* in_precision(const Storage* from, int64_t n) {
    if constexpr (std::is_same_v<Storage, T>) {
      if (n == size()) return from;
      std::copy_n(from, n, wide_);
    } else {
      widen(from, wide_, n);
    }
    std::fill(wide_ + n, wide_ + size(), T(0));  // Small images may not fill a tile.
    return wide_;
  }

  int bits_;
  bool last_;
  T factor_;
  alignas(64) T wide_[kChunk], tiled_[kChunk];
};

// The remaining stages of one image, whose rows of kChunk values are the first walk's chunks.
template <class Storage, class T>
class Panels {
 public:
  Panels(int bits, T factor) : factor_(factor), rows_(int64_t(1) << (bits - kChunkBits)) {
    columns_ = columns_of(rows_, sizeof(T));
    // At least two passes: one into the buffer, one out of it. None takes more than four bits.
    const int all = bits - kChunkBits, passes = std::max(2, (all + 3) / 4);
    for (int done = 0; done < all || int(bits_.size()) < passes;) {
      const int left = passes - int(bits_.size());
      bits_.push_back((all - done + left - 1) / left);
      done += bits_.back();
    }
    buffers_.resize(2 * rows_ * columns_);
  }

  int64_t columns() const { return columns_; }

  void run(const T* from, Storage* to) {
    T *here = buffers_.data(), *there = here + rows_ * columns_;
    int done = 0;
    for (size_t pass = 0; pass + 1 < bits_.size(); ++pass) {
      if (pass == 0) {
        across(kAcrossRows<false, T>, 0, bits_[0], from, kChunk, here, columns_);
      } else {
        across(kAcrossRows<false, T>, done, bits_[pass], here, columns_, there, columns_);
        std::swap(here, there);
      }
      done += bits_[pass];
    }
    if constexpr (std::is_same_v<Storage, T>) {
      across(kAcrossRows<true, T>, done, bits_.back(), here, columns_, to, kChunk);
    } else {
      across(kAcrossRows<true, T>, done, bits_.back(), here, columns_, there, columns_);
      for (int64_t row = 0; row < rows_; ++row) {
        round_to(there + row * columns_, to + row * kChunk, columns_);
      }
    }
  }

 private:
  // The stages of `bits` bits of a row's number, behind the `done` lowest.
  template <class Table>
  void across(const Table& table, int done, int bits, const T* from, int64_t from_stride, T* to,
              int64_t to_stride) const {
    const int64_t low = int64_t(1) << done, group = low << bits;
    for (int64_t first = 0; first < rows_; first += group) {
      for (int64_t row = first; row < first + low; ++row) {
        table[bits](from + row * from_stride, from_stride * low, to + row * to_stride,
                    to_stride * low, columns_, factor_);
      }
    }
  }

  T factor_;
  int64_t rows_, columns_;
  std::vector<int> bits_;
  std::vector<T> buffers_;
};

template <class Storage>
void run(const Tensor& x, Tensor& result, int bits) {
  using T = Computed<Storage>;
  const int64_t numel = x.numel();
  const T factor = T(std::pow(double(int64_t(1) << bits), -0.5));  // as the reference
  const Storage* const from = static_cast<const Storage*>(x.const_data_ptr());
  Storage* const to = static_cast<Storage*>(result.mutable_data_ptr());
  const bool two_walks = bits > kChunkBits;

  // Between the walks the values are in the computation's precision.
  std::optional<Tensor> kept;
  T* between = nullptr;
  if constexpr (std::is_same_v<Storage, T>) {
    between = to;
  } else if (two_walks) {
    kept = torch::stable::new_empty(x, {numel}, kDtype<T>);
    between = static_cast<T*>(kept->mutable_data_ptr());
  }

  const int64_t size = Chunks<Storage, T>(bits, factor).size();
  const int64_t chunks = (numel + size - 1) / size;
  torch::stable::parallel_for(0, chunks, std::max<int64_t>(1, kGrain / size),
                              [&](int64_t first, int64_t last) {
                                Chunks<Storage, T> chunk(bits, factor);
                                alignas(64) T computed[std::is_same_v<Storage, T> ? 1 : kChunk];
                                for (int64_t i = first; i < last; ++i) {
                                  const int64_t begin = i * size, n = std::min(size, numel - begin);
                                  if constexpr (std::is_same_v<Storage, T>) {
                                    chunk.run(from + begin, to + begin, n);
                                  } else if (two_walks) {
                                    chunk.run(from + begin, between + begin, n);
                                  } else {
                                    chunk.run(from + begin, computed, n);
                                    round_to(computed, to + begin, n);
                                  }
                                }
                              });
  if (!two_walks) return;

  const int64_t image = int64_t(1) << bits, columns = Panels<Storage, T>(bits, factor).columns();
  const int64_t panels = kChunk / columns;  // of an image
  torch::stable::parallel_for(0, numel / image * panels,
                              std::max<int64_t>(1, kGrain * panels / image),
                              [&](int64_t first, int64_t last) {
                                Panels<Storage, T> panel(bits, factor);
                                for (int64_t i = first; i < last; ++i) {
                                  const int64_t begin = i / panels * image + i % panels * columns;
                                  panel.run(between + begin, to + begin);
                                }
                              });
}

bool is_power_of_2(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

Tensor walsh_hadamard_cpu(const Tensor& x) {
  const int64_t dims = x.dim();
  RDDM_CHECK(
      dims >= 2 && is_power_of_2(x.size(dims - 2)) && is_power_of_2(x.size(dims - 1)),
      "walsh_hadamard: x must have a height and a width, the last two axes, that are powers of 2");
  const Tensor image = torch::stable::contiguous(x);
  Tensor result = torch::stable::new_empty(x, x.sizes());
  if (x.numel() == 0) return result;
  int bits = 0;
  while (int64_t(1) << bits < x.size(dims - 2) * x.size(dims - 1)) ++bits;
  for_dtype<true>(x.scalar_type(), "walsh_hadamard: no CPU kernel",
                  [&]<class Storage>() { run<Storage>(image, result, bits); });
  return result;
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CPU, m) {
  m.impl("walsh_hadamard", TORCH_BOX(&rddm::walsh_hadamard_cpu));
}
