// Prints the float32 operations per second, in 1e9, of one core that does nothing but multiply and add in registers.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <utility>

#if defined(__AVX512F__)
constexpr int kFloats = 16;
#elif defined(__AVX__)
constexpr int kFloats = 8;
#else
constexpr int kFloats = 4;
#endif
typedef float Vector __attribute__((vector_size(kFloats * 4)));
constexpr int kChains = 12;

// Every chain in a register: a loop over them would keep them in memory.
// Not inlined: chains that are known to be alike would become one.
template <size_t... CHAIN>
__attribute__((noinline)) void run(int rounds, Vector (&kept)[kChains], const Vector& factor, const Vector& term,
                                   std::index_sequence<CHAIN...>) {
  Vector sum[kChains];
  const Vector by = factor, plus = term;
  ((sum[CHAIN] = kept[CHAIN]), ...);
  for (int round = 0; round < rounds; ++round) ((sum[CHAIN] = sum[CHAIN] * by + plus), ...);
  ((kept[CHAIN] = sum[CHAIN]), ...);
}

static double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int main() {
  Vector sum[kChains] = {}, factor = {}, term = {};
  for (int lane = 0; lane < kFloats; ++lane) factor[lane] = 0.5f, term[lane] = 1.0f;
  constexpr int kRounds = 200000;
  double best = 1e9;
  for (int repeat = 0; repeat < 20; ++repeat) {
    const double start = seconds();
    run(kRounds, sum, factor, term, std::make_index_sequence<kChains>{});
    best = std::min(best, seconds() - start);
  }
  std::printf("%.1f\n", 2e-9 * kFloats * kChains * kRounds / best);
  return sum[0][0] == 0;
}
