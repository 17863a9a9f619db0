// One call: cut into tasks (a strip of the images x some blocks of filters), the tasks shared out among threads.
#include <algorithm>
#include <atomic>
#include <limits>

#include "memory.h"
#include "run.h"
#include "shape.h"
#include "shares.h"
#include "threads.h"

namespace hetc {
namespace {

// Weights that stay in the second-level cache while every tile walks all blocks.
constexpr int64_t kCachedWeights = 512 << 10;
// Results of a band of tiles on their way into a planar output.
constexpr int64_t kBandFloats = 24 << 10;

// Cuts `total` into the fewest parts of at most `most`, which differ by one at most, the longer ones first.
struct Cut {
  Cut(int64_t total, int64_t most) : parts(ceil_div(total, most)), shorter(total / parts), longer(total % parts) {}
  int64_t length(int64_t part) const { return shorter + (part < longer); }
  int64_t parts, shorter, longer;
};

struct TileSize {
  int rows, columns;
};

// What a tile costs besides one operation for each pixel and kept vector, in such operations; measured.
constexpr double kVectorCost = 3;  // of each vector: its weights, its address, the loop
constexpr double kRowCost = 0.25;  // of each vector and row: an address
constexpr double kLineCost = 12;   // of each cache line of the input
constexpr double kFewest = 8;      // pixels: a shorter chain of additions has to wait

class Run {
 public:
  Run(const hetc_conv2d& call, const Path& path, const Strips& strips, const int32_t* offsets)
      : call_(call), path_(path), strips_(strips), offsets_(offsets),
        shares_(call.starts, call.blocks, call.threads, strips.count), bias_(allocate(call.blocks * call.vector)) {
    vector_ = static_cast<int>(call.vector);
    per_group_ = call.out_channels / call.groups;
    group_blocks_ = call.blocks / call.groups;
    clamp_ = call.low > -std::numeric_limits<float>::infinity() || call.high < std::numeric_limits<float>::infinity();
    fill_ = path.fill(vector_, call.blocked_in != 0);
    widen_ = path.widen(vector_);
    fill_wide_ = call.blocked_in ? path.fill_wide(vector_) : nullptr;
    store_ = path.store(vector_);
    in_image_ = call.input_size / call.batch;
    out_image_ = call.output_size / call.batch;
    lay_out_bias();
    place_columns();
    size_tiles();
  }

  void run() {
    const auto slots = static_cast<size_t>(std::min(call_.threads, shares_.tasks));
    strip_floats_ = strips_.direct ? 0 : strips_.image * strips_.images;
    // one channel block on its way to places of several pixels; the last place reads that many of them
    const int64_t narrow_floats = widen_ ? strips_.channel_block / strips_.pixels + strips_.lanes : 0;
    slot_floats_ = strip_floats_ + std::max(band_floats_, narrow_floats);
    const Scratch scratch(slot_floats_ * static_cast<int64_t>(slots));
    scratch_ = scratch.get();
    run_slots(call_.parallel, call_.context, slots, body, this);
  }

 private:
  // Some output rows of some images: `rows` counts those of all of them.
  struct Strip {
    int64_t image, images, first_row, image_rows, rows;
  };

  void lay_out_bias() {
    for (int64_t block = 0; block < call_.blocks; ++block) {
      for (int64_t lane = 0; lane < vector_; ++lane) {
        const bool exists = call_.bias && lane < filters(block);
        bias_.get()[block * vector_ + lane] = exists ? call_.bias[first_filter(block) + lane] : 0.0f;
      }
    }
  }

  // Where each column of the image belongs in a row of the scratch, and which rows' phases are there.
  void place_columns() {
    const int64_t step = call_.stride[1];
    const std::vector<int32_t> column_slots = strips_.column_axis.slots(step);
    width_read_ = std::min(call_.in_width, std::max<int64_t>(strips_.columns * step - call_.padding[1], 0));
    for (int64_t column = 0; column < width_read_; ++column) {
      const int64_t place = column + call_.padding[1];
      const int32_t slot = column_slots[static_cast<size_t>(place % step)];
      const int64_t of_slot = slot * (strips_.slot_step / strips_.pixels);
      const int64_t at = slot < 0 ? (strips_.columns - 1) * vector_ : of_slot + place / step * vector_;
      column_at_.push_back(static_cast<int32_t>(at));
    }
    row_slots_ = strips_.row_axis.slots(call_.stride[0]);
  }

  static void body(void* self, size_t slot) { static_cast<Run*>(self)->work(static_cast<int64_t>(slot)); }

  void work(int64_t slot) {
    float* const scratch = scratch_ + slot * slot_floats_;
    int64_t filled = -1;
    for (int64_t task = next_++; task < shares_.tasks; task = next_++) {
      const int64_t index = task / shares_.ranges, range = task % shares_.ranges;
      const Strip strip = strip_at(index);
      if (!strips_.direct && filled != index) fill(strip, scratch, scratch + strip_floats_);
      filled = index;
      const float* const input =
          strips_.direct ? call_.input + strip.image * strips_.image + strip.first_row * strips_.columns * strips_.lanes
                         : scratch;
      const auto bound = shares_.bounds.begin() + range;
      convolve(strip, input, scratch + strip_floats_, bound[0], bound[1]);
    }
  }

