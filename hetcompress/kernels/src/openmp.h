// OpenMP's threads, where the process has some.
#ifndef HETCOMPRESS_OPENMP_H
#define HETCOMPRESS_OPENMP_H

#include "vector_block.h"

namespace hetc {

// Runs `body(argument, slot)` for some of the slots, 0 among them; false, and nothing is run, where there are none.
bool run_on_openmp(size_t slots, hetc_body body, void* argument);

}  // namespace hetc
#endif
