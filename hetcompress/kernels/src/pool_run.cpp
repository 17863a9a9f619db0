// One call of pooling: a task is some output rows of a block of channels.
#include "pool_run.h"

#include <algorithm>
#include <atomic>

#include "dispatch.h"
#include "memory.h"
#include "report.h"
#include "threads.h"

namespace hetc {
namespace {

// What a task reads and writes stays in the second-level cache between the steps from layout to layout.
constexpr int64_t kTaskFloats = 24 << 10;
// Images beyond the second-level cache.  Fetching their rows early halves the time of 3x3 at stride 2; where they are
// cached it costs a seventh.
constexpr int64_t kFarFloats = 1 << 20;

class PoolRun {
 public:
  PoolRun(const hetc_pool2d& call, const Path& path)
      : call_(call),
        in_layout_(layout_in(call)),
        out_layout_(layout_out(call)),
        in_row_(call.in_width * in_layout_.pixel()),
        out_row_(call.out_width * out_layout_.pixel()),
        fill_(path.fill(static_cast<int>(call.vector), false)),
        store_(path.store(static_cast<int>(call.vector))),
        pool_(path.pool(static_cast<int>(call.vector), call.average != 0)) {
    const int64_t v = call.vector;
    far_ = call.blocked_in && call.input_size > kFarFloats && call.kernel[0] >= call.stride[0];
    if (call.in_width > INT32_MAX / (4 * v)) throw Invalid("a row of the image is too large");
    const int64_t row = call.in_width * v, row_floats = call.stride[0] * row + call.out_width * v;
    rows_ = std::clamp<int64_t>(kTaskFloats / row_floats, 1, call.out_height);
    per_plane_ = ceil_div(call.out_height, rows_);
    blocks_ = ceil_div(call.channels, v);
    tasks_ = call.batch * blocks_ * per_plane_;
    if (!call.blocked_in) {
      in_floats_ = std::min((rows_ - 1) * call.stride[0] + call.kernel[0], call.in_height) * row;
      column_at_.resize(static_cast<size_t>(call.in_width));
      for (size_t i = 0; i < column_at_.size(); ++i) column_at_[i] = static_cast<int32_t>(static_cast<int64_t>(i) * v);
    }
    if (!call.blocked_out) out_floats_ = rows_ * call.out_width * v;
  }

  void run() {
    const auto slots = static_cast<size_t>(std::min(call_.threads, tasks_));
    const Scratch scratch((in_floats_ + out_floats_) * static_cast<int64_t>(slots));
    scratch_ = scratch.get();
    run_slots(call_.parallel, call_.context, slots, body, this);
  }

 private:
  // Output rows of a block of an image, and the rows of the image that they read.
  struct Task {
    int64_t image, block, first, last, in_first, in_last;
  };

  static void body(void* self, size_t slot) { static_cast<PoolRun*>(self)->work(static_cast<int64_t>(slot)); }

  void work(int64_t slot) {
    float* const scratch = scratch_ + slot * (in_floats_ + out_floats_);
    for (int64_t index = next_++; index < tasks_; index = next_++) {
      const Task task = task_at(index);
      const float* input = in_plane(task) + task.in_first * in_row_;
      if (!call_.blocked_in) {
        fill(task, scratch);
        input = scratch;
      }
      float* const plane = out_plane(task);
      float* const output = call_.blocked_out ? plane + task.first * out_row_ : scratch + in_floats_;
      pool(task, input, output);
      if (!call_.blocked_out) store(task, output, plane);
    }
  }

  Task task_at(int64_t index) const {
    const int64_t first = index % per_plane_ * rows_, last = std::min(first + rows_, call_.out_height);
    const int64_t in_first = std::max<int64_t>(first * call_.stride[0] - call_.padding[0], 0);
    const int64_t in_last = (last - 1) * call_.stride[0] - call_.padding[0] + call_.kernel[0];
    const int64_t plane = index / per_plane_;
    return {plane / blocks_, plane % blocks_, first, last, in_first, std::min(in_last, call_.in_height)};
  }

