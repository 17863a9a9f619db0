// One call in 8 bits: cut into tasks (a strip of the images x some blocks of filters), these shared out among threads.
#include "int8_run.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "dispatch.h"
#include "memory.h"
#include "report.h"
#include "shares.h"
#include "threads.h"

namespace hetc {
namespace {

// What a group of tiles reads stays in the first-level cache, or close to it, while one block after the other runs over
// it: 48 KiB were a little faster than 24.
constexpr int64_t kGroupBytes = 48 << 10;
constexpr int64_t kCacheLine = 64;

class Int8Run {
 public:
  Int8Run(const hetc_int8_conv2d& call, const Int8Path& path, const Int8Weights& weights, const Int8Strips& strips,
          const int32_t* offsets)
      : call_(call), conv_(call.conv), path_(path), weights_(weights), strips_(strips), offsets_(offsets),
        shares_(weights.starts, call.conv.blocks, call.conv.threads, strips.count) {
    per_group_ = conv_.out_channels / conv_.groups;
    group_blocks_ = conv_.blocks / conv_.groups;
    pixels_ = conv_.out_height * conv_.out_width;
    set_limits();
    place_columns();
    size_groups();
  }

  void run() {
    const auto slots = static_cast<size_t>(std::min(conv_.threads, shares_.tasks));
    const int64_t bytes = strips_.direct ? 0 : conv_.in_channels * strips_.channel + path_.lanes;
    slot_floats_ = ceil_div(bytes, kCacheLine) * kCacheLine / 4;
    const Scratch scratch(slot_floats_ * static_cast<int64_t>(slots));
    scratch_ = scratch.get();
    run_slots(conv_.parallel, conv_.context, slots, body, this);
  }

 private:
  struct Strip {
    int64_t image, images, first_row, rows;
  };
  // Where the columns of one phase lie in a row of the image and in one of the scratch.
  struct Columns {
    int64_t from, to, count;
  };

  // In units of the output, its zero not yet added.
  void set_limits() {
    const float unit = call_.output ? call_.output_scale : 1.0f;
    low_ = conv_.low / unit, high_ = conv_.high / unit;
    if (!call_.output) return;
    low_ = std::clamp(low_, static_cast<float>(-call_.output_zero), static_cast<float>(255 - call_.output_zero));
    high_ = std::clamp(high_, static_cast<float>(-call_.output_zero), static_cast<float>(255 - call_.output_zero));
  }

  void place_columns() {
    const int64_t step = conv_.stride[1];
    for (int64_t phase : strips_.column_axis.phases) {
      const int64_t before = conv_.padding[1] - phase, first = std::max<int64_t>(0, ceil_div(before, step));
      const int64_t end = std::min(conv_.out_width + strips_.column_axis.reach, ceil_div(conv_.in_width + before, step));
      columns_.push_back({first * step - before, first, std::max<int64_t>(0, end - first)});
    }
  }

  void size_groups() {
    const int64_t rows = strips_.row_axis.reach + 1;
    const auto bytes = [&](int64_t tiles) {
      const int64_t lines = ceil_div(tiles * path_.lanes + strips_.column_axis.reach, kCacheLine) + 1;
      return conv_.in_channels * std::min(rows * lines * kCacheLine, strips_.channel);
    };
    const auto most = static_cast<int64_t>(strips_.full.places.size());
    while (group_ < most && bytes(group_ + 1) <= kGroupBytes) ++group_;
  }

  static void body(void* self, size_t slot) { static_cast<Int8Run*>(self)->work(static_cast<int64_t>(slot)); }

  void work(int64_t slot) {
    auto* const scratch = reinterpret_cast<uint8_t*>(scratch_ + slot * slot_floats_);
    int64_t filled = -1;
    for (int64_t task = next_++; task < shares_.tasks; task = next_++) {
      const int64_t index = task / shares_.ranges, range = task % shares_.ranges;
      const Strip strip = strip_at(index);
      const uint8_t* input = scratch;
      if (strips_.direct) {
        input = call_.input + (strip.image * conv_.in_channels * conv_.in_height + strip.first_row) * conv_.in_width;
      } else if (filled != index) {
        fill(strip, scratch);
      }
      filled = index;
      convolve(strip, input, shares_.bounds[static_cast<size_t>(range)], shares_.bounds[static_cast<size_t>(range) + 1]);
    }
  }

  Strip strip_at(int64_t index) const {
    const int64_t image = index / strips_.per_image * strips_.images;
    const int64_t first_row = index % strips_.per_image * strips_.out_rows;
    return {image, std::min(strips_.images, conv_.batch - image), first_row,
            std::min(strips_.out_rows, conv_.out_height - first_row)};
  }

  void fill(const Strip& strip, uint8_t* scratch) const {
    std::memset(scratch, call_.input_zero, static_cast<size_t>(conv_.in_channels * strips_.channel));
    const int64_t in_pixels = conv_.in_height * conv_.in_width;
    for (int64_t channel = 0; channel < conv_.in_channels; ++channel) {
      uint8_t* slot = scratch + channel * strips_.channel;
      for (int64_t row_phase : strips_.row_axis.phases) {
        for (const Columns& columns : columns_) {
          for (int64_t image = 0; image < strip.images; ++image) {
            const int64_t plane = (strip.image + image) * conv_.in_channels + channel;
            fill_slot(strip, call_.input + plane * in_pixels, slot + image * strips_.image, row_phase, columns);
          }
          slot += strips_.plane;
        }
      }
    }
  }

