// A checked call in 8 bits: its weights as a path wants them, and how the scratch copy of the input is laid out.
#ifndef HETCOMPRESS_INT8_SHAPE_H
#define HETCOMPRESS_INT8_SHAPE_H

#include <cstdint>
#include <vector>

#include "int8.h"
#include "int8_path.h"
#include "shape.h"

namespace hetc {

// Throws `Invalid` unless every size, index, scale and pointer of the call is sound; `check_int8_call` leaves out what
// lies in constant arrays.
void check_int8(const hetc_int8_conv2d& call);
void check_int8_call(const hetc_int8_conv2d& call);

// What does not depend on the images.  A block's list is cut into units of as many taps as a lane holds; weights of 0
// fill up the last one.
struct Int8Weights {
  Int8Weights(const hetc_int8_conv2d& call, const Int8Path& path);

  int64_t unit_bytes;              // of a block's weights for a unit
  std::vector<int8_t> values;      // [units][V][taps], int8 or int16
  std::vector<int32_t> taps;       // [units][taps of a unit], as in the call
  std::vector<int64_t> starts;     // units before each block
  std::vector<int32_t> begin;      // [blocks][V]: the bias, less what the input's zero adds to a sum
  std::vector<float> scales;       // [blocks][V]
};

// A strip's tiles: the lanes of one are neighbours in the scratch.
struct Tiles {
  struct Place {
    int64_t start;  // byte of the scratch's plane
    int first_segment, segments;
  };
  std::vector<Place> places;
  std::vector<Segment> segments;
};

// The scratch: [channels][row slots][column slots][images][rows][columns], a byte for a pixel.  Where rows, or images,
// meet, padding on both sides is stored once.  A pixel's neighbour in the output is the next byte, but between rows
// there are bytes of none.
struct Int8Strips {
  Int8Strips(const hetc_int8_conv2d& call, const Int8Path& path);

  std::vector<int32_t> offsets(const hetc_int8_conv2d& call, const Int8Weights& weights, const Int8Path& path) const;

  bool direct;  // the input itself is laid out so
  Axis row_axis, column_axis;
  int64_t out_rows;    // output rows of an image in a strip, at most
  int64_t per_image;   // strips in an image; 1 where a strip holds whole images
  int64_t images;      // images in a strip, at most
  int64_t count;       // strips
  int64_t columns;     // from a row to the next
  int64_t image;       // from an image to the next
  int64_t plane;       // from a slot to the next
  int64_t channel;     // from a channel to the next
  Tiles full, rest;    // of strips of all rows and images, and of the last one

 private:
  Tiles tiles(const hetc_conv2d& conv, int lanes, int64_t images, int64_t rows) const;
};

}  // namespace hetc
#endif
