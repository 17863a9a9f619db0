// What our onnxruntime operators share: reading inputs and attributes, sizes, plans, errors.
#ifndef HETCOMPRESS_ORT_TOOLS_H
#define HETCOMPRESS_ORT_TOOLS_H

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ort_api.h"
#include "shape.h"

namespace hetc {

// A status that the runtime returned, on its way back to it.
struct Failed {
  ort::Status* status;
};

inline void ok(ort::Status* status) {
  if (status) throw Failed{status};
}

struct Tensor {
  int64_t elements() const;

  std::vector<int64_t> sizes;
  const void* data = nullptr;  // null for a missing input
};

Tensor read(const ort::Api& api, const ort::Value* value, ort::ElementType type, const char* name);
// An input that is missing, or not constant, has no data.
Tensor constant(const ort::Api& api, const ort::KernelInfo* info, size_t index, ort::ElementType type, const char* name);
Tensor input(const ort::Api& api, const ort::KernelContext* context, size_t index, ort::ElementType type,
             const char* name);
// Throws where an input is there that `constant` did not find: only what is fixed in the file is read when it is opened.
void require_constant(const ort::Api& api, const ort::KernelContext* context, size_t index, const void* found,
                      const char* name);
void* output(const ort::Api& api, ort::KernelContext* context, const std::vector<int64_t>& sizes);

int64_t integer(const ort::Api& api, const ort::KernelInfo* info, const char* name);
template <size_t COUNT>
void integers(const ort::Api& api, const ort::KernelInfo* info, const char* name, int64_t (&values)[COUNT]) {
  size_t count = 0;
  ok(api.attribute(info, name, nullptr, &count));
  if (count != COUNT) throw Invalid(std::string(name) + ": expected " + std::to_string(COUNT) + " numbers");
  ok(api.attribute(info, name, values, &count));
}

int64_t most_threads();

// Attributes that all our convolutions have: channels, kernel_shape, strides, dilations, pads, low and high.
void read_attributes(const ort::Api& api, const ort::KernelInfo* info, hetc_conv2d& call);
// The sizes of the constants, and the indices; the numbers in `values` are the caller's.
void read_lists(const Tensor& values, const Tensor& taps, const Tensor& starts, const Tensor& bias, hetc_conv2d& call);
// The images of a tensor: how many, and their height and width.
struct Images {
  int64_t batch, height, width;
};
// Throws where a tensor's sizes are not those of images of that layout.
Images images_of(const Layout& layout, const std::vector<int64_t>& sizes);
// And the other way; throws where there are none of that size.
std::vector<int64_t> sizes_of(const Layout& layout, const Images& images);
// Takes the sizes of the images, in their layout, and computes those of the output: -1 for one that there is not.
void set_sizes(hetc_conv2d& call, const std::vector<int64_t>& sizes);
std::vector<int64_t> output_sizes(const hetc_conv2d& call);
// Sizes of the smallest images and of no batch, with which a file's mistakes show when it is opened, not when it is run.
void set_smallest_sizes(hetc_conv2d& call);

// What depends on the size of the images, kept while that stays the same.
template <typename Plan>
class Plans {
 public:
  template <typename Make>
  std::shared_ptr<const Plan> find(const hetc_conv2d& call, Make make) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (plan_ && batch_ == call.batch && height_ == call.in_height && width_ == call.in_width) return plan_;
    }
    const std::shared_ptr<const Plan> plan = make();
    const std::lock_guard<std::mutex> lock(mutex_);
    plan_ = plan;
    batch_ = call.batch, height_ = call.in_height, width_ = call.in_width;
    return plan;
  }

 private:
  std::mutex mutex_;  // several threads may run one session
  std::shared_ptr<const Plan> plan_;
  int64_t batch_ = 0, height_ = 0, width_ = 0;
};

// Runs a call on the runtime's threads.
struct Parallel {
  // Sets a call's fields of these names.
  Parallel(const ort::Api& api, const ort::KernelContext* context, hetc_parallel& parallel, void*& argument);
  void finish() const { ok(status); }

  const ort::Api& api;
  const ort::KernelContext* context;
  ort::Status* status = nullptr;
};

// Runs `work`, its exceptions turned into a status: none may pass through the runtime.
template <typename Work>
ort::Status* guarded(const ort::Api& api, const char* name, Work work) {
  try {
    work();
    return nullptr;
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const Invalid& error) {
    return api.create_status(ort::kInvalidArgument, (std::string(name) + ": " + error.what()).c_str());
  } catch (const std::exception& error) {
    return api.create_status(ort::kFail, (std::string(name) + ": " + error.what()).c_str());
  }
}

// An operator's kernel: `Kernel(api, info)` and `compute(context)`; its name is `Kernel::kName`.
template <typename Kernel>
struct Created {
  const ort::Api& api;
  Kernel kernel;

  static ort::Status* create(const ort::CustomOp*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
    return guarded(*api, Kernel::kName, [&] { *kernel = new Created{*api, {*api, info}}; });
  }
  static ort::Status* compute(void* kernel, ort::KernelContext* context) {
    auto& created = *static_cast<Created*>(kernel);
    return guarded(created.api, Kernel::kName, [&] { created.kernel.compute(context); });
  }
  static void destroy(void* kernel) { delete static_cast<Created*>(kernel); }
};

// An operator with one output, for which the types and the number of inputs are still to be set.
template <typename Kernel>
ort::CustomOp operator_of() {
  ort::CustomOp op = {};
  op.version = ort::kVersion;
  op.name = [](const ort::CustomOp*) { return Kernel::kName; };
  op.execution_provider = [](const ort::CustomOp*) -> const char* { return nullptr; };  // the processor's
  op.output_count = [](const ort::CustomOp*) { return size_t(1); };
  op.destroy = Created<Kernel>::destroy;
  op.output_characteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
  op.input_memory = [](const ort::CustomOp*, size_t) { return 0; };
  op.variadic_input_least = op.variadic_output_least = [](const ort::CustomOp*) { return 1; };
  op.variadic_input_alike = op.variadic_output_alike = [](const ort::CustomOp*) { return 1; };
  op.create_kernel_v2 = Created<Kernel>::create;
  op.compute_v2 = Created<Kernel>::compute;
  op.first_version = [](const ort::CustomOp*) { return 1; };
  op.last_version = [](const ort::CustomOp*) { return INT32_MAX; };
  return op;
}

const ort::CustomOp& real_operator();
const ort::CustomOp& int8_operator();
const ort::CustomOp& pool_operator();

}  // namespace hetc
#endif
