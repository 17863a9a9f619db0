// The part of onnxruntime's C interface that a custom operator needs.  The runtime's packages ship no headers.
//
// The runtime hands out its functions as a table that only ever grows at its end, so a function's place in the table
// is part of its stable interface; the places here are those of version 18 of the table (onnxruntime 1.18), which a
// runtime without it refuses to give out.  `OrtCustomOp` is likewise a struct that grows at its end and says its version.
#ifndef HETCOMPRESS_ORT_API_H
#define HETCOMPRESS_ORT_API_H

#include <cstddef>
#include <cstdint>

namespace hetc {
namespace ort {

constexpr uint32_t kVersion = 18;

struct Status;
struct SessionOptions;
struct Domain;
struct Value;
struct TensorInfo;
struct KernelInfo;
struct KernelContext;

enum ErrorCode { kFail = 1, kInvalidArgument = 2 };
enum ElementType { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6 };
enum Characteristic { kRequired = 0, kOptional = 1 };

struct Api {
  const void* table[275];

  template <typename Function>
  Function* at(size_t place) const {
    return reinterpret_cast<Function*>(const_cast<void*>(table[place]));
  }

  Status* create_status(ErrorCode code, const char* message) const {
    return at<Status*(ErrorCode, const char*)>(0)(code, message);
  }
  Status* create_domain(const char* name, Domain** domain) const {
    return at<Status*(const char*, Domain**)>(26)(name, domain);
  }
  Status* add_operator(Domain* domain, const struct CustomOp* op) const {
    return at<Status*(Domain*, const struct CustomOp*)>(27)(domain, op);
  }
  Status* add_domain(SessionOptions* options, Domain* domain) const {
    return at<Status*(SessionOptions*, Domain*)>(28)(options, domain);
  }
  Status* data(const Value* value, void** data) const {  // the function is declared for values that may be written
    return at<Status*(const Value*, void**)>(51)(value, data);
  }
  Status* element_type(const TensorInfo* info, ElementType* type) const {
    return at<Status*(const TensorInfo*, ElementType*)>(60)(info, type);
  }
  Status* rank(const TensorInfo* info, size_t* rank) const {
    return at<Status*(const TensorInfo*, size_t*)>(61)(info, rank);
  }
  Status* sizes(const TensorInfo* info, int64_t* sizes, size_t rank) const {
    return at<Status*(const TensorInfo*, int64_t*, size_t)>(62)(info, sizes, rank);
  }
  Status* tensor_info(const Value* value, TensorInfo** info) const {
    return at<Status*(const Value*, TensorInfo**)>(65)(value, info);
  }
  Status* attribute(const KernelInfo* info, const char* name, float* value) const {
    return at<Status*(const KernelInfo*, const char*, float*)>(85)(info, name, value);
  }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* value) const {
    return at<Status*(const KernelInfo*, const char*, int64_t*)>(86)(info, name, value);
  }
  Status* input_count(const KernelContext* context, size_t* count) const {
    return at<Status*(const KernelContext*, size_t*)>(88)(context, count);
  }
  Status* input(const KernelContext* context, size_t index, const Value** value) const {
    return at<Status*(const KernelContext*, size_t, const Value**)>(90)(context, index, value);
  }
  Status* output(KernelContext* context, size_t index, const int64_t* sizes, size_t rank, Value** value) const {
    return at<Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>(91)(context, index, sizes, rank, value);
  }
  void release(Status* status) const { at<void(Status*)>(93)(status); }
  void release(TensorInfo* info) const { at<void(TensorInfo*)>(99)(info); }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* values, size_t* count) const {
    return at<Status*(const KernelInfo*, const char*, int64_t*, size_t*)>(163)(info, name, values, count);
  }
  Status* constant_input(const KernelInfo* info, size_t index, int* constant, const Value** value) const {
    return at<Status*(const KernelInfo*, size_t, int*, const Value**)>(249)(info, index, constant, value);
  }
  Status* parallel_for(const KernelContext* context, void (*body)(void*, size_t), size_t total, size_t batches,
                       void* argument) const {
    return at<Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(
        context, body, total, batches, argument);
  }
};

struct ApiBase {
  const Api* (*get_api)(uint32_t version);  // null for a version that the runtime does not have
  const char* (*version)();
};

struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*execution_provider)(const CustomOp*);
  ElementType (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  ElementType (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroy)(void*);
  Characteristic (*input_characteristic)(const CustomOp*, size_t);
  Characteristic (*output_characteristic)(const CustomOp*, size_t);
  int (*input_memory)(const CustomOp*, size_t);
  int (*variadic_input_least)(const CustomOp*);
  int (*variadic_input_alike)(const CustomOp*);
  int (*variadic_output_least)(const CustomOp*);
  int (*variadic_output_alike)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*compute_v2)(void*, KernelContext*);
  Status* (*infer_shape)(const CustomOp*, void*);
  int (*first_version)(const CustomOp*);
  int (*last_version)(const CustomOp*);
  // pairs of an input and an output that may be one buffer: how many, and arrays of either
  size_t (*in_place)(int** inputs, int** outputs);
  void (*release_in_place)(int* inputs, int* outputs);
  size_t (*aliases)(int** inputs, int** outputs);
  void (*release_aliases)(int* inputs, int* outputs);
};

}  // namespace ort
}  // namespace hetc
#endif
