// What each instruction set implements of the convolution in 8 bits: one tile.
#ifndef HETCOMPRESS_INT8_PATH_H
#define HETCOMPRESS_INT8_PATH_H

#include <cstddef>
#include <cstdint>

namespace hetc {

// Lanes of a tile that are neighbours in the output, too: others lie where rows of the scratch meet.
struct Segment {
  uint32_t lanes;  // one bit for each lane that exists
  int count;       // of these bits
  ptrdiff_t at;    // of the first one: elements from the begin of a filter's plane in the first image
};

// Neighbouring pixels of one block of filters.
struct Int8Tile {
  const uint8_t* input;    // of the first pixel, at tap 0 of channel 0
  const int32_t* offsets;  // bytes from `input` to where each tap reads
  const void* values;      // [units][V][taps of a unit]
  int64_t units;
  const int32_t* begin;    // [V]: the sums' first terms
  const float* scales;     // [V]: what a sum is worth, in units of the output
  int filters;             // how many of the V filters exist
  float low, high;         // limits of the result, `zero` not yet added
  int32_t zero;            // added when it is an integer
  const Segment* segments;
  int segment_count;
  ptrdiff_t plane;            // elements from a filter to the next, in what follows
  const uint8_t* residual;    // of the block's first filter, or null
  float residual_scale;
  int32_t residual_zero;
  uint8_t* output;            // likewise; null if the output is real
  float* real_output;
};

using Int8TileFunction = void (*)(const Int8Tile&);

struct Int8Path {
  const char* name;
  int lanes;                             // pixels of a tile
  int taps;                              // of a unit
  bool wide;                             // weights are int16, else int8
  Int8TileFunction (*tile)(int vector);  // null for an unknown V
};

const Int8Path& avx512vnni_int8_path();
const Int8Path& avx2_int8_path();
const Int8Path& portable_int8_path();

}  // namespace hetc
#endif
