// One instruction set of the convolution in 8 bits.  Like path.cpp, this file is compiled once for each of them, with
// HETC_PATH its name, and may use no inline functions of the standard library.
//
// The lanes of a register are neighbouring pixels; each lane holds the bytes that a unit of kept taps reads there, any
// taps of any channels.  So a block's list needs no structure, and planar images need no reorder.
#include "int8_path.h"

#include <utility>  // index_sequence: a type, no code

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define HETC_INLINE inline __attribute__((always_inline))
#define HETC_JOIN2(a, b) a##b
#define HETC_JOIN(a, b) HETC_JOIN2(a, b)
#define HETC_NAME2(a) #a
#define HETC_NAME(a) HETC_NAME2(a)

namespace hetc {
namespace {

#if defined(__AVX512VNNI__)
constexpr int kLanes = 16, kTaps = 4, kMostFilters = 16;
using Weight = int8_t;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kTaps = 2, kMostFilters = 8;
using Weight = int16_t;
#else
constexpr int kLanes = 4, kTaps = 2, kMostFilters = 8;
using Weight = int16_t;
#endif

typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Unit __attribute__((aligned(4), may_alias));  // a filter's weights for a unit of taps

#if defined(__AVX512VNNI__)
#include "int8_vnni.inc"
#else
#include "int8_pairs.inc"
#endif

// What finishes a tile's sums, copied from it: the compiler must take every byte stored for a change of the tile.
struct Finish {
  explicit HETC_INLINE Finish(const Int8Tile& tile) : whole(tile), only(tile.segments[0]) {}

  HETC_INLINE void operator()(Ints sum, int filter) const {
    const ptrdiff_t plane = filter * whole.plane;
    Floats value = __builtin_convertvector(sum, Floats) * whole.scales[filter];
    if (whole.residual) {
      Ints other = load_bytes(whole.residual + plane + only.at, only);
      for (int i = 1; i < whole.segment_count; ++i) {
        other |= load_bytes(whole.residual + plane + whole.segments[i].at, whole.segments[i]);
      }
      value += __builtin_convertvector(other - whole.residual_zero, Floats) * whole.residual_scale;
    }
    value = limit(value, whole.low, whole.high);
    if (whole.output) {
      const Ints result = rounded(value) + whole.zero;
      save_bytes(whole.output + plane + only.at, result, only);
      for (int i = 1; i < whole.segment_count; ++i) {
        save_bytes(whole.output + plane + whole.segments[i].at, result, whole.segments[i]);
      }
    } else {
      save_reals(whole.real_output + plane + only.at, value, only);
      for (int i = 1; i < whole.segment_count; ++i) {
        save_reals(whole.real_output + plane + whole.segments[i].at, value, whole.segments[i]);
      }
    }
  }

  const Int8Tile whole;
  const Segment only;  // of nearly all tiles
};

// Filters first .. first + F - 1 of a block of V.
template <int V, size_t... F>
HETC_INLINE void compute(const Int8Tile& tile, int first, std::index_sequence<F...>) {
  Ints sum[sizeof...(F)];
  ((sum[F] = tile.begin[first + int(F)] - Ints{}), ...);
  const Weight* values = static_cast<const Weight*>(tile.values) + first * kTaps;
  const int32_t* const end = tile.offsets + tile.units * kTaps;
  for (const int32_t* offset = tile.offsets; offset != end; offset += kTaps, values += V * kTaps) {
    const Bytes bytes = gather(tile.input, offset);
    ((sum[F] = add_products(sum[F], bytes, reinterpret_cast<const Unit*>(values)[F])), ...);
  }
  const Finish finish(tile);
  ((first + int(F) < finish.whole.filters ? finish(sum[F], first + int(F)) : (void)0), ...);
}

template <int V>
void run_tile(const Int8Tile& tile) {
  constexpr int kFilters = V < kMostFilters ? V : kMostFilters;
  for (int first = 0; first < V; first += kFilters) compute<V>(tile, first, std::make_index_sequence<kFilters>{});
}

Int8TileFunction tile(int vector) {
  switch (vector) {
    case 4: return run_tile<4>;
    case 8: return run_tile<8>;
    case 16: return run_tile<16>;
    default: return nullptr;
  }
}

constexpr Int8Path kPath = {HETC_NAME(HETC_PATH), kLanes, kTaps, sizeof(Weight) == 2, tile};

}  // namespace

const Int8Path& HETC_JOIN(HETC_PATH, _int8_path)() { return kPath; }

}  // namespace hetc
