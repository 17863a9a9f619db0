#include "threads.h"

#include "openmp.h"

#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace hetc {
namespace {

// One call at a time has the workers; a call that finds them taken runs on its own thread alone.
class Workers {
 public:
  explicit Workers(pid_t process) : process_(process) {}

  pid_t process() const { return process_; }

  bool run(size_t slots, hetc_body body, void* argument) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (started_ + 1 < slots) {
        std::thread([this, slot = started_ + 1] { work(slot); }).detach();
        ++started_;
      }
      body_ = body, argument_ = argument, slots_ = slots, busy_ = slots - 1;
      ++round_;
    }
    wake_.notify_all();
    body(argument, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    return true;
  }

 private:
  void work(size_t slot) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (size_t seen = 0;;) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (slot >= slots_) continue;
      const hetc_body body = body_;
      void* const argument = argument_;
      lock.unlock();
      body(argument, slot);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  const pid_t process_;
  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  size_t started_ = 0, slots_ = 0, busy_ = 0, round_ = 0;
  hetc_body body_ = nullptr;
  void* argument_ = nullptr;
};

// Never destroyed, since its threads never end; a forked child, in which they do not exist, makes new ones.
Workers& workers() {
  static std::mutex mutex;
  static Workers* all = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (!all || all->process() != getpid()) all = new Workers(getpid());
  return *all;
}

}  // namespace

void run_on_threads(size_t slots, hetc_body body, void* argument) {
  if (slots > 1 && (run_on_openmp(slots, body, argument) || workers().run(slots, body, argument))) return;
  for (size_t slot = 0; slot < slots; ++slot) body(argument, slot);
}

}  // namespace hetc
