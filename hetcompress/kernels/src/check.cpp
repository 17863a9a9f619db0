#include "check.h"

#include <algorithm>
#include <limits>
#include <string>

namespace hetc {
namespace {

constexpr int64_t kElements = int64_t(1) << 44;  // of one buffer

}  // namespace

void between(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw Invalid(std::string(name) + ": expected " + std::to_string(low) + " to " + std::to_string(high) + ", found " +
                std::to_string(value));
}

void equal(const char* name, int64_t value, int64_t expected) {
  if (value == expected) return;
  throw Invalid(std::string(name) + ": expected " + std::to_string(expected) + ", found " + std::to_string(value));
}

int64_t elements(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) {
    require(!__builtin_mul_overflow(product, size, &product) && product <= kElements, "a tensor is too large");
  }
  return product;
}

int64_t elements(const Layout& layout, int64_t batch, int64_t height, int64_t width) {
  return elements({batch, layout.planes(), height, width, layout.pixel()});
}

void check_layouts(const Layout& in, const Layout& out) {
  if (in.vector != 4 && in.vector != 8 && in.vector != 16) {
    throw Invalid("vector: expected 4, 8 or 16, found " + std::to_string(in.vector));
  }
  between("blocked_in", in.blocked, 0, 1);
  between("blocked_out", out.blocked, 0, 1);
}

namespace {

void check_sizes(const hetc_conv2d& call) {
  check_layouts(layout_in(call), layout_out(call));
  between("batch", call.batch, 0, kLargest);
  between("in_channels", call.in_channels, 1, kLargest);
  between("in_height", call.in_height, 0, kLargest);
  between("in_width", call.in_width, 0, kLargest);
  between("out_channels", call.out_channels, 1, kLargest);
  between("groups", call.groups, 1, kLargest);
  require(call.in_channels % call.groups == 0 && call.out_channels % call.groups == 0,
          "groups: they divide neither or only one of the channel counts");
  for (int axis = 0; axis < 2; ++axis) {
    between("kernel", call.kernel[axis], 1, kLargestKernel);
    between("stride", call.stride[axis], 1, kLargestStep);
    between("dilation", call.dilation[axis], 1, kLargestStep);
    between("padding", call.padding[axis], 0, kLargest);
    between("padding", call.padding[axis + 2], 0, kLargest);
    const int64_t padded = (axis ? call.in_width : call.in_height) + call.padding[axis] + call.padding[axis + 2];
    const int64_t extent = (call.kernel[axis] - 1) * call.dilation[axis] + 1;
    require(padded >= extent, "the padded image is smaller than the kernel");
    equal(axis ? "out_width" : "out_height", axis ? call.out_width : call.out_height,
          (padded - extent) / call.stride[axis] + 1);
  }
  require(!call.blocked_out || call.groups == 1 || call.out_channels / call.groups % call.vector == 0,
          "blocked_out: a block of filters would belong to two groups");
  between("threads", call.threads, 1, 1024);
  const float infinite = std::numeric_limits<float>::infinity();  // neither may be a NaN, which compares false
  require(call.low <= call.high && call.low < infinite && call.high > -infinite,
          "low, high: expected two numbers in ascending order");
}

void check_buffers(const hetc_conv2d& call) {
  const int64_t per_group = call.out_channels / call.groups;
  equal("blocks", call.blocks, elements({call.groups, ceil_div(per_group, call.vector)}));
  between("vectors", call.vectors, 0, INT32_MAX);
  elements({call.vectors, call.vector});
  elements({call.in_channels, call.kernel[0], call.kernel[1]});
  equal("elements of the input", call.input_size,
        elements(layout_in(call), call.batch, call.in_height, call.in_width));
  equal("elements of the output", call.output_size,
        elements(layout_out(call), call.batch, call.out_height, call.out_width));
  require(call.starts && (call.vectors == 0 || (call.taps && call.values)), "values, taps or starts: NULL");
  require((call.input || !call.input_size) && (call.output || !call.output_size), "input or output: NULL");
}

void check_indices(const hetc_conv2d& call) {
  require(call.starts[0] == 0 && call.starts[call.blocks] == call.vectors, "starts: expected 0 to the vectors");
  require(std::is_sorted(call.starts, call.starts + call.blocks + 1), "starts: expected an ascending order");
  const int64_t taps = call.in_channels / call.groups * call.kernel[0] * call.kernel[1];
  require(taps <= INT32_MAX, "the kernels are too large");
  uint32_t largest = 0;  // negative taps count as large ones; without a branch it is a vector loop
  for (int64_t i = 0; i < call.vectors; ++i) largest = std::max(largest, static_cast<uint32_t>(call.taps[i]));
  if (call.vectors > 0 && largest >= taps) throw Invalid("taps: expected 0 to " + std::to_string(taps - 1));
}

}  // namespace

void check_call(const hetc_conv2d& call) {
  check_sizes(call);
  check_buffers(call);
}

void check(const hetc_conv2d& call) {
  check_call(call);
  check_indices(call);
}

}  // namespace hetc