  Strip strip_at(int64_t index) const {
    const int64_t image = index / strips_.per_image * strips_.images;
    const int64_t first_row = index % strips_.per_image * strips_.out_rows;
    const int64_t images = std::min(strips_.images, call_.batch - image);
    const int64_t image_rows = std::min(strips_.out_rows, call_.out_height - first_row);
    return {image, images, first_row, image_rows, image_rows * images};
  }

  void fill(const Strip& strip, float* scratch, float* narrow) const {
    const int64_t pixels = call_.in_height * call_.in_width;
    Fill fill = {};
    fill.rows = strip.image_rows + strips_.row_axis.reach;
    fill.columns = strips_.columns;
    fill.together = strips_.together;
    fill.size = strips_.channel_block / strips_.pixels;
    fill.slot = strips_.slot_step / strips_.pixels;
    fill.row_step = call_.stride[0];
    fill.first_place = strip.first_row * call_.stride[0] - call_.padding[0];
    fill.row_slots = row_slots_.data();
    fill.column_slots = static_cast<ptrdiff_t>(strips_.column_axis.phases.size());
    fill.column_at = column_at_.data();
    fill.width_read = width_read_;
    fill.zero_all = call_.stride[0] > 1 || call_.stride[1] > 1 || width_read_ == 0;
    fill.end = call_.input + call_.input_size;
    fill.height = call_.in_height;
    fill.width = call_.in_width;
    fill.channel = pixels;
    for (int64_t image = 0; image < strip.images; ++image) {
      for (int64_t block = 0; block < strips_.channel_blocks; ++block) {
        fill.image = call_.input + (strip.image + image) * in_image_ + block * vector_ * pixels;
        fill.channels = static_cast<int>(std::min<int64_t>(vector_, call_.in_channels - block * vector_));
        float* const to = scratch + image * strips_.image + block * strips_.channel_block;
        const bool at_once = fill_wide_ && !fill.zero_all;
        fill.scratch = widen_ && !at_once ? narrow : to;
        (at_once ? fill_wide_ : fill_)(fill);
        if (widen_ && !at_once) widen_({narrow, to, strips_.channel_block / strips_.lanes});
      }
    }
  }

  // The tiles, and how many blocks a band of them runs before its results are stored.
  void size_tiles() {
    int64_t weights = 0;  // of the heaviest task
    int64_t most_blocks = 1;
    for (size_t range = 0; range + 1 < shares_.bounds.size(); ++range) {
      weights = std::max<int64_t>(weights, call_.starts[shares_.bounds[range + 1]] - call_.starts[shares_.bounds[range]]);
      most_blocks = std::max(most_blocks, shares_.bounds[range + 1] - shares_.bounds[range]);
    }
    // few weights: they stay cached, and a tile's input is read by one block after the other while it is; many: a
    // block's weights are used for the whole strip before the next block's come
    step_ = weights * vector_ * 4 <= kCachedWeights ? most_blocks : 1;
    const double average = static_cast<double>(call_.vectors) / static_cast<double>(call_.blocks);
    size_ = best_tile(average * static_cast<double>(step_));
    if (call_.blocked_out) return;
    band_ = size_.rows * call_.out_width * vector_;
    step_ = std::clamp<int64_t>(kBandFloats / band_, 1, step_);
    band_floats_ = band_ * step_;
  }

  // The tile with which a strip takes the least time, where so many vectors run over it before the next one.
  TileSize best_tile(double vectors) const {
    const int64_t rows = strips_.out_rows * strips_.images, columns = columns_across();
    const double lines = static_cast<double>(strips_.image / strips_.plane);  // of a place
    const int most = path_.columns(vector_);
    TileSize best = {1, 1};
    double least = std::numeric_limits<double>::infinity();
    for (int r = 1; r <= kMaxRows && r <= rows && r <= most; ++r) {
      // as few tiles across as can be, and those of one width
      const int64_t across = ceil_div(columns, most / r), c = ceil_div(columns, across);
      const double tiles = static_cast<double>(ceil_div(rows, r)) * static_cast<double>(across);
      const double size = static_cast<double>(rows) * static_cast<double>(columns) / tiles;
      const int64_t width = c * strips_.pixels + strips_.column_axis.reach;
      const double read = lines * static_cast<double>((r + strips_.row_axis.reach) * width);
      const double of_vector = std::max(size, kFewest) + kVectorCost + kRowCost * r;
      const double cost = tiles * (of_vector * vectors + kLineCost * read);
      if (cost < least) least = cost, best = {r, static_cast<int>(c)};
    }
    return best;
  }

  int64_t columns_across() const { return ceil_div(call_.out_width, strips_.pixels); }

