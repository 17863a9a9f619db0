#include "check.h"
#include "pool_run.h"

namespace hetc {

int64_t pooled_size(const hetc_pool2d& call, int axis) {
  const int64_t size = axis ? call.in_width : call.in_height, before = call.padding[axis];
  const int64_t room = size + before + call.padding[axis + 2] - call.kernel[axis], stride = call.stride[axis];
  if (room < 0) return 0;
  if (!call.round_up) return room / stride + 1;
  const int64_t count = ceil_div(room, stride) + 1;
  return (count - 1) * stride < size + before ? count : count - 1;
}

void check_window(const hetc_pool2d& call) {
  check_layouts(layout_in(call), layout_out(call));
  between("channels", call.channels, 1, kLargest);
  for (int axis = 0; axis < 2; ++axis) {
    between("kernel", call.kernel[axis], 1, kLargestKernel);
    between("stride", call.stride[axis], 1, kLargestStep);
    between("padding", call.padding[axis], 0, call.kernel[axis] - 1);
    between("padding", call.padding[axis + 2], 0, call.kernel[axis] - 1);
  }
  between("average", call.average, 0, 1);
  between("count_padding", call.count_padding, 0, 1);
  between("round_up", call.round_up, 0, 1);
}

void check_pool(const hetc_pool2d& call) {
  check_window(call);
  between("batch", call.batch, 0, kLargest);
  between("in_height", call.in_height, 1, kLargest);
  between("in_width", call.in_width, 1, kLargest);
  equal("out_height", call.out_height, pooled_size(call, 0));
  equal("out_width", call.out_width, pooled_size(call, 1));
  require(call.out_height > 0 && call.out_width > 0, "the padded image is smaller than the kernel");
  between("threads", call.threads, 1, 1024);
  equal("elements of the input", call.input_size,
        elements(layout_in(call), call.batch, call.in_height, call.in_width));
  equal("elements of the output", call.output_size,
        elements(layout_out(call), call.batch, call.out_height, call.out_width));
  require((call.input && call.output) || !call.batch, "input or output: NULL");
}

}  // namespace hetc
