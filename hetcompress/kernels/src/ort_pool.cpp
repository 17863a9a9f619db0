// The onnxruntime operator hetcompress::BlockedPool2d: pooling, and the change between layouts.
//
// One input, images.  Attributes: channels, vector, kernel_shape, strides, pads, average, count_include_pad, ceil_mode,
// layout_in and layout_out.  What is malformed ends the creation of the session.
#include "dispatch.h"
#include "ort_tools.h"
#include "pool_run.h"

namespace hetc {
namespace {

class Kernel {
 public:
  static constexpr const char* kName = "BlockedPool2d";

  Kernel(const ort::Api& api, const ort::KernelInfo* info) : api_(api) {
    const auto number = [&](const char* name) { return integer(api, info, name); };
    call_.size = sizeof call_;
    call_.vector = number("vector"), call_.channels = number("channels");
    integers(api, info, "kernel_shape", call_.kernel);
    integers(api, info, "strides", call_.stride);
    integers(api, info, "pads", call_.padding);
    call_.average = number("average");
    call_.count_padding = number("count_include_pad"), call_.round_up = number("ceil_mode");
    call_.blocked_in = number("layout_in"), call_.blocked_out = number("layout_out");
    call_.threads = most_threads();
    check_window(call_);
  }

  void compute(ort::KernelContext* context) {
    hetc_pool2d call = call_;
    const Tensor tensor = input(api_, context, 0, ort::kFloat, "images");
    const Images images = images_of(layout_in(call), tensor.sizes);
    call.batch = images.batch, call.in_height = images.height, call.in_width = images.width;
    call.out_height = pooled_size(call, 0), call.out_width = pooled_size(call, 1);
    const std::vector<int64_t> sizes = sizes_of(layout_out(call), {call.batch, call.out_height, call.out_width});
    call.input = static_cast<const float*>(tensor.data);
    call.input_size = tensor.elements();
    call.output = static_cast<float*>(output(api_, context, sizes));
    call.output_size = Tensor{sizes, nullptr}.elements();
    check_pool(call);
    if (call.batch == 0) return;
    Parallel parallel(api_, context, call.parallel, call.context);
    run_pool(call, *find_path(nullptr));
    parallel.finish();
  }

 private:
  const ort::Api& api_;
  hetc_pool2d call_ = {};
};

}  // namespace

const ort::CustomOp& pool_operator() {
  static const ort::CustomOp op = [] {
    ort::CustomOp made = operator_of<Kernel>();
    made.input_count = [](const ort::CustomOp*) { return size_t(1); };
    made.input_type = made.output_type = [](const ort::CustomOp*, size_t) { return ort::kFloat; };
    made.input_characteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
    return made;
  }();
  return op;
}

}  // namespace hetc
