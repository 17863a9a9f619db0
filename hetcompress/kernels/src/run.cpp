// One call: cut into tasks (a strip of the images x some blocks of filters), the tasks shared out among threads.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

#include "dispatch.h"
#include "run.h"
#include "shape.h"
#include "threads.h"

namespace hetc {
namespace {

// Weights that stay in the second-level cache while every tile walks all blocks.
constexpr int64_t kCachedWeights = 512 << 10;
constexpr int64_t kAlignment = 64;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<float, Free>;

Buffer allocate(int64_t floats) {
  const size_t bytes = static_cast<size_t>(ceil_div(std::max<int64_t>(floats, 1) * 4, kAlignment) * kAlignment);
  void* memory = std::aligned_alloc(kAlignment, bytes);
  if (!memory) throw std::bad_alloc();
  return Buffer(static_cast<float*>(memory));
}

// Memory that a thread keeps from call to call: fresh pages cost more than a small layer.
class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    if (taken_) {  // by a call that this thread is in the middle of
      own_ = allocate(floats);
      return;
    }
    if (held_ < floats) {
      held_ = 0;
      kept_.reset();
      kept_ = allocate(floats);
      held_ = floats;
    }
    taken_ = true;
  }
  ~Scratch() {
    if (!own_) taken_ = false;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* get() const { return own_ ? own_.get() : kept_.get(); }

 private:
  static thread_local Buffer kept_;
  static thread_local int64_t held_;
  static thread_local bool taken_;
  Buffer own_;
};

thread_local Buffer Scratch::kept_;
thread_local int64_t Scratch::held_ = 0;
thread_local bool Scratch::taken_ = false;

// Cuts `total` into the fewest parts of at most `most`, which differ by one at most.
struct Cut {
  Cut(int64_t total, int64_t most) : total(total), parts(ceil_div(total, most)) {}
  int64_t begin(int64_t part) const { return part * total / parts; }
  int64_t length(int64_t part) const { return begin(part + 1) - begin(part); }
  int64_t total, parts;
};

struct TileSize {
  int rows, columns;
};

// The tile with which `rows` x `columns` pixels take the fewest instructions for each kept vector.
TileSize best_tile(const Path& path, int vector, int64_t rows, int64_t columns) {
  TileSize best = {1, 1};
  double least = std::numeric_limits<double>::infinity();
  for (int r = 1; r <= kMaxRows && r <= rows; ++r) {
    for (int c = 1; r * c <= path.pixels(vector) && c <= columns; ++c) {
      const Cut down(rows, r), across(columns, c);
      const double tiles = static_cast<double>(down.parts) * static_cast<double>(across.parts);
      const double pixels = static_cast<double>(rows) * static_cast<double>(columns) / tiles;
      // two loads and the loop besides one operation for each pixel; a short chain of additions has to wait
      const double cost = tiles * (std::max(pixels, 8.0) + 3 + 0.5 * r);
      if (cost < least) least = cost, best = {r, c};
    }
  }
  return best;
}

class Run {
 public:
  Run(const hetc_conv2d& call, const Path& path, const Strips& strips, const int32_t* offsets)
      : call_(call), path_(path), strips_(strips), offsets_(offsets), bias_(allocate(call.blocks * call.vector)) {
    vector_ = static_cast<int>(call.vector);
    per_group_ = call.out_channels / call.groups;
    group_blocks_ = call.blocks / call.groups;
    clamp_ = call.low > -std::numeric_limits<float>::infinity() || call.high < std::numeric_limits<float>::infinity();
    fill_ = path.plane(vector_, call.blocked_in != 0);
    lay_out_bias();
    share_out();
  }

  void run() {
    const auto slots = static_cast<size_t>(std::min(call_.threads, tasks_));
    if (slots == 0) return;
    strip_floats_ = strips_.direct ? 0 : strips_.image * strips_.images;
    strip_floats_ = ceil_div(strip_floats_, 16) * 16;
    const Scratch scratch(strip_floats_ * static_cast<int64_t>(slots));
    scratch_ = scratch.get();
    if (call_.parallel) {
      call_.parallel(call_.context, body, this, slots);
    } else {
      run_on_threads(slots, body, this);
    }
  }

 private:
  // Some output rows of some images: `rows` counts those of all of them.
  struct Strip {
    int64_t image, first_row, image_rows, rows;
  };

