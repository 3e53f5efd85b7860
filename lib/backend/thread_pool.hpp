/// ThreadPool: a fixed number of workers and loops cut into fixed parts, so that what is computed never depends on timing.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "dsinfer/export.hpp"

namespace dsinfer::cpu {

/// parallel_for may be called by one thread at a time, and not from inside a loop. Workers spin for a moment after a loop, then sleep.
class DSINFER_INTERNAL ThreadPool {
 public:
  /// `threads` counts the calling one. `spin` false: workers and caller sleep at once (more threads than cores).
  ThreadPool(int threads, bool spin);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls fn(begin, end, part) for consecutive ranges that make up [0, n): at most threads() parts, cut at multiples of `grain`, equal but for
  /// one grain. Part 0 runs on the caller. Returns when all are done; the first part's exception is thrown again.
  template <class Fn> void parallel_for(int64_t n, int64_t grain, Fn&& fn) {
    const int64_t units = grain > 1 ? (n + grain - 1) / grain : n;
    if (n <= 0) return;
    if (units <= 1 || workers_.empty()) return fn(int64_t{0}, n, 0);
    run(n, grain > 1 ? grain : 1, units,
        [](void* f, int64_t begin, int64_t end, int part) { (*static_cast<std::remove_reference_t<Fn>*>(f))(begin, end, part); }, &fn);
  }

 private:
  using Call = void (*)(void*, int64_t, int64_t, int);
  enum State : uint32_t { kIdle, kWork, kQuit };
  // One mailbox a worker: the caller writes the task, then kWork; the worker answers with kIdle.
  struct alignas(64) Worker {
    std::atomic<uint32_t> state{kIdle};
    Call call = nullptr;
    void* context = nullptr;
    int64_t begin = 0, end = 0;
    std::exception_ptr error;
    std::thread thread;
  };
  void run(int64_t n, int64_t grain, int64_t units, Call call, void* context);
  void work(Worker& me, int part);
  void stop();
  uint32_t wait_while(const std::atomic<uint32_t>& state, uint32_t value) const;

  bool spin_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace dsinfer::cpu
