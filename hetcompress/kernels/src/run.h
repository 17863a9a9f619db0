// Runs a call whose arguments have been checked.
#ifndef HETCOMPRESS_RUN_H
#define HETCOMPRESS_RUN_H

#include "path.h"
#include "shape.h"

namespace hetc {

// `offsets` are those of `strips.offsets(call)`; throws std::bad_alloc before anything is written.
void run_checked(const hetc_conv2d& call, const Path& path, const Strips& strips, const int32_t* offsets);

}  // namespace hetc
#endif
