// Copies of the input into the layout that the kernel walks, padding and strides done away with.
#ifndef HETCOMPRESS_FILL_H
#define HETCOMPRESS_FILL_H

#include <vector>

#include "path.h"
#include "shape.h"

namespace hetc {

class Filler {
 public:
  Filler(const hetc_conv2d& call, const Path& path, const Strips& strips);

  // Copies what a strip reads.
  void fill(const Strip& strip, float* scratch) const;

 private:
  const hetc_conv2d& call_;
  const Strips& strips_;
  const FillFunction fill_;
  const Layout layout_;
  const Plane plane_;
  std::vector<int32_t> column_at_, row_slots_;  // as in `Fill`
  int64_t width_read_;
};

}  // namespace hetc
#endif
