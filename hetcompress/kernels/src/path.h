// What each instruction set implements: one tile of the convolution, and the copies into and out of its layout.
#ifndef HETCOMPRESS_PATH_H
#define HETCOMPRESS_PATH_H

#include <cstddef>
#include <cstdint>

namespace hetc {

constexpr int kMaxRows = 7;     // of a tile: each needs a general register
constexpr int kMaxPixels = 28;  // of a tile: one vector register each, and some for weights

// Output pixels of one block of filters: `rows` rows of neighbouring pixels, which may lie in different images.  Where a
// vector is shorter than a register, P = 2 pixels share one, and a column of the tile is two pixels wide; the scratch then
// holds, at each pixel and for each channel, its value and that of the next pixel.
struct Tile {
  const char* input;            // of the first pixel, at tap 0 of channel 0
  ptrdiff_t in_row[kMaxRows];   // bytes from each row to the next one
  const int32_t* offsets;       // bytes from `input` to where each vector's tap reads, and one more number
  const float* values;          // [count][V]
  int64_t count;                // kept vectors
  const float* bias;            // [V]
  float* output;                // blocked: V filters of a pixel beside each other
  const float* residual;        // laid out like the output, or null
  ptrdiff_t out_row[kMaxRows];  // elements from `output` to the first pixel of each row
  int last;                     // pixels in the last column, 1 to P
  float low, high;
  bool clamp;
};

// A channel block of an image, on its way into the scratch.  Row y of the image is place p = y - first_place of the
// padded one; of the places, every `row_step`-th has the same phase.
struct Fill {
  float* scratch;              // [row slots][column slots][rows][columns][V]
  bool together;               // then it is [rows][columns][row slots][column slots][channels], V elements a pixel
  ptrdiff_t rows, columns;     // of a plane: each pair of slots has one, or all together
  ptrdiff_t size;              // elements of all planes
  ptrdiff_t slot;              // elements from a column slot to the next
  ptrdiff_t row_step;          // the stride
  ptrdiff_t first_place;       // negative in the padding
  const int32_t* row_slots;    // of each phase, -1 for one that no tap reads
  ptrdiff_t column_slots;
  const int32_t* column_at;    // elements of the scratch from a row's begin to where each column of the image belongs
  ptrdiff_t width_read;        // columns of the image that any tap reads, from the left
  bool zero_all;               // else the scratch has one plane, whose columns from column_at[0] on are the image's
  const float* image;          // of the block's first channel
  const float* end;            // of the input
  ptrdiff_t height, width;
  ptrdiff_t channel;           // planar input: elements from a channel to the next
  int channels;                // planar input: how many of the V channels exist
};

// Pixels of one channel block, in the order of the scratch, on their way to places that hold P pixels each.
struct Widen {
  const float* from;           // [pixels][V] and P - 1 pixels more, of any value
  float* to;                   // [pixels][V][P]
  ptrdiff_t pixels;
};

// Pixels of one block of filters, on their way into a planar output.
struct Store {
  const float* pixels;         // [count][V]
  int64_t count;               // pixels that are neighbours in the output too
  float* output;               // of the block's first filter
  const float* residual;       // likewise, or null
  ptrdiff_t plane;             // elements from a filter to the next
  int filters;                 // how many of the V filters exist
  float low, high;
  bool clamp;
};

// Pixels of one row of pooled images, for one block of channels.
struct PoolRow {
  const float* input;          // first pixel of the window's first row that is in the image
  ptrdiff_t in_row;            // elements from a row to the next
  ptrdiff_t rows;              // of the window that are in the image
  ptrdiff_t new_rows;          // behind them, to fetch for the next output row
  ptrdiff_t width;             // of the image
  ptrdiff_t kernel, stride, padding;  // columns; on the left
  float* output;
  ptrdiff_t out_width;
  ptrdiff_t counted_rows;      // by an average
  ptrdiff_t counted_end;       // the column at which those counted end
  bool count_padding;          // on the left
};

using TileFunction = void (*)(const Tile&);
using FillFunction = void (*)(const Fill&);
using WidenFunction = void (*)(const Widen&);
using StoreFunction = void (*)(const Store&);
using PoolFunction = void (*)(const PoolRow&);

struct Path {
  const char* name;
  int best_vector;                                                // V that fills a register
  int (*columns)(int vector);                                     // of the largest tile, in all of its rows
  int (*pixels)(int vector);                                      // P: of a column of a tile
  TileFunction (*tile)(int vector, int rows, int columns);        // null for a tile that is too large
  FillFunction (*fill)(int vector, bool blocked);
  WidenFunction (*widen)(int vector);                             // null where P is 1
  FillFunction (*fill_wide)(int vector);                          // both at once, of blocked images at stride 1; likewise
  StoreFunction (*store)(int vector);
  PoolFunction (*pool)(int vector, bool average);
};

const Path& avx512_path();
const Path& avx2_path();
const Path& portable_path();

}  // namespace hetc
#endif
