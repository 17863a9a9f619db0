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

template <int V>
struct Length {
  static constexpr int value = V;
};

// What `of` makes of a vector length, or null for one that there is no code for.
template <typename Of>
auto at_length(int vector, Of of) -> decltype(of(Length<16>())) {
  switch (vector) {
    case 4: return of(Length<4>());
    case 8: return of(Length<8>());
    case 16: return of(Length<16>());
    default: return nullptr;
  }
}

TileFunction tile(int vector, int rows, int columns) {
  return at_length(vector, [=](auto v) { return tile_of<v.value>(rows, columns); });
}

FillFunction fill(int vector, bool blocked) {
  return at_length(vector, [=](auto v) -> FillFunction { return blocked ? fill_blocked<v.value> : fill_planar<v.value>; });
}

StoreFunction store(int vector) {
  return at_length(vector, [](auto v) -> StoreFunction { return store_planar<v.value>; });
}

PoolFunction pool(int vector, bool average) {
  return at_length(vector, [=](auto v) -> PoolFunction { return average ? pool_average<v.value> : pool_largest<v.value>; });
}

WidenFunction widen_for(int vector) {
  return at_length(vector, [](auto v) -> WidenFunction {
    if constexpr (pixels_in_register(v.value) > 1) return widen<v.value>;
    return nullptr;
  });
}

FillFunction fill_wide_for(int vector) {
  return at_length(vector, [](auto v) -> FillFunction {
    if constexpr (pixels_in_register(v.value) > 1) return fill_wide<v.value>;
    return nullptr;
  });
}

constexpr Path kPath = {HETC_NAME(HETC_PATH), kRegisterFloats, columns_of, pixels_in_register,
                        tile, fill, widen_for, fill_wide_for, store, pool};

}  // namespace

const Path& HETC_JOIN(HETC_PATH, _path)() { return kPath; }

}  // namespace hetc