  // Of one plane of an image, the rows and columns of one phase.
  void fill_slot(const Strip& strip, const uint8_t* from, uint8_t* to, int64_t row_phase, const Columns& columns) const {
    int64_t row = strip.first_row * conv_.stride[0] + row_phase - conv_.padding[0];
    for (int64_t i = 0; i < strip.rows + strips_.row_axis.reach; ++i, row += conv_.stride[0], to += strips_.columns) {
      if (row < 0 || row >= conv_.in_height) continue;
      copy(from + row * conv_.in_width + columns.from, to + columns.to, columns.count, conv_.stride[1]);
    }
  }

  static void copy(const uint8_t* from, uint8_t* to, int64_t count, int64_t step) {
    if (step == 1) {
      copy_row(from, to, count);
    } else if (step == 2) {  // so that the compiler knows it
      for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = from[i * step];
    }
  }

  // Rows are short: a call of memcpy costs more than the copy.
  static void copy_row(const uint8_t* from, uint8_t* to, int64_t count) {
    if (count >= 16) {
      for (int64_t i = 0; i < count - 16; i += 16) std::memcpy(to + i, from + i, 16);
      std::memcpy(to + count - 16, from + count - 16, 16);
    } else if (count >= 4) {
      for (int64_t i = 0; i < count - 4; i += 4) std::memcpy(to + i, from + i, 4);
      std::memcpy(to + count - 4, from + count - 4, 4);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = from[i];
    }
  }

  void convolve(const Strip& strip, const uint8_t* input, int64_t first_block, int64_t last_block) const {
    const bool whole = strip.images == strips_.images && strip.rows == strips_.out_rows;
    const Tiles& tiles = whole ? strips_.full : strips_.rest;
    const int64_t count = static_cast<int64_t>(tiles.places.size());
    for (int64_t group = 0; group < count; group += group_) {
      const int64_t end = std::min(group + group_, count);
      for (int64_t block = first_block; block < last_block; ++block) {
        run_tiles(strip, tiles, input, block, group, end);
      }
    }
  }

  void run_tiles(const Strip& strip, const Tiles& tiles, const uint8_t* input, int64_t block, int64_t first,
                 int64_t last) const {
    const int64_t v = conv_.vector, start = weights_.starts[static_cast<size_t>(block)];
    const int64_t filter = block / group_blocks_ * per_group_ + block % group_blocks_ * v;
    const int64_t at = (strip.image * conv_.out_channels + filter) * pixels_ + strip.first_row * conv_.out_width;
    Int8Tile tile;
    tile.offsets = offsets_ + start * path_.taps;
    tile.values = weights_.values.data() + start * weights_.unit_bytes;
    tile.units = weights_.starts[static_cast<size_t>(block) + 1] - start;
    tile.begin = weights_.begin.data() + block * v;
    tile.scales = weights_.scales.data() + block * v;
    tile.filters = static_cast<int>(std::min(v, per_group_ - block % group_blocks_ * v));
    tile.low = low_, tile.high = high_;
    tile.zero = call_.output_zero;
    tile.plane = pixels_;
    tile.residual = call_.residual ? call_.residual + at : nullptr;
    tile.residual_scale = call_.residual_scale / (call_.output ? call_.output_scale : 1.0f);
    tile.residual_zero = call_.residual_zero;
    tile.output = call_.output ? call_.output + at : nullptr;
    tile.real_output = call_.real_output ? call_.real_output + at : nullptr;
    const Int8TileFunction function = path_.tile(static_cast<int>(v));
    for (int64_t i = first; i < last; ++i) {
      const Tiles::Place& place = tiles.places[static_cast<size_t>(i)];
      tile.input = input + place.start;
      tile.segments = tiles.segments.data() + place.first_segment;
      tile.segment_count = place.segments;
      function(tile);
    }
  }

  const hetc_int8_conv2d& call_;
  const hetc_conv2d& conv_;
  const Int8Path& path_;
  const Int8Weights& weights_;
  const Int8Strips& strips_;
  const int32_t* const offsets_;
  const Shares shares_;
  int64_t per_group_, group_blocks_, pixels_;
  float low_, high_;
  int64_t group_ = 1, slot_floats_ = 0;
  std::vector<Columns> columns_;  // of each phase
  float* scratch_ = nullptr;
  std::atomic<int64_t> next_{0};
};

}  // namespace

void run_int8(const hetc_int8_conv2d& call, const Int8Path& path, const Int8Weights& weights, const Int8Strips& strips,
              const int32_t* offsets) {
  Int8Run(call, path, weights, strips, offsets).run();
}

}  // namespace hetc

extern "C" int hetc_int8_conv2d_run(const hetc_int8_conv2d* call, char* message, size_t message_size) {
  return hetc::report(message, message_size, [call] {
    if (!call || call->conv.size != sizeof(hetc_int8_conv2d)) {
      throw hetc::Invalid("the caller was built for another version");
    }
    hetc::check_int8(*call);
    const hetc::Int8Path* path = hetc::find_int8_path(call->conv.path);
    if (!path) throw hetc::Invalid("path: this processor does not run " + std::string(call->conv.path));
    if (call->conv.output_size == 0) return;
    const hetc::Int8Weights weights(*call, *path);
    const hetc::Int8Strips strips(*call, *path);
    const std::vector<int32_t> offsets = strips.offsets(*call, weights, *path);
    hetc::run_int8(*call, *path, weights, strips, offsets.data());
  });
}
