// Memory of the kernels' own.
#ifndef HETCOMPRESS_MEMORY_H
#define HETCOMPRESS_MEMORY_H

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace hetc {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<float, Free>;

// Aligned to a cache line; throws std::bad_alloc.
Buffer allocate(int64_t floats);

// Memory that a thread keeps from call to call: fresh pages cost more than a small layer.
class Scratch {
 public:
  explicit Scratch(int64_t floats);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* get() const;

 private:
  static thread_local Buffer kept_;
  static thread_local int64_t held_;
  static thread_local bool taken_;
  Buffer own_;
};

}  // namespace hetc
#endif
