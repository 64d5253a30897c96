// How the CPU ops write their results to memory.
#pragma once

#include "common/cpu_blocks.h"

namespace rddm {
namespace {

// Where a block of results is computed: in place, or in a buffer that is rounded when written.
template <class Storage, class T>
class Written {
 public:
  // `fetched`: the noise that is drawn with it asks for its memory.
  explicit Written(Storage* data, bool fetched = false) : data_(data), fetched_(fetched) {}

  T* at(int64_t begin) {
    if constexpr (std::is_same_v<Storage, T>) {
      return data_ + begin;
    } else {
      return computed_;
    }
  }

  // Writes the n elements from `begin` on, which were computed at at(begin).
  void done(int64_t begin, int64_t n) {
    if constexpr (!std::is_same_v<Storage, T>) {
      if (!fetched_) prefetch(data_ + begin + kAhead, n);
      round_to(computed_, data_ + begin, n);
    }
  }

 private:
  Storage* data_;
  bool fetched_;
  alignas(64) T computed_[std::is_same_v<Storage, T> ? 1 : kBlock];
};

// Writes blocks of an image into some channels of a larger one. Without data it writes nothing.
template <class Storage, class T>
class Placed {
 public:
  Placed(Storage* data, const Placement& placement) : data_(data), p_(placement) {}

  void write(const T* from, int64_t begin, int64_t n) const {
    if (!data_) return;
    int64_t inner = begin % p_.inner, middle = begin / p_.inner % p_.middle;
    int64_t outer = begin / p_.inner / p_.middle;
    while (n > 0) {
      Storage* const to = data_ + outer * p_.outer_stride + middle * p_.middle_stride;
      // The pixels of a channels-last image are short runs, so many are written at a time.
      const int64_t runs = inner == 0 ? std::min(p_.middle - middle, n / p_.inner) : 0;
      if (runs > 1 && p_.inner_stride == 1 && p_.inner < 16) {
        runs_of(from, to, runs);
        from += runs * p_.inner;
        n -= runs * p_.inner;
        middle += runs;
      } else {
        const int64_t length = std::min(p_.inner - inner, n);
        run_of(from, to + inner * p_.inner_stride, length);
        from += length;
        n -= length;
        inner = (inner + length) % p_.inner;
        middle += inner == 0;
      }
      if (middle == p_.middle) {
        middle = 0;
        ++outer;
      }
    }
  }

 private:
  void run_of(const T* from, Storage* to, int64_t length) const {
    if (p_.inner_stride != 1) {
      for (int64_t i = 0; i < length; ++i) to[i * p_.inner_stride] = rounded<Storage>(from[i]);
    } else if constexpr (std::is_same_v<Storage, T>) {
      std::copy_n(from, length, to);
    } else {
      round_to(from, to, length);
    }
  }

  void runs_of(const T* from, Storage* to, int64_t runs) const {
    const auto pixels = [&](auto channels) {
      for (int64_t run = 0; run < runs; ++run) {
        for (int64_t i = 0; i < channels; ++i) {
          to[run * p_.middle_stride + i] = rounded<Storage>(from[run * channels + i]);
        }
      }
    };
    if (p_.inner == 3) {
      pixels(std::integral_constant<int64_t, 3>());
    } else {
      pixels(p_.inner);
    }
  }

  Storage* data_;
  Placement p_;
};

}  // namespace
}  // namespace rddm
