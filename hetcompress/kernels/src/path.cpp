// One instruction set.  This file is compiled once for each, with HETC_PATH its name and the compiler's flags for it.
//
// Nothing here may use inline functions of the standard library: the linker keeps one copy of those, and it could be
// the one with instructions that the processor lacks.  So everything lives in an unnamed namespace.
#include "path.h"

#include <utility>  // index_sequence: a type, no code

#define HETC_INLINE inline __attribute__((always_inline))
#define HETC_JOIN2(a, b) a##b
#define HETC_JOIN(a, b) HETC_JOIN2(a, b)
#define HETC_NAME2(a) #a
#define HETC_NAME(a) HETC_NAME2(a)

namespace hetc {
namespace {

#if defined(__AVX512F__)
constexpr int kRegisterFloats = 16, kAccumulators = 28;
#elif defined(__AVX2__)
constexpr int kRegisterFloats = 8, kAccumulators = 12;
#elif defined(__aarch64__)
constexpr int kRegisterFloats = 4, kAccumulators = 24;
#else
constexpr int kRegisterFloats = 4, kAccumulators = 12;
#endif

// V filters of a pixel fill so many registers; where they do not fill one, it holds two pixels of them.
constexpr int registers_of(int vector) { return vector < kRegisterFloats ? 1 : vector / kRegisterFloats; }
constexpr int pixels_in_register(int vector) { return vector < kRegisterFloats ? 2 : 1; }

// Registers of pixels whose accumulators fit.
constexpr int columns_of(int vector) { return kAccumulators / registers_of(vector); }

template <int V>
struct Floats {
  typedef float type __attribute__((vector_size(V * 4)));                             // in registers
  typedef float memory __attribute__((vector_size(V * 4), aligned(4), may_alias));  // in arrays of floats
};

template <int V>
using Vector = typename Floats<V>::type;

template <int V>
struct Pairs {
  typedef int64_t type __attribute__((vector_size(V * 8)));
};
typedef int64_t PairInMemory __attribute__((aligned(4), may_alias));

template <int V>
HETC_INLINE Vector<V> load(const float* from) {
  return *reinterpret_cast<const typename Floats<V>::memory*>(from);
}

template <int V>
HETC_INLINE void save(float* to, Vector<V> value) {
  *reinterpret_cast<typename Floats<V>::memory*>(to) = value;
}

// A compiler's vector that is longer than a register goes through memory, number by number: so many go at once.
constexpr int piece_of(int vector) { return vector < kRegisterFloats ? vector : kRegisterFloats; }

template <int V>
HETC_INLINE void copy_pixel(float* to, const float* from) {
  constexpr int R = piece_of(V);
  for (int i = 0; i < V; i += R) save<R>(to + i, load<R>(from + i));
}

#include "tile.inc"
#include "reorder.inc"
#include "pool.inc"

template <int V>
TileFunction tile_of(int rows, int columns) {
  const int index = (rows - 1) * kMaxPixels + columns - 1;
  return rows >= 1 && rows <= kMaxRows && columns >= 1 && columns <= kMaxPixels ? TileTable<V>::entries[index] : nullptr;
}

TileFunction tile(int vector, int rows, int columns) {
  switch (vector) {
    case 4: return tile_of<4>(rows, columns);
    case 8: return tile_of<8>(rows, columns);
    case 16: return tile_of<16>(rows, columns);
    default: return nullptr;
  }
}

template <int V>
FillFunction fill_of(bool blocked) {
  return blocked ? fill_blocked<V> : fill_planar<V>;
}

FillFunction fill(int vector, bool blocked) {
  switch (vector) {
    case 4: return fill_of<4>(blocked);
    case 8: return fill_of<8>(blocked);
    case 16: return fill_of<16>(blocked);
    default: return nullptr;
  }
}

StoreFunction store(int vector) {
  switch (vector) {
    case 4: return store_planar<4>;
    case 8: return store_planar<8>;
    case 16: return store_planar<16>;
    default: return nullptr;
  }
}

template <int V>
PoolFunction pool_of(bool average) {
  return average ? pool_average<V> : pool_largest<V>;
}

PoolFunction pool(int vector, bool average) {
  switch (vector) {
    case 4: return pool_of<4>(average);
    case 8: return pool_of<8>(average);
    case 16: return pool_of<16>(average);
    default: return nullptr;
  }
}

template <int V>
WidenFunction widen_of() {
  if constexpr (pixels_in_register(V) > 1) {
    return widen<V>;
  } else {
    return nullptr;
  }
}

WidenFunction widen(int vector) {
  switch (vector) {
    case 4: return widen_of<4>();
    case 8: return widen_of<8>();
    default: return nullptr;
  }
}

template <int V>
FillFunction fill_wide_of() {
  if constexpr (pixels_in_register(V) > 1) {
    return fill_wide<V>;
  } else {
    return nullptr;
  }
}

FillFunction fill_wide_for(int vector) {
  switch (vector) {
    case 4: return fill_wide_of<4>();
    case 8: return fill_wide_of<8>();
    default: return nullptr;
  }
}

constexpr Path kPath = {HETC_NAME(HETC_PATH), kRegisterFloats, columns_of, pixels_in_register,
                        tile, fill, widen, fill_wide_for, store, pool};

}  // namespace

const Path& HETC_JOIN(HETC_PATH, _path)() { return kPath; }

}  // namespace hetc
