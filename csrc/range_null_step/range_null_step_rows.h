// Tiles of an image on the CPU, and their rows in the op's precision: those of the tensor itself,
// or of a buffer where the tensor has another precision or the channels of a pixel are adjacent.
#pragma once

#include <array>
#include <vector>

#include "common/cpu_blocks.h"
#include "range_null_step/range_null_step_inputs.h"

namespace rddm {
namespace {

// Elements of a tile; 4 inputs and a result in float32 are 80 KiB. Of single pixels whose rows are
// buffers, they stay in the first-level cache, 15 KiB; larger blocks have rows that are too short
// then.
constexpr int64_t kTile = 4 * kBlock, kShortTile = 3 * kShortBlock;

struct Tile {
  int64_t image, channel, y, x, n;  // where it begins, and its columns
};

// How an image is cut into tiles.
struct TileShape {
  int64_t images, all_channels, width, pixels;
  bool together;                      // the channels of a pixel are adjacent
  int64_t channels, height, columns;  // of a tile
  int64_t across, down,
      of_image;  // tiles in a row of blocks, those in a channel, groups of channels

  explicit TileShape(const RangeNullInputs& in) {
    const RangeNullBlocks& b = in.blocks;
    images = b.images, all_channels = b.channels, width = b.width, pixels = b.pixels();
    together = in.channels_last;
    if (b.pixels_alone() && !in.mask && !(together && in.noise.drawn)) {
      // Every element is treated alike, in the order of memory.
      pixels = width = in.result.tensor.numel();
      images = all_channels = 1;
      together = false;
    }
    channels = together || b.joined ? all_channels : 1;
    height = b.factor;
    // A power of two of blocks: a square image then splits into equal tiles.
    const bool in_buffers = together || in.x_t.scalar_type() != ScalarType::Float;
    const int64_t most = in_buffers && !in.noise.drawn && height == 1 ? kShortTile : kTile;
    const int64_t blocks = std::max<int64_t>(1, most / (channels * height * b.factor));
    columns = std::min(width, int64_t(std::bit_floor(uint64_t(blocks))) * b.factor);
    across = (width + columns - 1) / columns;
    down = pixels / width / height;
    of_image = all_channels / channels;
  }

  int64_t count() const { return images * of_image * down * across; }
  int64_t elements() const { return channels * height * columns; }

  Tile tile(int64_t number) const {
    const int64_t row = number / across, plane = row / down, x = number % across * columns;
    return {plane / of_image, plane % of_image * channels, row % down * height, x,
            std::min(columns, width - x)};
  }

  // Where a tile's first element is in memory.
  int64_t start(const Tile& t) const {
    const int64_t pixel = t.y * width + t.x;
    return together ? (t.image * pixels + pixel) * all_channels
                    : (t.image * all_channels + t.channel) * pixels + pixel;
  }
};

// The rows of a tile's channels.
template <class Element>
struct Rows {
  Element* data;
  int64_t channel_stride, row_stride;

  Element* at(int64_t channel, int64_t y) const {
    return data + channel * channel_stride + y * row_stride;
  }
  Rows from(int64_t channel) const { return {at(channel, 0), channel_stride, row_stride}; }
};

// A channel of n pixels whose channels are adjacent, from and to a row of its own.
template <class Storage, class T>
RDDM_CLONES void take_channel(const Storage* __restrict from, int64_t channels, T* __restrict to,
                              int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(from[i * channels]);
}

template <class Storage, class T>
RDDM_CLONES void put_channel(const T* __restrict from, Storage* __restrict to, int64_t channels,
                             int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i * channels] = stored<Storage>(from[i]);
}

// The same for three channels at once, which the compiler can do with shuffles. The way back is
// put_rgb of cpu_blocks.h.
template <class Storage, class T>
RDDM_CLONES void take_rgb(const Storage* __restrict from, T* __restrict red, T* __restrict green,
                          T* __restrict blue, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    red[i] = static_cast<T>(from[3 * i]);
    green[i] = static_cast<T>(from[3 * i + 1]);
    blue[i] = static_cast<T>(from[3 * i + 2]);
  }
}

// A tile's buffer: its rows one after the other, through the channels.
template <class T>
class Buffer {
 public:
  Buffer(const TileShape& shape, bool needed)
      : height_(shape.height),
        columns_(shape.columns),
        elements_(needed ? size_t(shape.elements()) : 0) {}

  Rows<T> rows() { return {elements_.data(), height_ * columns_, columns_}; }

 private:
  int64_t height_, columns_;
  std::vector<T> elements_;
};

// The rows of one input, which may be absent: then they are zeros.
template <class Storage, class T>
class Source {
 public:
  Source(const std::optional<Tensor>& x, const TileShape& shape)
      : shape_(shape),
        data_(data_of<Storage>(x)),
        buffer_(shape, data_ && (shape.together || !std::is_same_v<Storage, T>)),
        zeros_(data_ ? 0 : size_t(shape.columns * (shape.together ? shape.channels : 1))) {}

