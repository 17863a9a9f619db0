#include "dispatch.h"

#include <cstdlib>
#include <cstring>

#include "vector_block.h"

namespace hetc {
namespace {

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

}  // namespace

const Path* find_path(const char* name) {
  const auto wanted = [name](const Path& path) { return !name || !std::strcmp(name, path.name); };
#if defined(__x86_64__)
  if (has_avx512() && wanted(avx512_path())) return &avx512_path();
  if (has_avx2() && wanted(avx2_path())) return &avx2_path();
#endif
  return wanted(portable_path()) ? &portable_path() : nullptr;
}

}  // namespace hetc

extern "C" int hetc_has_path(const char* path) { return hetc::find_path(path) != nullptr; }
extern "C" const char* hetc_best_path(void) { return hetc::find_path(nullptr)->name; }
extern "C" int64_t hetc_best_vector(void) { return hetc::find_path(nullptr)->best_vector; }
