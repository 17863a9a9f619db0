// Threads for callers that bring none: OpenMP's, where the process has some, or the library's own.
#ifndef HETCOMPRESS_THREADS_H
#define HETCOMPRESS_THREADS_H

#include "vector_block.h"

namespace hetc {

// Runs `body(argument, slot)` for the slots, the first on the calling thread.  With few threads some are left out, which
// changes nothing: bodies take tasks until none is left.
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