  void lay_out_bias() {
    for (int64_t block = 0; block < call_.blocks; ++block) {
      for (int64_t lane = 0; lane < vector_; ++lane) {
        const bool exists = call_.bias && lane < filters(block);
        bias_.get()[block * vector_ + lane] = exists ? call_.bias[first_filter(block) + lane] : 0.0f;
      }
    }
  }

  // Strips alone if there is one for each thread; else also ranges of blocks, with the like number of vectors.
  void share_out() {
    ranges_ = strips_.count == 0 ? 1 : std::min(call_.blocks, ceil_div(call_.threads, strips_.count));
    tasks_ = strips_.count * ranges_;
    bounds_.assign(1, 0);
    const double all = static_cast<double>(call_.vectors) + static_cast<double>(call_.blocks);
    for (int64_t block = 0; block < call_.blocks; ++block) {
      const double before = static_cast<double>(call_.starts[block + 1]) + static_cast<double>(block + 1);
      const auto range = static_cast<double>(bounds_.size());
      if (range < static_cast<double>(ranges_) && before >= all * range / static_cast<double>(ranges_)) {
        bounds_.push_back(block + 1);
      }
    }
    bounds_.resize(static_cast<size_t>(ranges_) + 1, call_.blocks);
    bounds_.back() = call_.blocks;
  }

  static void body(void* self, size_t slot) { static_cast<Run*>(self)->work(static_cast<int64_t>(slot)); }

  void work(int64_t slot) {
    float* const scratch = scratch_ + slot * strip_floats_;
    int64_t filled = -1;
    for (int64_t task = next_++; task < tasks_; task = next_++) {
      const int64_t index = task / ranges_, range = task % ranges_;
      const Strip strip = strip_at(index);
      if (!strips_.direct && filled != index) fill(strip, scratch);
      filled = index;
      const float* const input =
          strips_.direct ? call_.input + strip.image * strips_.image + strip.first_row * strips_.columns * vector_
                         : scratch;
      convolve(strip, input, bounds_[static_cast<size_t>(range)], bounds_[static_cast<size_t>(range) + 1]);
    }
  }

  Strip strip_at(int64_t index) const {
    const int64_t image = index / strips_.per_image * strips_.images;
    const int64_t first_row = index % strips_.per_image * strips_.out_rows;
    const int64_t images = std::min(strips_.images, call_.batch - image);
    const int64_t image_rows = std::min(strips_.out_rows, call_.out_height - first_row);
    return {image, first_row, image_rows, image_rows * images};
  }

  void fill(const Strip& strip, float* scratch) const {
    const int64_t pixels = call_.in_height * call_.in_width;
    const int64_t image_size = call_.input_size / call_.batch;
    Plane plane;
    plane.rows = strip.image_rows + strips_.row_axis.reach;
    plane.columns = strips_.columns;
    plane.height = call_.in_height;
    plane.width = call_.in_width;
    plane.row_step = call_.stride[0];
    plane.column_step = call_.stride[1];
    plane.channel = pixels;
    for (int64_t image = 0; image < strip.rows / strip.image_rows; ++image) {
      for (int64_t block = 0; block < strips_.channel_blocks; ++block) {
        plane.image = call_.input + (strip.image + image) * image_size + block * vector_ * pixels;
        plane.channels = static_cast<int>(std::min<int64_t>(vector_, call_.in_channels - block * vector_));
        plane.scratch = scratch + image * strips_.image + block * strips_.channel_block;
        for (int64_t row_phase : strips_.row_axis.phases) {
          plane.first_row = strip.first_row * call_.stride[0] + row_phase - call_.padding[0];
          for (int64_t column_phase : strips_.column_axis.phases) {
            plane.first_column = column_phase - call_.padding[1];
            fill_(plane);
            plane.scratch += strips_.plane;
          }
        }
      }
    }
  }

  void convolve(const Strip& strip, const float* input, int64_t first_block, int64_t last_block) const {
    const TileSize size = best_tile(path_, vector_, strip.rows, call_.out_width);
    const Cut down(strip.rows, size.rows), across(call_.out_width, size.columns);
    const int64_t weights = (call_.starts[last_block] - call_.starts[first_block]) * int64_t(vector_) * 4;
    // few weights: they stay cached, and a tile's input is read by one block after the other while it is; many: a
    // block's weights are used for the whole strip before the next block's come
    const int64_t step = weights <= kCachedWeights ? last_block - first_block : 1;
    for (int64_t block = first_block; block < last_block; block += step) {
      for (int64_t band = 0; band < down.parts; ++band) {
        for (int64_t part = 0; part < across.parts; ++part) {
          run_tile(strip, input, {down.begin(band), down.length(band), across.begin(part), across.length(part)},
                   block, std::min(block + step, last_block));
        }
      }
    }
  }

