#include "dispatch.h"

#include <cstdlib>
#include <cstring>

#include "int8.h"

namespace hetc {
namespace {

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

template <typename Any>
bool wanted(const Any& path, const char* name) {
  return !name || !std::strcmp(name, path.name);
}

const Path* best_path(const char* name) {
#if defined(__x86_64__)
  if (has_avx512() && wanted(avx512_path(), name)) return &avx512_path();
  if (has_avx2() && wanted(avx2_path(), name)) return &avx2_path();
#endif
  return wanted(portable_path(), name) ? &portable_path() : nullptr;
}

const Int8Path* best_int8_path(const char* name) {
#if defined(__x86_64__)
  if (has_vnni() && wanted(avx512vnni_int8_path(), name)) return &avx512vnni_int8_path();
  if (has_avx2() && wanted(avx2_int8_path(), name)) return &avx2_int8_path();
#endif
  return wanted(portable_int8_path(), name) ? &portable_int8_path() : nullptr;
}

// The path that the environment names in place of the best, to see on one machine how another will do; null for none.
const char* named_path() {
  static const char* const name = std::getenv("HETCOMPRESS_KERNEL_PATH");
  return name;
}

}  // namespace

const Path* find_path(const char* name) {
  const Path* const named = name || !named_path() ? nullptr : best_path(named_path());
  return named ? named : best_path(name);
}

const Int8Path* find_int8_path(const char* name) {
  const Int8Path* const named = name || !named_path() ? nullptr : best_int8_path(named_path());
  return named ? named : best_int8_path(name);
}

}  // namespace hetc

extern "C" int hetc_has_path(const char* path) { return hetc::find_path(path) != nullptr; }
extern "C" const char* hetc_best_path(void) { return hetc::find_path(nullptr)->name; }
extern "C" int64_t hetc_best_vector(void) { return hetc::find_path(nullptr)->best_vector; }
extern "C" int hetc_int8_has_path(const char* path) { return hetc::find_int8_path(path) != nullptr; }
