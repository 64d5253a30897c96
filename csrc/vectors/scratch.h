// Memory of a thread's own that is kept between calls: fresh pages would take as long as the work.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace rddm {

class Scratch {
 public:
  float* of(int64_t values) {
    if (values > size_) {
      data_.reset(static_cast<float*>(std::aligned_alloc(64, (values * 4 + 63) / 64 * 64)));
      size_ = data_ ? values : 0;
      if (!data_) throw std::bad_alloc();
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t size_ = 0;
};

}  // namespace rddm
