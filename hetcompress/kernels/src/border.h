// The border that blocked images may have.
#ifndef HETCOMPRESS_BORDER_H
#define HETCOMPRESS_BORDER_H

#include <algorithm>

#include "shape.h"

namespace hetc {

// Zeros around some rows of a block's plane: beside them, above the image's first row and below its last one.
inline void write_border(float* plane, const Layout& layout, int64_t height, int64_t width, int64_t first_row,
                         int64_t rows) {
  if (!layout.border) return;
  const Plane at(layout, height, width);
  if (first_row == 0) std::fill_n(plane, at.first, 0.0f);
  for (int64_t row = first_row; row < first_row + rows; ++row) {
    // the end of a row and the begin of the next one are neighbours
    float* const end = plane + at.first + row * at.row + width * layout.pixel();
    std::fill_n(end, row + 1 < height ? 2 * layout.border * layout.pixel() : at.first, 0.0f);
  }
}

}  // namespace hetc
#endif
