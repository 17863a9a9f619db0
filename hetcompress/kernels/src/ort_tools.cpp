#include "ort_tools.h"

#include <algorithm>
#include <thread>

namespace hetc {
namespace {

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

void run_in_runtime(void* context, hetc_body body, void* argument, size_t slots) {
  auto& parallel = *static_cast<Parallel*>(context);
  if (slots == 1) {
    body(argument, 0);
  } else {
    parallel.status = parallel.api.parallel_for(parallel.context, body, slots, 0, argument);
  }
}

}  // namespace

int64_t Tensor::elements() const {
  int64_t count = 1;
  for (int64_t size : sizes) count *= size;
  return count;
}

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

Tensor constant(const ort::Api& api, const ort::KernelInfo* info, size_t index, ort::ElementType type, const char* name) {
  int is_constant = 0;
  const ort::Value* value = nullptr;
  ok(api.constant_input(info, index, &is_constant, &value));
  return is_constant && value ? read(api, value, type, name) : Tensor();
}

Tensor input(const ort::Api& api, const ort::KernelContext* context, size_t index, ort::ElementType type,
             const char* name) {
  size_t count = 0;
  ok(api.input_count(context, &count));
  const ort::Value* value = nullptr;
  if (index < count) ok(api.input(context, index, &value));
  return value ? read(api, value, type, name) : Tensor();
}

void* output(const ort::Api& api, ort::KernelContext* context, const std::vector<int64_t>& sizes) {
  ort::Value* value = nullptr;
  ok(api.output(context, 0, sizes.data(), sizes.size(), &value));
  void* data = nullptr;
  ok(api.data(value, &data));
  return data;
}

int64_t integer(const ort::Api& api, const ort::KernelInfo* info, const char* name) {
  int64_t value = 0;
  ok(api.attribute(info, name, &value));
  return value;
}

void read_attributes(const ort::Api& api, const ort::KernelInfo* info, hetc_conv2d& call) {
  call.in_channels = integer(api, info, "in_channels");
  call.out_channels = integer(api, info, "out_channels");
  call.groups = integer(api, info, "group");
  call.low = real(api, info, "low");
  call.high = real(api, info, "high");
  integers(api, info, "kernel_shape", call.kernel);
  integers(api, info, "strides", call.stride);
  integers(api, info, "dilations", call.dilation);
  integers(api, info, "pads", call.padding);
  call.threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 1024);
}

void read_lists(const Tensor& values, const Tensor& taps, const Tensor& starts, const Tensor& bias, hetc_conv2d& call) {
  if (values.sizes.size() != 2 || taps.sizes.size() != 1 || starts.sizes.size() != 1 || !starts.elements()) {
    throw Invalid("values, taps, starts: expected constants of 2, 1 and 1 dimensions");
  }
  if (taps.elements() != values.sizes[0]) throw Invalid("taps: expected one for each vector");
  if (bias.data && bias.elements() != call.out_channels) throw Invalid("bias: expected one for each filter");
  call.vector = values.sizes[1];
  call.vectors = values.sizes[0];
  call.blocks = starts.elements() - 1;
  call.taps = static_cast<const int32_t*>(taps.data);
  call.starts = static_cast<const int32_t*>(starts.data);
}

void set_sizes(hetc_conv2d& call, const std::vector<int64_t>& sizes) {
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

std::vector<int64_t> output_sizes(const hetc_conv2d& call) {
  std::vector<int64_t> sizes = {call.batch, call.out_channels, call.out_height, call.out_width};
  if (call.blocked_out) {
    sizes[1] = ceil_div(call.out_channels, call.vector);
    sizes.push_back(call.vector);
  }
  for (int64_t size : sizes) {
    if (size < 0) throw Invalid("the padded image is smaller than the kernel");
  }
  return sizes;
}

void set_smallest_sizes(hetc_conv2d& call) {
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
}

Parallel::Parallel(const ort::Api& runtime, const ort::KernelContext* here, hetc_conv2d& call)
    : api(runtime), context(here) {
  call.parallel = run_in_runtime;
  call.context = this;
}

}  // namespace hetc
