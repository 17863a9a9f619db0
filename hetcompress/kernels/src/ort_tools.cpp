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

void require_constant(const ort::Api& api, const ort::KernelContext* context, size_t index, const void* found,
                      const char* name) {
  if (found) return;
  size_t count = 0;
  ok(api.input_count(context, &count));
  const ort::Value* value = nullptr;
  if (index < count) ok(api.input(context, index, &value));
  if (value) throw Invalid(std::string(name) + ": expected a constant of the file, no input that may change");
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

// A session does not tell how many threads it has: the batch is cut for all cores.
int64_t most_threads() { return std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 1024); }

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
  call.threads = most_threads();
}

void read_lists(const Tensor& values, const Tensor& taps, const Tensor& starts, const Tensor& bias, hetc_conv2d& call) {
  if (values.sizes.size() != 2 || taps.sizes.size() != 1 || starts.sizes.size() != 1 || !starts.elements()) {
    throw Invalid("values, taps, starts: expected constants of 2, 1 and 1 dimensions");
  }
  if (taps.elements() != values.sizes[0]) throw Invalid("taps: expected one for each vector");
  const bool has_bias = bias.data || !bias.sizes.empty();  // one without elements has no data
  if (has_bias && bias.elements() != call.out_channels) throw Invalid("bias: expected one for each filter");
  call.vector = values.sizes[1];
  call.vectors = values.sizes[0];
  call.blocks = starts.elements() - 1;
  call.taps = static_cast<const int32_t*>(taps.data);
  call.starts = static_cast<const int32_t*>(starts.data);
}

Images images_of(const Layout& layout, const std::vector<int64_t>& sizes) {
  const bool fits = sizes.size() == (layout.blocked ? 5 : 4) && sizes[1] == layout.planes() &&
                    (!layout.blocked || sizes[4] == layout.vector);
  if (!fits) throw Invalid("images: another shape than the layout and the channels ask for");
  return {sizes[0], sizes[2], sizes[3]};
}

std::vector<int64_t> sizes_of(const Layout& layout, const Images& images) {
  if (images.height < 0 || images.width < 0) throw Invalid("the padded image is smaller than the kernel");
  std::vector<int64_t> sizes = {images.batch, layout.planes(), images.height, images.width};
  if (layout.blocked) sizes.push_back(layout.vector);
  return sizes;
}

void set_sizes(hetc_conv2d& call, const std::vector<int64_t>& sizes) {
  const Images images = images_of(layout_in(call), sizes);
  call.batch = images.batch, call.in_height = images.height, call.in_width = images.width;
  int64_t out[2];
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t padded = (axis ? images.width : images.height) + call.padding[axis] + call.padding[axis + 2];
    const int64_t room = padded - (call.kernel[axis] - 1) * call.dilation[axis] - 1;
    out[axis] = room < 0 ? -1 : room / call.stride[axis] + 1;
  }
  call.out_height = out[0], call.out_width = out[1];
}

std::vector<int64_t> output_sizes(const hetc_conv2d& call) {
  return sizes_of(layout_out(call), {call.batch, call.out_height, call.out_width});
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
  set_sizes(call, sizes_of(layout_in(call), {0, sizes[0], sizes[1]}));
  call.input_size = call.output_size = 0;
}

Parallel::Parallel(const ort::Api& runtime, const ort::KernelContext* here, hetc_parallel& parallel, void*& argument)
    : api(runtime), context(here) {
  parallel = run_in_runtime;
  argument = this;
}

}  // namespace hetc