  // The tile's elements in the order of memory, where a tile is a run of pixels.
  const T* run(const Tile& tile) const {
    static_assert(std::is_same_v<Storage, T>);
    return data_ ? data_ + shape_.start(tile) : zeros_.data();
  }

  Rows<const T> rows(const Tile& tile) {
    if (!data_) return {zeros_.data(), 0, 0};
    const Storage* const from = data_ + shape_.start(tile);
    const Rows<T> to = buffer_.rows();
    if (shape_.together) {
      take_pixels(from, to, tile.n);
    } else if constexpr (std::is_same_v<Storage, T>) {
      return {from, shape_.pixels, shape_.width};
    } else {
      for (int64_t c = 0; c < shape_.channels; ++c) {
        for (int64_t y = 0; y < shape_.height; ++y) {
          widen(from + c * shape_.pixels + y * shape_.width, to.at(c, y), tile.n);
        }
      }
    }
    return {to.data, to.channel_stride, to.row_stride};
  }

 private:
  void take_pixels(const Storage* from, const Rows<T>& to, int64_t n) const {
    const int64_t channels = shape_.channels;
    for (int64_t y = 0; y < shape_.height; ++y, from += shape_.width * channels) {
      if (channels == 3) {
        take_rgb(from, to.at(0, y), to.at(1, y), to.at(2, y), n);
      } else {
        for (int64_t c = 0; c < channels; ++c) take_channel(from + c, channels, to.at(c, y), n);
      }
    }
  }

  const TileShape& shape_;
  const Storage* data_;
  Buffer<T> buffer_;
  std::vector<T> zeros_;
};

// The rows of the noise: a tensor's, a seed's (whose elements are counted in logical order), or
// zeros.
template <class Storage, class T>
class NoiseSource {
 public:
  // `images`: the data that are read or written with the noise.
  template <class... Images>
  NoiseSource(const NoiseArgument& noise, const TileShape& shape, const Images*... images)
      : shape_(shape),
        given_(noise.tensor, shape),
        drawn_(noise, shape.together ? Ahead() : ahead_of(images...)),
        draws_(noise.drawn),
        buffer_(shape, draws_) {}

  const T* run(const Tile& tile) const { return given_.run(tile); }

  Rows<const T> rows(const Tile& tile) {
    if (!draws_) return given_.rows(tile);
    const Rows<T> to = buffer_.rows();
    // Whole rows of the image follow one another, so they are drawn as one.
    const int64_t joined = tile.n == shape_.width ? shape_.height : 1;
    for (int64_t c = 0; c < shape_.channels; ++c) {
      for (int64_t y = 0; y < shape_.height; y += joined) {
        const int64_t plane = tile.image * shape_.all_channels + tile.channel + c;
        const int64_t first = plane * shape_.pixels + (tile.y + y) * shape_.width + tile.x;
        for (int64_t i = 0, n = 0; i < joined * tile.n; i += n) {
          n = std::min(kBlock, joined * tile.n - i);
          std::copy_n(drawn_.at(first + i, n), n, to.at(c, y) + i);
        }
      }
    }
    return {to.data, to.channel_stride, to.row_stride};
  }

 private:
  const TileShape& shape_;
  Source<Storage, T> given_;
  DrawnNoise drawn_;
  bool draws_;
  Buffer<T> buffer_;
};

// The rows of the result.
template <class Storage, class T>
class Target {
 public:
  Target(Tensor result, const TileShape& shape)
      : shape_(shape),
        data_(static_cast<Storage*>(result.mutable_data_ptr())),
        buffer_(shape, shape.together || !std::is_same_v<Storage, T>) {}

  // Where a tile is computed.
  Rows<T> rows(const Tile& tile) {
    if constexpr (std::is_same_v<Storage, T>) {
      if (!shape_.together) return {data_ + shape_.start(tile), shape_.pixels, shape_.width};
    }
    return buffer_.rows();
  }

  T* run(const Tile& tile) const { return data_ + shape_.start(tile); }

  // Writes a tile that was computed elsewhere.
  void write(const Tile& tile) {
    Storage* const to = data_ + shape_.start(tile);
    const Rows<T> from = buffer_.rows();
    if (shape_.together) {
      put_pixels(from, to, tile.n);
    } else if constexpr (!std::is_same_v<Storage, T>) {
      for (int64_t c = 0; c < shape_.channels; ++c) {
        for (int64_t y = 0; y < shape_.height; ++y) {
          round_to(from.at(c, y), to + c * shape_.pixels + y * shape_.width, tile.n);
        }
      }
    }
  }

 private:
  void put_pixels(const Rows<T>& from, Storage* to, int64_t n) const {
    const int64_t channels = shape_.channels;
    for (int64_t y = 0; y < shape_.height; ++y, to += shape_.width * channels) {
      if (channels == 3) {
        put_rgb(from.at(0, y), from.at(1, y), from.at(2, y), to, n);
      } else {
        for (int64_t c = 0; c < channels; ++c) put_channel(from.at(c, y), to + c, channels, n);
      }
    }
  }

  const TileShape& shape_;
  Storage* data_;
  Buffer<T> buffer_;
};

}  // namespace
}  // namespace rddm