  void convolve(const Strip& strip, const float* input, float* band, int64_t first_block, int64_t last_block) const {
    const Cut down(strip.rows, size_.rows), across(columns_across(), size_.columns);
    for (int64_t block = first_block; block < last_block; block += step_) {
      const int64_t last = std::min(block + step_, last_block);
      Row row = {0, 0};
      for (int64_t part = 0; part < down.parts; ++part) {
        Band here = {row, static_cast<int>(down.length(part)), {}, {}, {}};
        place_rows(strip, here);
        for (int64_t column = 0, i = 0; i < across.parts; column += across.length(i), ++i) {
          run_tiles(here, input, band, column, static_cast<int>(across.length(i)), block, last);
        }
        if (!call_.blocked_out) store(here, band, block, last);
        for (int i = 0; i < here.rows; ++i) row.next(strip);
      }
    }
  }

  // An output row of a strip.
  struct Row {
    int64_t image, row;
    void next(const Strip& strip) {
      if (++row == strip.image_rows) row = 0, ++image;
    }
  };

  // Output rows that tiles share: `in` elements of the input, `out` of a block's output, at column 0.
  struct Band {
    Row first;
    int rows;
    int64_t in[kMaxRows], out[kMaxRows], image[kMaxRows];
  };

  void place_rows(const Strip& strip, Band& band) const {
    const int64_t pixel = call_.blocked_out ? vector_ : 1;
    Row row = band.first;
    for (int i = 0; i < band.rows; ++i, row.next(strip)) {
      band.in[i] = row.image * strips_.image + row.row * strips_.columns * strips_.lanes;
      band.image[i] = strip.image + row.image;
      band.out[i] = band.image[i] * out_image_ + (strip.first_row + row.row) * call_.out_width * pixel;
    }
  }

  void run_tiles(const Band& band, const float* input, float* results, int64_t column, int columns, int64_t block,
                 int64_t last) const {
    Tile tile;
    const int64_t pixel = column * strips_.pixels;
    tile.input = reinterpret_cast<const char*>(input + band.in[0] + pixel * strips_.lanes);
    for (int i = 0; i < band.rows; ++i) {
      tile.in_row[i] = i + 1 < band.rows ? (band.in[i + 1] - band.in[i]) * 4 : 0;
      tile.out_row[i] = (call_.blocked_out ? band.out[i] : i * call_.out_width * vector_) + pixel * vector_;
    }
    // a planar residual is added, and then clamped, when the band is stored
    const bool with_residual = call_.residual && call_.blocked_out;
    tile.residual = nullptr;
    tile.last = static_cast<int>(std::min(strips_.pixels, call_.out_width - pixel - (columns - 1) * strips_.pixels));
    tile.low = call_.low;
    tile.high = call_.high;
    tile.clamp = clamp_ && (!call_.residual || with_residual);
    const int64_t plane = call_.out_height * call_.out_width * vector_;
    const TileFunction function = path_.tile(vector_, band.rows, columns);
    for (int64_t first = block; block < last; ++block) {
      const int64_t start = call_.starts[block];
      tile.offsets = offsets_ + start;
      tile.values = call_.values + start * vector_;
      tile.count = call_.starts[block + 1] - start;
      tile.bias = bias_.get() + block * vector_;
      tile.output = call_.blocked_out ? call_.output + block * plane : results + (block - first) * band_;
      if (with_residual) tile.residual = call_.residual + block * plane;
      function(tile);
    }
  }

  void store(const Band& band, const float* results, int64_t block, int64_t last) const {
    Store store;
    store.plane = call_.out_height * call_.out_width;
    store.low = call_.low;
    store.high = call_.high;
    store.clamp = clamp_;
    for (int64_t first = block; block < last; ++block) {
      const int64_t at = first_filter(block) * store.plane;
      store.filters = filters(block);
      // rows of one image are neighbours in the output
      for (int begin = 0, end; begin < band.rows; begin = end) {
        for (end = begin + 1; end < band.rows && band.image[end] == band.image[begin];) ++end;
        store.count = (end - begin) * call_.out_width;
        store.pixels = results + (block - first) * band_ + begin * call_.out_width * vector_;
        store.output = call_.output + at + band.out[begin];
        store.residual = call_.residual ? call_.residual + at + band.out[begin] : nullptr;
        store_(store);
      }
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
  const Shares shares_;
  const Buffer bias_;  // [blocks][V]
  int vector_;
  int64_t per_group_, group_blocks_;
  int64_t in_image_, out_image_, width_read_ = 0;
  bool clamp_;
  FillFunction fill_;
  WidenFunction widen_;
  FillFunction fill_wide_;
  StoreFunction store_;
  std::vector<int32_t> column_at_, row_slots_;
  TileSize size_ = {1, 1};
  int64_t step_ = 1, band_ = 0;  // blocks that share a band; elements of a block's band
  int64_t strip_floats_ = 0, band_floats_ = 0, slot_floats_ = 0;
  float* scratch_ = nullptr;
  std::atomic<int64_t> next_{0};
};

}  // namespace

void run_checked(const hetc_conv2d& call, const Path& path, const Plan& plan) {
  Run(call, path, plan.strips, plan.offsets.data()).run();
}

}  // namespace hetc
