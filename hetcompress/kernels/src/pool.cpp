// Maximum pooling of blocked images: checks, and the rows shared out among threads.
#include <algorithm>
#include <atomic>

#include "dispatch.h"
#include "report.h"
#include "threads.h"

namespace hetc {
namespace {

constexpr int64_t kLargest = int64_t(1) << 30;
// Output numbers that are worth a thread of their own.
constexpr int64_t kPerThread = 16 << 10;

void between(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) throw Invalid(std::string(name) + ": out of bounds");
}

void check_pool(const hetc_max_pool& call) {
  between("vector", call.vector, 4, 16);
  int64_t input = call.vector * 4, output = input;
  for (int64_t size : {call.images, call.height, call.width, call.out_height, call.out_width}) {
    between("size", size, 0, kLargest);
  }
  for (int axis = 0; axis < 2; ++axis) {
    between("kernel", call.kernel[axis], 1, 1 << 12);
    between("stride", call.stride[axis], 1, 1 << 15);
    between("dilation", call.dilation[axis], 1, 1 << 15);
    between("padding", call.padding[axis], 0, 1 << 12);
  }
  between("threads", call.threads, 1, 1024);
  const int64_t sizes[2][3] = {{call.images, call.height, call.width}, {call.images, call.out_height, call.out_width}};
  for (int i = 0; i < 3; ++i) {
    if (__builtin_mul_overflow(input, sizes[0][i], &input) || __builtin_mul_overflow(output, sizes[1][i], &output)) {
      throw Invalid("a tensor is too large");
    }
  }
  if ((input && !call.input) || (output && !call.output)) throw Invalid("input or output: NULL");
}

struct Pool {
  const hetc_max_pool& call;
  PoolFunction function;
  std::atomic<int64_t> next{0};

  void work() {
    for (int64_t image = next++; image < call.images; image = next++) {
      for (int64_t row = 0; row < call.out_height; ++row) function(row_at(image, row));
    }
  }

  PoolRow row_at(int64_t image, int64_t row) const {
    const int64_t top = row * call.stride[0] - call.padding[0], step = call.dilation[0];
    const int64_t skipped = top < 0 ? ceil_div(-top, step) : 0;
    const int64_t end = top >= call.height ? 0 : std::min(call.kernel[0], ceil_div(call.height - top, step));
    PoolRow result;
    result.image = call.input + image * call.height * call.width * call.vector;
    result.output = call.output + (image * call.out_height + row) * call.out_width * call.vector;
    result.width = call.width;
    result.out_width = call.out_width;
    result.first_row = top + skipped * step;
    result.rows = std::max<int64_t>(end - skipped, 0);
    result.row_step = step;
    result.left = -call.padding[1];
    result.taps = call.kernel[1];
    result.tap_step = call.dilation[1];
    result.stride = call.stride[1];
    return result;
  }
};

}  // namespace
}  // namespace hetc

extern "C" int hetc_max_pool_run(const hetc_max_pool* call, char* message, size_t message_size) {
  return hetc::report(message, message_size, [call] {
    if (!call || call->size != sizeof(hetc_max_pool)) throw hetc::Invalid("the caller was built for another version");
    hetc::check_pool(*call);
    const hetc::PoolFunction function = hetc::find_path(nullptr)->pool(static_cast<int>(call->vector));
    if (!function) throw hetc::Invalid("vector: expected 4, 8 or 16");
    hetc::Pool pool{*call, function};
    const int64_t numbers = call->images * call->out_height * call->out_width * call->vector;
    const int64_t slots = std::min({call->threads, call->images, numbers / hetc::kPerThread});
    hetc::run_on_threads(
        static_cast<size_t>(std::max<int64_t>(slots, 1)),
        [](void* argument, size_t) { static_cast<hetc::Pool*>(argument)->work(); }, &pool);
  });
}
