// The library's own threads, for callers that bring none.
#ifndef HETCOMPRESS_THREADS_H
#define HETCOMPRESS_THREADS_H

#include "vector_block.h"

namespace hetc {

// Runs `body(argument, slot)` for every slot, the first on the calling thread.
void run_on_threads(size_t slots, hetc_body body, void* argument);

// The same on the caller's threads, where it has brought any.
inline void run_slots(hetc_parallel parallel, void* context, size_t slots, hetc_body body, void* argument) {
  if (parallel) {
    parallel(context, body, argument, slots);
  } else {
    run_on_threads(slots, body, argument);
  }
}

}  // namespace hetc
#endif
