// The onnxruntime operator hetcompress::VectorBlockConv2d.
//
// Inputs: images, values, taps, starts, bias (may be missing), residual (may be missing).  All but images and residual
// are constants.  Attributes: those of `Attributes` below.  What is malformed ends the creation of the session.
#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "dispatch.h"
#include "ort_api.h"
#include "run.h"
#include "shape.h"

namespace hetc {
namespace {

enum Input : size_t { kImages, kValues, kTaps, kStarts, kBias, kResidual, kInputs };

// A status that the runtime returned, on its way back to it.
struct Failed {
  ort::Status* status;
};

void ok(ort::Status* status) {
  if (status) throw Failed{status};
}

struct Tensor {
  std::vector<int64_t> sizes;
  const void* data = nullptr;

  int64_t elements() const {
    int64_t count = 1;
    for (int64_t size : sizes) count *= size;
    return count;
  }
};

Tensor read(const ort::Api& api, const ort::Value* value, ort::ElementType type, const char* name) {
  ort::TensorInfo* raw = nullptr;
  ok(api.tensor_info(value, &raw));
  const auto release = [&api](ort::TensorInfo* info) { api.release(info); };
  const std::unique_ptr<ort::TensorInfo, decltype(release)> info(raw, release);
  ort::ElementType found;
  ok(api.element_type(info.get(), &found));
  if (found != type) throw Invalid(std::string(name) + ": the wrong type of elements");
  Tensor tensor;
  size_t rank = 0;
  ok(api.rank(info.get(), &rank));
  tensor.sizes.resize(rank);
  ok(api.sizes(info.get(), tensor.sizes.data(), rank));
  void* data = nullptr;
  ok(api.data(value, &data));
  tensor.data = data;
  return tensor;
}

// A missing optional constant has no data.
Tensor constant(const ort::Api& api, const ort::KernelInfo* info, size_t index, ort::ElementType type, const char* name) {
  int is_constant = 0;
  const ort::Value* value = nullptr;
  ok(api.constant_input(info, index, &is_constant, &value));
  return is_constant && value ? read(api, value, type, name) : Tensor();
}

int64_t integer(const ort::Api& api, const ort::KernelInfo* info, const char* name) {
  int64_t value = 0;
  ok(api.attribute(info, name, &value));
  return value;
}

float real(const ort::Api& api, const ort::KernelInfo* info, const char* name) {
  float value = 0;
  ok(api.attribute(info, name, &value));
  return value;
}

template <size_t COUNT>
void integers(const ort::Api& api, const ort::KernelInfo* info, const char* name, int64_t (&values)[COUNT]) {
  size_t count = 0;
  ok(api.attribute(info, name, nullptr, &count));
  if (count != COUNT) throw Invalid(std::string(name) + ": expected " + std::to_string(COUNT) + " numbers");
  ok(api.attribute(info, name, values, &count));
}

// What depends on the size of the images, kept while that stays the same.
struct Plan {
  explicit Plan(const hetc_conv2d& call) : strips(call), offsets(strips.offsets(call)) {}

  int64_t batch = 0, height = 0, width = 0;
  Strips strips;
  std::vector<int32_t> offsets;
};

struct Parallel {
  const ort::Api& api;
  const ort::KernelContext* context;
  ort::Status* status;
};

void run_in_runtime(void* context, hetc_body body, void* argument, size_t slots) {
  auto& parallel = *static_cast<Parallel*>(context);
  if (slots == 1) {
    body(argument, 0);
  } else {
    parallel.status = parallel.api.parallel_for(parallel.context, body, slots, 0, argument);
  }
}

class Kernel {
 public:
  Kernel(const ort::Api& api, const ort::KernelInfo* info) : api_(api) {
    call_.size = sizeof call_;
    call_.in_channels = integer(api, info, "in_channels");
    call_.out_channels = integer(api, info, "out_channels");
    call_.groups = integer(api, info, "group");
    call_.blocked_in = integer(api, info, "layout_in");
    call_.blocked_out = integer(api, info, "layout_out");
    call_.low = real(api, info, "low");
    call_.high = real(api, info, "high");
    integers(api, info, "kernel_shape", call_.kernel);
    integers(api, info, "strides", call_.stride);
    integers(api, info, "dilations", call_.dilation);
    integers(api, info, "pads", call_.padding);
    call_.threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 1024);
    read_weights(info);
    check_on_smallest_image();
  }