  // Of a block's first channel, the first pixel.
  const float* in_plane(const Task& task) const {
    const int64_t of_block = task.block * (call_.blocked_in ? 1 : call_.vector);
    return call_.input + (task.image * in_layout_.planes() + of_block) * call_.in_height * in_row_;
  }
  // The same of the output.
  float* out_plane(const Task& task) const {
    const int64_t of_block = task.block * (call_.blocked_out ? 1 : call_.vector);
    return call_.output + (task.image * out_layout_.planes() + of_block) * call_.out_height * out_row_;
  }
  int channels(const Task& task) const {
    return static_cast<int>(std::min(call_.vector, call_.channels - task.block * call_.vector));
  }

  void fill(const Task& task, float* scratch) const {
    const int32_t slot = 0;
    Fill fill = {};
    fill.scratch = scratch;
    fill.rows = task.in_last - task.in_first;
    fill.columns = fill.width = fill.width_read = call_.in_width;
    fill.row_step = fill.column_slots = 1;
    fill.first_place = task.in_first;
    fill.row_slots = &slot;
    fill.column_at = column_at_.data();
    fill.image = in_plane(task);
    fill.end = call_.input + call_.input_size;
    fill.height = call_.in_height;
    fill.channel = call_.in_height * call_.in_width;
    fill.channels = channels(task);
    fill_(fill);
  }

  void pool(const Task& task, const float* input, float* output) const {
    PoolRow row = {};
    row.in_row = call_.in_width * call_.vector;
    row.width = call_.in_width, row.out_width = call_.out_width;
    row.kernel = call_.kernel[1], row.stride = call_.stride[1], row.padding = call_.padding[1];
    row.count_padding = call_.count_padding != 0;
    row.counted_end = call_.in_width + (row.count_padding ? call_.padding[3] : 0);
    const int64_t next = call_.out_width * call_.vector;
    for (int64_t i = task.first; i < task.last; ++i, output += next) {
      const int64_t top = i * call_.stride[0] - call_.padding[0], bottom = top + call_.kernel[0];
      const int64_t begin = std::max<int64_t>(top, 0);
      row.rows = std::min(bottom, call_.in_height) - begin;
      row.counted_rows = row.count_padding ? std::min(bottom, call_.in_height + call_.padding[2]) - top : row.rows;
      row.new_rows = far_ && i + 1 < task.last ? std::min(call_.stride[0], call_.in_height - begin - row.rows) : 0;
      row.input = input + (begin - task.in_first) * row.in_row;
      row.output = output;
      pool_(row);
    }
  }

  void store(const Task& task, const float* pixels, float* plane) const {
    Store store = {};
    store.pixels = pixels;
    store.count = (task.last - task.first) * call_.out_width;
    store.output = plane + task.first * out_row_;
    store.plane = call_.out_height * out_row_;
    store.filters = channels(task);
    store_(store);
  }

  const hetc_pool2d& call_;
  const Layout in_layout_, out_layout_;
  const int64_t in_row_, out_row_;  // elements of a row of a plane
  const FillFunction fill_;
  const StoreFunction store_;
  const PoolFunction pool_;
  std::vector<int32_t> column_at_;
  int64_t rows_, per_plane_, blocks_, tasks_, in_floats_ = 0, out_floats_ = 0;
  float* scratch_ = nullptr;
  bool far_;
  std::atomic<int64_t> next_{0};
};

}  // namespace

void run_pool(const hetc_pool2d& call, const Path& path) { PoolRun(call, path).run(); }

}  // namespace hetc

extern "C" int hetc_pool2d_run(const hetc_pool2d* call, char* message, size_t message_size) {
  return hetc::report(message, message_size, [call] {
    if (!call || call->size != sizeof(hetc_pool2d)) throw hetc::Invalid("the caller was built for another version");
    hetc::check_pool(*call);
    const hetc::Path* path = hetc::find_path(call->path);
    if (!path) throw hetc::Invalid("path: this processor does not run " + std::string(call->path));
    if (call->batch) hetc::run_pool(*call, *path);
  });
}