  struct Place {
    int64_t row, rows, column, columns;
  };

  void run_tile(const Strip& strip, const float* input, const Place& place, int64_t block, int64_t last) const {
    Tile tile;
    const int64_t pixel = call_.blocked_out ? vector_ : 1;
    int64_t previous = 0;
    for (int64_t i = 0; i < place.rows; ++i) {
      const int64_t image = (place.row + i) / strip.image_rows, row = (place.row + i) % strip.image_rows;
      const int64_t from = image * strips_.image + (row * strips_.columns + place.column) * vector_;
      if (i == 0) {
        tile.input = reinterpret_cast<const char*>(input + from);
      } else {
        tile.in_row[i - 1] = (from - previous) * 4;
      }
      previous = from;
      const int64_t at = (strip.first_row + row) * call_.out_width + place.column;
      tile.out_row[i] = (strip.image + image) * (call_.output_size / call_.batch) + at * pixel;
    }
    tile.residual = call_.residual;
    tile.plane = call_.out_height * call_.out_width;
    tile.low = call_.low;
    tile.high = call_.high;
    tile.clamp = clamp_;
    tile.blocked = call_.blocked_out != 0;
    const TileFunction function = path_.tile(vector_, static_cast<int>(place.rows), static_cast<int>(place.columns));
    for (; block < last; ++block) {
      const int64_t start = call_.starts[block];
      tile.offsets = offsets_ + start;
      tile.values = call_.values + start * vector_;
      tile.count = call_.starts[block + 1] - start;
      tile.bias = bias_.get() + block * vector_;
      tile.filters = filters(block);
      const int64_t at = (call_.blocked_out ? block * vector_ : first_filter(block)) * tile.plane;
      tile.output = call_.output + at;
      if (call_.residual) tile.residual = call_.residual + at;
      function(tile);
    }
  }

  int64_t first_filter(int64_t block) const {
    return block / group_blocks_ * per_group_ + block % group_blocks_ * vector_;
  }
  int filters(int64_t block) const {
    return static_cast<int>(std::min<int64_t>(vector_, per_group_ - block % group_blocks_ * vector_));
  }

  const hetc_conv2d& call_;
  const Path& path_;
  const Strips& strips_;
  const int32_t* const offsets_;
  const Buffer bias_;  // [blocks][V]
  int vector_;
  int64_t per_group_, group_blocks_;
  bool clamp_;
  PlaneFunction fill_;
  int64_t ranges_, tasks_, strip_floats_ = 0;
  std::vector<int64_t> bounds_;
  float* scratch_ = nullptr;
  std::atomic<int64_t> next_{0};
};

}  // namespace

void run_checked(const hetc_conv2d& call, const Path& path, const Strips& strips, const int32_t* offsets) {
  Run(call, path, strips, offsets).run();
}

}  // namespace hetc

extern "C" int hetc_conv2d_run(const hetc_conv2d* call, char* message, size_t message_size) {
  int code = HETC_OK;
  std::string text;
  try {
    if (!call || call->size != sizeof(hetc_conv2d)) throw hetc::Invalid("the caller was built for another version");
    hetc::check(*call);
    const hetc::Path* path = hetc::find_path(call->path);
    if (!path) throw hetc::Invalid("path: this processor does not run " + std::string(call->path));
    if (call->output_size == 0) return HETC_OK;
    const hetc::Strips strips(*call);
    const std::vector<int32_t> offsets = strips.offsets(*call);
    hetc::run_checked(*call, *path, strips, offsets.data());
  } catch (const hetc::Invalid& error) {
    code = HETC_INVALID;
    text = error.what();
  } catch (const std::exception&) {  // bad_alloc, and system_error where no thread can be started
    code = HETC_NO_MEMORY;
    text = "out of memory or threads";
  }
  if (message && message_size) {
    const size_t length = std::min(text.size(), message_size - 1);
    std::memcpy(message, text.data(), length);
    message[length] = 0;
  }
  return code;
}
