// The onnxruntime operator hetcompress::VectorBlockConv2d.
//
// Inputs: images, values, taps, starts, bias (may be missing), residual (may be missing).  All but images and residual
// are constants.  Attributes: `read_attributes`, layout_in and layout_out.  What is malformed ends the creation of the
// session.
#include "dispatch.h"
#include "ort_tools.h"
#include "run.h"

namespace hetc {
namespace {

enum Input : size_t { kImages, kValues, kTaps, kStarts, kBias, kResidual, kInputs };

class Kernel {
 public:
  static constexpr const char* kName = "VectorBlockConv2d";

  Kernel(const ort::Api& api, const ort::KernelInfo* info) : api_(api) {
    call_.size = sizeof call_;
    read_attributes(api, info, call_);
    call_.blocked_in = integer(api, info, "layout_in");
    call_.blocked_out = integer(api, info, "layout_out");
    const Tensor values = constant(api, info, kValues, ort::kFloat, "values");
    const Tensor bias = constant(api, info, kBias, ort::kFloat, "bias");
    const Tensor taps = constant(api, info, kTaps, ort::kInt32, "taps");
    read_lists(values, taps, constant(api, info, kStarts, ort::kInt32, "starts"), bias, call_);
    call_.values = static_cast<const float*>(values.data);
    call_.bias = static_cast<const float*>(bias.data);
    hetc_conv2d smallest = call_;
    set_smallest_sizes(smallest);
    check(smallest);
  }

  void compute(ort::KernelContext* context) {
    hetc_conv2d call = call_;
    require_constant(api_, context, kBias, call.bias, "bias");
    const Tensor images = input(api_, context, kImages, ort::kFloat, "images");
    set_sizes(call, images.sizes);
    call.input = static_cast<const float*>(images.data);
    call.input_size = images.elements();
    const std::vector<int64_t> sizes = output_sizes(call);
    const Tensor residual = input(api_, context, kResidual, ort::kFloat, "residual");
    if (residual.data && residual.sizes != sizes) throw Invalid("residual: its shape is not that of the output");
    call.residual = static_cast<const float*>(residual.data);
    call.output = static_cast<float*>(output(api_, context, sizes));
    call.output_size = Tensor{sizes, nullptr}.elements();
    std::vector<float> apart;
    if (call.residual == call.output && !call.blocked_out) {
      apart.assign(call.residual, call.residual + call.output_size);
      call.residual = apart.data();
    }
    check_call(call);
    if (call.output_size == 0) return;
    const auto plan = plans_.find(call, [&] { return std::make_shared<Plan>(call, path_); });
    Parallel parallel(api_, context, call.parallel, call.context);
    run_checked(call, path_, *plan);
    parallel.finish();
  }

 private:
  const ort::Api& api_;
  const Path& path_ = *find_path(nullptr);
  hetc_conv2d call_ = {};
  Plans<Plan> plans_;
};

}  // namespace

const ort::CustomOp& real_operator() {
  static const ort::CustomOp op = [] {
    ort::CustomOp made = operator_of<Kernel>();
    made.input_count = [](const ort::CustomOp*) { return size_t(kInputs); };
    made.input_type = [](const ort::CustomOp*, size_t index) {
      return index == kTaps || index == kStarts ? ort::kInt32 : ort::kFloat;
    };
    made.input_characteristic = [](const ort::CustomOp*, size_t index) {
      return index == kBias || index == kResidual ? ort::kOptional : ort::kRequired;
    };
    made.output_type = [](const ort::CustomOp*, size_t) { return ort::kFloat; };
    // the result may take the place of what is added, if nothing else reads that: its lines are in the cache already
    made.in_place = [](int** inputs, int** outputs) {
      static int input = kResidual, output = 0;
      *inputs = &input, *outputs = &output;
      return size_t(1);
    };
    made.release_in_place = [](int*, int*) {};
    return made;
  }();
  return op;
}

}  // namespace hetc
