// A checked call of pooling.
#ifndef HETCOMPRESS_POOL_RUN_H
#define HETCOMPRESS_POOL_RUN_H

#include "path.h"
#include "pool.h"
#include "shape.h"

namespace hetc {

inline Layout layout_in(const hetc_pool2d& call) {
  return {call.channels, call.vector, call.blocked_in};
}
inline Layout layout_out(const hetc_pool2d& call) {
  return {call.channels, call.vector, call.blocked_out};
}

// Throws `Invalid` unless kernel, stride, padding and flags are sound.
void check_window(const hetc_pool2d& call);
// Throws `Invalid` unless every size and pointer of the call is, too.
void check_pool(const hetc_pool2d& call);
// Pixels of the output along an axis; less than 1 where the kernel does not fit.
int64_t pooled_size(const hetc_pool2d& call, int axis);

// Throws std::bad_alloc before anything is written.
void run_pool(const hetc_pool2d& call, const Path& path);

}  // namespace hetc
#endif
