// What the checks of all calls share.
#ifndef HETCOMPRESS_CHECK_H
#define HETCOMPRESS_CHECK_H

#include <cstdint>
#include <initializer_list>

#include "shape.h"

namespace hetc {

constexpr int64_t kLargest = int64_t(1) << 30;   // of one size: sums of a few stay far from overflow
constexpr int64_t kLargestKernel = 1 << 12;
constexpr int64_t kLargestStep = 1 << 15;        // strides, dilations

// They run with every call, so no text is put together before one fails.
inline void require(bool holds, const char* what) {
  if (!holds) throw Invalid(what);
}
void between(const char* name, int64_t value, int64_t low, int64_t high);
void equal(const char* name, int64_t value, int64_t expected);
// The product of some sizes; throws where it is too large for a buffer.
int64_t elements(std::initializer_list<int64_t> sizes);
int64_t elements(const Layout& layout, int64_t batch, int64_t height, int64_t width);
void check_layouts(const Layout& in, const Layout& out);

}  // namespace hetc
#endif