  void compute(ort::KernelContext* context) {
    hetc_conv2d call = call_;
    const Tensor images = input(context, kImages, "images");
    set_sizes(call, images.sizes);
    call.input = static_cast<const float*>(images.data);
    call.input_size = images.elements();
    std::vector<int64_t> sizes = {call.batch, call.out_channels, call.out_height, call.out_width};
    if (call.blocked_out) {
      sizes[1] = ceil_div(call.out_channels, call.vector);
      sizes.push_back(call.vector);
    }
    const Tensor residual = input(context, kResidual, "residual");
    if (residual.data && residual.sizes != sizes) throw Invalid("residual: its shape is not that of the output");
    call.residual = static_cast<const float*>(residual.data);
    for (int64_t size : sizes) {
      if (size < 0) throw Invalid("the padded image is smaller than the kernel");
    }
    ort::Value* value = nullptr;
    ok(api_.output(context, 0, sizes.data(), sizes.size(), &value));
    void* output = nullptr;
    ok(api_.data(value, &output));
    call.output = static_cast<float*>(output);
    call.output_size = 1;
    for (int64_t size : sizes) call.output_size *= size;
    check_call(call);
    if (call.output_size == 0) return;
    const std::shared_ptr<const Plan> plan = plan_for(call);
    Parallel parallel{api_, context, nullptr};
    call.parallel = run_in_runtime;
    call.context = &parallel;
    run_checked(call, *find_path(nullptr), plan->strips, plan->offsets.data());
    ok(parallel.status);
  }

 private:
  void read_weights(const ort::KernelInfo* info) {
    const Tensor values = constant(api_, info, kValues, ort::kFloat, "values");
    const Tensor taps = constant(api_, info, kTaps, ort::kInt32, "taps");
    const Tensor starts = constant(api_, info, kStarts, ort::kInt32, "starts");
    const Tensor bias = constant(api_, info, kBias, ort::kFloat, "bias");
    if (values.sizes.size() != 2 || taps.sizes.size() != 1 || starts.sizes.size() != 1 || !starts.elements()) {
      throw Invalid("values, taps, starts: expected constants of 2, 1 and 1 dimensions");
    }
    if (taps.elements() != values.sizes[0]) throw Invalid("taps: expected one for each vector");
    if (bias.data && bias.elements() != call_.out_channels) throw Invalid("bias: expected one for each filter");
    call_.vector = values.sizes[1];
    call_.vectors = values.sizes[0];
    call_.blocks = starts.elements() - 1;
    call_.values = static_cast<const float*>(values.data);
    call_.taps = static_cast<const int32_t*>(taps.data);
    call_.starts = static_cast<const int32_t*>(starts.data);
    call_.bias = static_cast<const float*>(bias.data);
  }

  // So that a file's mistakes show when it is opened, not when it is run.
  void check_on_smallest_image() const {
    hetc_conv2d call = call_;
    int64_t sizes[2];
    for (int axis = 0; axis < 2; ++axis) {
      constexpr int64_t kMost = 1 << 30;
      for (int64_t value : {call.kernel[axis], call.dilation[axis], call.stride[axis]}) {
        if (value < 1 || value > 1 << 15) throw Invalid("kernel_shape, strides, dilations: out of range");
      }
      for (int64_t pad : {call.padding[axis], call.padding[axis + 2]}) {
        if (pad < 0 || pad > kMost) throw Invalid("pads: out of range");
      }
      const int64_t extent = (call.kernel[axis] - 1) * call.dilation[axis] + 1;
      sizes[axis] = std::max<int64_t>(1, extent - call.padding[axis] - call.padding[axis + 2]);
    }
    if (call.vector < 1 || call.vector > 64) throw Invalid("values: an unknown vector length");
    const int64_t channels = call.blocked_in ? ceil_div(call.in_channels, call.vector) : call.in_channels;
    std::vector<int64_t> shape = {0, channels, sizes[0], sizes[1]};
    if (call.blocked_in) shape.push_back(call.vector);
    set_sizes(call, shape);
    call.input_size = call.output_size = 0;
    check(call);
  }

  void set_sizes(hetc_conv2d& call, const std::vector<int64_t>& sizes) const {
    const size_t rank = call.blocked_in ? 5 : 4;
    const int64_t channels = call.blocked_in ? ceil_div(call.in_channels, call.vector) : call.in_channels;
    if (sizes.size() != rank || sizes[1] != channels || (call.blocked_in && sizes[4] != call.vector)) {
      throw Invalid("images: another shape than the layout and the channels ask for");
    }
    call.batch = sizes[0];
    call.in_height = sizes[2];
    call.in_width = sizes[3];
    int64_t out[2];
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t padded = sizes[2 + axis] + call.padding[axis] + call.padding[axis + 2];
      const int64_t room = padded - (call.kernel[axis] - 1) * call.dilation[axis] - 1;
      out[axis] = room < 0 ? -1 : room / call.stride[axis] + 1;
    }
    call.out_height = out[0];
    call.out_width = out[1];
  }

