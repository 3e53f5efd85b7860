#include "backend/thread_pool.hpp"

#include <algorithm>
#include <chrono>

namespace dsinfer::cpu {
namespace {

// Long enough to span the gaps between the operations of a step, short enough to cost nothing between steps.
constexpr auto kSpinTime = std::chrono::microseconds(50);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads, bool spin) : spin_(spin) {
  workers_.reserve(static_cast<size_t>(std::max(threads, 1)));
  try {
    for (int i = 1; i < threads; ++i) {
      auto worker = std::make_unique<Worker>();
      worker->thread = std::thread([this, &me = *worker, i] { work(me, i); });
      workers_.push_back(std::move(worker));
    }
  } catch (...) {  // the system gives no more threads
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  for (auto& worker : workers_) {
    worker->state.store(kQuit, std::memory_order_release);
    worker->state.notify_one();
  }
  for (auto& worker : workers_) worker->thread.join();
}

uint32_t ThreadPool::wait_while(const std::atomic<uint32_t>& state, uint32_t value) const {
  uint32_t now = state.load(std::memory_order_acquire);
  if (now != value) return now;
  if (spin_) {
    const auto stop = std::chrono::steady_clock::now() + kSpinTime;
    do {
      for (int i = 0; i < 64; ++i) {
        now = state.load(std::memory_order_acquire);
        if (now != value) return now;
        relax();
      }
    } while (std::chrono::steady_clock::now() < stop);
  }
  while ((now = state.load(std::memory_order_acquire)) == value) state.wait(value, std::memory_order_acquire);
  return now;
}

void ThreadPool::work(Worker& me, int part) {
  while (wait_while(me.state, kIdle) == kWork) {
    try {
      me.call(me.context, me.begin, me.end, part);
    } catch (...) {
      me.error = std::current_exception();
    }
    // The destructor's kQuit cannot come before this: it belongs to the thread that waits for kIdle.
    me.state.store(kIdle, std::memory_order_release);
    me.state.notify_one();
  }
}

void ThreadPool::run(int64_t n, int64_t grain, int64_t units, Call call, void* context) {
  const int64_t parts = std::min<int64_t>(threads(), units);
  const auto edge = [&](int64_t part) { return std::min(n, part * units / parts * grain); };
  for (int64_t part = 1; part < parts; ++part) {
    Worker& worker = *workers_[static_cast<size_t>(part - 1)];
    worker.call = call;
    worker.context = context;
    worker.begin = edge(part);
    worker.end = edge(part + 1);
    worker.error = nullptr;
    worker.state.store(kWork, std::memory_order_release);
    worker.state.notify_one();
  }
  std::exception_ptr error;
  try {
    call(context, 0, edge(1), 0);
  } catch (...) {
    error = std::current_exception();
  }
  for (int64_t part = 1; part < parts; ++part) {
    Worker& worker = *workers_[static_cast<size_t>(part - 1)];
    wait_while(worker.state, kWork);
    if (!error) error = worker.error;
    worker.error = nullptr;
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace dsinfer::cpu
