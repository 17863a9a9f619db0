// Which instruction sets were compiled in, and which of them this processor runs.
#ifndef HETCOMPRESS_DISPATCH_H
#define HETCOMPRESS_DISPATCH_H

#include "int8_path.h"
#include "path.h"

namespace hetc {

// The path of that name, the best one for NULL; null if this processor or this library lacks it.
const Path* find_path(const char* name);
const Int8Path* find_int8_path(const char* name);

}  // namespace hetc
#endif