  Tensor input(const ort::KernelContext* context, size_t index, const char* name) const {
    size_t count = 0;
    ok(api_.input_count(context, &count));
    const ort::Value* value = nullptr;
    if (index < count) ok(api_.input(context, index, &value));
    return value ? read(api_, value, ort::kFloat, name) : Tensor();
  }

  std::shared_ptr<const Plan> plan_for(const hetc_conv2d& call) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (plan_ && plan_->batch == call.batch && plan_->height == call.in_height && plan_->width == call.in_width) {
        return plan_;
      }
    }
    const auto plan = std::make_shared<Plan>(call);
    plan->batch = call.batch;
    plan->height = call.in_height;
    plan->width = call.in_width;
    const std::lock_guard<std::mutex> lock(mutex_);
    plan_ = plan;
    return plan;
  }

  const ort::Api& api_;
  hetc_conv2d call_ = {};
  std::mutex mutex_;  // several threads may run one session
  std::shared_ptr<const Plan> plan_;
};

// Runs `work`, its exceptions turned into a status: none may pass through the runtime.
template <typename Work>
ort::Status* guarded(const ort::Api& api, Work work) {
  try {
    work();
    return nullptr;
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const Invalid& error) {
    return api.create_status(ort::kInvalidArgument, (std::string("VectorBlockConv2d: ") + error.what()).c_str());
  } catch (const std::exception& error) {
    return api.create_status(ort::kFail, (std::string("VectorBlockConv2d: ") + error.what()).c_str());
  }
}

struct Created {
  const ort::Api& api;
  Kernel kernel;
};

ort::Status* create(const ort::CustomOp*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
  return guarded(*api, [&] { *kernel = new Created{*api, {*api, info}}; });
}

ort::Status* compute(void* kernel, ort::KernelContext* context) {
  auto& created = *static_cast<Created*>(kernel);
  return guarded(created.api, [&] { created.kernel.compute(context); });
}

void destroy(void* kernel) { delete static_cast<Created*>(kernel); }

ort::ElementType input_type(const ort::CustomOp*, size_t index) {
  return index == kTaps || index == kStarts ? ort::kInt32 : ort::kFloat;
}

ort::Characteristic input_characteristic(const ort::CustomOp*, size_t index) {
  return index == kBias || index == kResidual ? ort::kOptional : ort::kRequired;
}

ort::CustomOp make_operator() {
  ort::CustomOp op = {};
  op.version = ort::kVersion;
  op.name = [](const ort::CustomOp*) { return "VectorBlockConv2d"; };
  op.execution_provider = [](const ort::CustomOp*) -> const char* { return nullptr; };  // the processor's
  op.input_type = input_type;
  op.input_count = [](const ort::CustomOp*) { return size_t(kInputs); };
  op.output_type = [](const ort::CustomOp*, size_t) { return ort::kFloat; };
  op.output_count = [](const ort::CustomOp*) { return size_t(1); };
  op.destroy = destroy;
  op.input_characteristic = input_characteristic;
  op.output_characteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
  op.input_memory = [](const ort::CustomOp*, size_t) { return 0; };
  op.variadic_input_least = op.variadic_output_least = [](const ort::CustomOp*) { return 1; };
  op.variadic_input_alike = op.variadic_output_alike = [](const ort::CustomOp*) { return 1; };
  op.create_kernel_v2 = create;
  op.compute_v2 = compute;
  op.first_version = [](const ort::CustomOp*) { return 1; };
  op.last_version = [](const ort::CustomOp*) { return INT32_MAX; };
  return op;
}

// One domain for each runtime in the process; sessions refer to it, so it stays.
ort::Domain* domain_of(const ort::Api& api) {
  static const ort::CustomOp op = make_operator();
  static std::mutex mutex;
  static std::vector<std::pair<const ort::Api*, ort::Domain*>> domains;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& known : domains) {
    if (known.first == &api) return known.second;
  }
  ort::Domain* domain = nullptr;
  ok(api.create_domain("hetcompress", &domain));
  ok(api.add_operator(domain, &op));
  domains.emplace_back(&api, domain);
  return domain;
}

}  // namespace
}  // namespace hetc

extern "C" HETC_EXPORT hetc::ort::Status* RegisterCustomOps(hetc::ort::SessionOptions* options,
                                                            const hetc::ort::ApiBase* base) {
  const hetc::ort::Api* api = base->get_api(hetc::ort::kVersion);
  if (!api) {
    return base->get_api(1)->create_status(hetc::ort::kFail, "hetcompress needs onnxruntime 1.17 or newer");
  }
  return hetc::guarded(*api, [&] { hetc::ok(api->add_domain(options, hetc::domain_of(*api))); });
}
