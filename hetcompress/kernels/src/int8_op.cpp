// The onnxruntime operator hetcompress::QLinearVectorBlockConv2d, after ONNX's QLinearConv.
//
// Inputs: images, their scale and zero; values, the scales of the filters; the output's scale and zero; taps, starts;
// bias (may be missing); a residual with its scale and zero (may be missing).  Images and residual apart, all are
// constants.  Weights have no zero.  Attributes: `read_attributes`.  What is malformed ends the creation of the session.
#include "dispatch.h"
#include "int8_run.h"
#include "ort_tools.h"

namespace hetc {
namespace {

enum Input : size_t {
  kImages, kImageScale, kImageZero, kValues, kWeightScales, kOutScale, kOutZero, kTaps, kStarts, kBias,
  kResidual, kResidualScale, kResidualZero, kInputs
};

ort::ElementType type_of(size_t index) {
  switch (index) {
    case kImages: case kImageZero: case kOutZero: case kResidual: case kResidualZero: return ort::kUint8;
    case kValues: return ort::kInt8;
    case kTaps: case kStarts: case kBias: return ort::kInt32;
    default: return ort::kFloat;
  }
}

struct Plan {
  Plan(const hetc_int8_conv2d& call, const Int8Weights& weights, const Int8Path& path)
      : strips(call, path), offsets(strips.offsets(call, weights, path)) {}

  Int8Strips strips;
  std::vector<int32_t> offsets;
};

class Kernel {
 public:
  static constexpr const char* kName = "QLinearVectorBlockConv2d";

  Kernel(const ort::Api& api, const ort::KernelInfo* info) : api_(api), path_(*find_int8_path(nullptr)) {
    hetc_conv2d& conv = call_.conv;
    conv.size = sizeof call_;
    read_attributes(api, info, conv);
    const auto read = [&](size_t index, const char* name) { return constant(api, info, index, type_of(index), name); };
    const Tensor values = read(kValues, "values"), bias = read(kBias, "bias");
    read_lists(values, read(kTaps, "taps"), read(kStarts, "starts"), bias, conv);
    call_.values = static_cast<const int8_t*>(values.data);
    call_.bias = static_cast<const int32_t*>(bias.data);
    const Tensor scales = read(kWeightScales, "w_scale");
    if (!scales.data || scales.elements() != conv.out_channels) {
      throw Invalid("w_scale: expected a constant, one number for each filter");
    }
    call_.weight_scales = static_cast<const float*>(scales.data);
    call_.input_scale = single<float>(read(kImageScale, "x_scale"));
    call_.input_zero = single<uint8_t>(read(kImageZero, "x_zero_point"));
    call_.output_scale = single<float>(read(kOutScale, "y_scale"));
    call_.output_zero = single<uint8_t>(read(kOutZero, "y_zero_point"));
    const Tensor scale = read(kResidualScale, "residual_scale");
    if (scale.data) {
      call_.residual_scale = single<float>(scale);
      call_.residual_zero = single<uint8_t>(read(kResidualZero, "residual_zero_point"));
    }
    hetc_int8_conv2d smallest = call_;
    set_smallest_sizes(smallest.conv);
    check_int8(smallest);
    weights_ = std::make_unique<Int8Weights>(call_, path_);
  }

  void compute(ort::KernelContext* context) {
    hetc_int8_conv2d call = call_;
    require_constant(api_, context, kBias, call.bias, "bias");
    const Tensor images = input(api_, context, kImages, ort::kUint8, "images");
    set_sizes(call.conv, images.sizes);
    call.input = static_cast<const uint8_t*>(images.data);
    call.conv.input_size = images.elements();
    const std::vector<int64_t> sizes = output_sizes(call.conv);
    const Tensor residual = input(api_, context, kResidual, ort::kUint8, "residual");
    if (residual.data && residual.sizes != sizes) throw Invalid("residual: its shape is not that of the output");
    call.residual = static_cast<const uint8_t*>(residual.data);
    call.output = static_cast<uint8_t*>(output(api_, context, sizes));
    call.conv.output_size = Tensor{sizes, nullptr}.elements();
    check_int8_call(call);
    if (call.conv.output_size == 0) return;
    const auto plan = plans_.find(call.conv, [&] { return std::make_shared<Plan>(call, *weights_, path_); });
    Parallel parallel(api_, context, call.conv.parallel, call.conv.context);
    run_int8(call, path_, *weights_, plan->strips, plan->offsets.data());
    parallel.finish();
  }

 private:
  template <typename Number>
  static Number single(const Tensor& tensor) {
    if (!tensor.data || tensor.elements() != 1) throw Invalid("scales and zeros of tensors: expected single constants");
    return *static_cast<const Number*>(tensor.data);
  }

  const ort::Api& api_;
  const Int8Path& path_;
  hetc_int8_conv2d call_ = {};
  std::unique_ptr<const Int8Weights> weights_;
  Plans<Plan> plans_;
};

}  // namespace

const ort::CustomOp& int8_operator() {
  static const ort::CustomOp op = [] {
    ort::CustomOp made = operator_of<Kernel>();
    made.input_count = [](const ort::CustomOp*) { return size_t(kInputs); };
    made.input_type = [](const ort::CustomOp*, size_t index) { return type_of(index); };
    made.input_characteristic = [](const ort::CustomOp*, size_t index) {
      return index >= kBias ? ort::kOptional : ort::kRequired;
    };
    made.output_type = [](const ort::CustomOp*, size_t) { return ort::kUint8; };
    return made;
  }();
  return op;
}

}  // namespace hetc
