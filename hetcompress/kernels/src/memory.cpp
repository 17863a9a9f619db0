#include "memory.h"

#include <algorithm>
#include <new>

namespace hetc {
namespace {

constexpr size_t kAlignment = 64;

}  // namespace

thread_local Buffer Scratch::kept_;
thread_local int64_t Scratch::held_ = 0;
thread_local bool Scratch::taken_ = false;

Buffer allocate(int64_t floats) {
  const size_t bytes = static_cast<size_t>(std::max<int64_t>(floats, 1)) * sizeof(float);
  void* memory = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (!memory) throw std::bad_alloc();
  return Buffer(static_cast<float*>(memory));
}

Scratch::Scratch(int64_t floats) {
  if (taken_) {  // by a call that this thread is in the middle of
    own_ = allocate(floats);
    return;
  }
  if (held_ < floats) {
    held_ = 0;
    kept_.reset();
    kept_ = allocate(floats);
    held_ = floats;
  }
  taken_ = true;
}

Scratch::~Scratch() {
  if (!own_) taken_ = false;
}

float* Scratch::get() const { return own_ ? own_.get() : kept_.get(); }

}  // namespace hetc
