// What each instruction set implements: one tile of the convolution, and the copy of image rows into the scratch.
#ifndef HETCOMPRESS_PATH_H
#define HETCOMPRESS_PATH_H

#include <cstddef>
#include <cstdint>

namespace hetc {

constexpr int kMaxRows = 7;     // of a tile: each needs a general register
constexpr int kMaxPixels = 28;  // of a tile: one vector register each, and some for weights

// Output pixels of one block of filters: `rows` rows of neighbouring pixels, which may lie in different images.
struct Tile {
  const char* input;              // of the first pixel, at tap 0 of channel 0
  ptrdiff_t in_row[kMaxRows];     // bytes from each row to the next one
  const int32_t* offsets;         // bytes from `input` to where each vector's tap reads
  const float* values;            // [count][V]
  int64_t count;                  // kept vectors
  const float* bias;              // [V]
  float* output;                  // of the whole tensor
  const float* residual;          // likewise, or null
  ptrdiff_t out_row[kMaxRows];    // elements from `output` to the first pixel of each row
  ptrdiff_t plane;                // planar output: elements from a filter to the next
  int filters;                    // planar output: how many of the V filters exist
  float low, high;
  bool clamp, blocked;            // blocked: the output's layout
};

// One plane (a channel block, a phase of the stride) of the scratch and where its pixels come from.
struct Plane {
  float* scratch;                 // [rows][columns][V]
  ptrdiff_t rows, columns;
  const float* image;             // the pixel at row 0, column 0 of the channel block's first channel
  ptrdiff_t height, width;        // of the image
  ptrdiff_t first_row, first_column;  // of the image, at scratch row and column 0; negative in the padding
  ptrdiff_t row_step, column_step;    // of the image: the stride
  ptrdiff_t channel;              // planar input: elements from a channel to the next
  int channels;                   // planar input: how many of the V channels exist
};

using TileFunction = void (*)(const Tile&);
using PlaneFunction = void (*)(const Plane&);

struct Path {
  const char* name;
  int best_vector;                                                // V that fills a register
  int (*pixels)(int vector);                                      // largest tile, 0 for an unknown V
  TileFunction (*tile)(int vector, int rows, int columns);        // null for a tile that is too large
  PlaneFunction (*plane)(int vector, bool blocked);
};

const Path& avx512_path();
const Path& avx2_path();
const Path& portable_path();

}  // namespace hetc
#endif
