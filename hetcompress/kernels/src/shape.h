// A checked call: sizes that fit each other, and how the scratch copy of the input is laid out.
#ifndef HETCOMPRESS_SHAPE_H
#define HETCOMPRESS_SHAPE_H

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "vector_block.h"

namespace hetc {

// What a caller did wrong.
struct Invalid : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Throws `Invalid` unless every size, index and pointer of the call is sound.
void check(const hetc_conv2d& call);
// The same without reading `taps` and `starts`, for a caller whose indices have been checked before.
void check_call(const hetc_conv2d& call);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What a strip may fill: half of a common second-level cache, so that weights and output have room too.
constexpr int64_t kStripBytes = 384 << 10;

// Strips of an image, as few as have room for the rows that each reads, of so many bytes.
inline int64_t strips_of_image(int64_t out_height, int64_t row_bytes, int64_t reach) {
  return ceil_div(out_height, std::min(out_height, std::max<int64_t>(kStripBytes / row_bytes - reach, 4)));
}

// Images of a strip that has room for `fit`: no more than leave every thread one, and about as many in each strip.
inline int64_t images_of_strip(const hetc_conv2d& call, int64_t fit) {
  const int64_t most = std::max<int64_t>(1, std::min(fit, ceil_div(call.batch, call.threads)));
  const int64_t strips = std::max<int64_t>(1, ceil_div(call.batch, most));
  return std::max<int64_t>(1, ceil_div(call.batch, strips));
}

// How images lie in memory.
struct Layout {
  int64_t planes() const { return blocked ? ceil_div(channels, vector) : channels; }
  int64_t pixel() const { return blocked ? vector : 1; }  // elements

  int64_t channels, vector, blocked;
};

inline Layout layout_in(const hetc_conv2d& call) { return {call.in_channels, call.vector, call.blocked_in}; }
inline Layout layout_out(const hetc_conv2d& call) { return {call.out_channels, call.vector, call.blocked_out}; }

// The rows or the columns that a kernel's taps read, the stride taken out.  With stride s, tap t (at t * dilation) of
// output o reads place o * s + t * dilation = (o + shift) * s + phase.  Places of one phase are neighbours in the
// scratch, so that an output's neighbour is always the next pixel.
struct Axis {
  Axis(int64_t taps, int64_t stride, int64_t dilation);

  std::vector<int32_t> slots(int64_t stride) const;  // of each phase: index into `phases`, or -1

  std::vector<int64_t> phases;  // those that some tap has
  std::vector<int64_t> slot;    // of each tap: index into `phases`
  std::vector<int64_t> shift;   // of each tap
  int64_t reach;                // the largest shift
};

// The part of the input that one task reads: some output rows of one image, or some whole images.
struct Strips {
  Strips(const hetc_conv2d& call, int64_t pixels);

  bool direct;          // the input itself is laid out as the kernel wants it
  Axis row_axis, column_axis;
  int64_t channel_blocks;
  bool together;        // all phases at each place, one channel behind the other: so few fit
  int64_t planes;       // of a channel block in the scratch: phases, or 1 where those are together
  int64_t slot_step;    // elements from a phase of the columns to the next
  int64_t out_rows;     // output rows of an image in a strip, at most
  int64_t per_image;    // strips in an image; 1 where a strip holds whole images
  int64_t images;       // images in a strip, at most
  int64_t count;        // strips
  int64_t pixels;                         // at each place of the scratch: that one and those after it
  int64_t lanes;                          // elements of a place: V channels of `pixels`
  int64_t rows, columns;                  // of a scratch plane
  int64_t plane, channel_block, image;    // elements of a plane, of a channel block's planes, of an image's
  std::vector<int32_t> offsets(const hetc_conv2d& call) const;  // of each kept vector, bytes, and a 0
};

}  // namespace hetc
#endif
