// torch's operators run on OpenMP's threads, which go on spinning after each of them: on threads of our own beside those,
// calls of two threads waited for a core, and for their worker to wake up.  So where torch has brought GNU's OpenMP into
// the process, it is found by its names; the library is linked to none.
#include "openmp.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>

namespace hetc {
namespace {

using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
using Number = int (*)();

template <typename Function>
Function named(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

struct Team {
  hetc_body body;
  void* argument;
  Number number;
};

void enter(void* data) {
  const Team& team = *static_cast<const Team*>(data);
  team.body(team.argument, static_cast<size_t>(team.number()));
}

// OpenMP's threads do not exist in a child that was forked off: where that happened after the library was loaded, the
// process is another one, where it happened before, the caller says so.
const pid_t loaded = getpid();
std::atomic<bool> forked{false};

}  // namespace

bool run_on_openmp(size_t slots, hetc_body body, void* argument) {
  static const auto parallel = named<Parallel>("GOMP_parallel");
  static const auto number = named<Number>("omp_get_thread_num");
  if (!parallel || !number || forked || getpid() != loaded) return false;
  Team team{body, argument, number};
  parallel(enter, &team, static_cast<unsigned>(slots), 0);
  return true;
}

}  // namespace hetc

extern "C" void hetc_forked() { hetc::forked = true; }
