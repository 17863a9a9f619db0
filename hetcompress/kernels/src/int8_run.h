// Runs a call in 8 bits whose arguments have been checked.
#ifndef HETCOMPRESS_INT8_RUN_H
#define HETCOMPRESS_INT8_RUN_H

#include "int8_shape.h"

namespace hetc {

// `offsets` are those of the strips; throws std::bad_alloc before anything is written.
void run_int8(const hetc_int8_conv2d& call, const Int8Path& path, const Int8Weights& weights, const Int8Strips& strips,
              const int32_t* offsets);

}  // namespace hetc
#endif
