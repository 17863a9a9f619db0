// Runs a call whose arguments have been checked.
#ifndef HETCOMPRESS_RUN_H
#define HETCOMPRESS_RUN_H

#include "path.h"
#include "shape.h"

namespace hetc {

// What depends on the sizes and the positions of the kept vectors, not on the numbers.
struct Plan {
  Plan(const hetc_conv2d& call, const Path& path)
      : strips(call, path.pixels(static_cast<int>(call.vector))), offsets(strips.offsets(call)) {}

  Strips strips;
  std::vector<int32_t> offsets;
};

// `plan` is that of the call and the path; throws std::bad_alloc before anything is written.
void run_checked(const hetc_conv2d& call, const Path& path, const Plan& plan);

}  // namespace hetc
#endif
