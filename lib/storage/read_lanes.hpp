/// The lanes of a read queue: threads that read, and io_uring. One queue has one or both, and one list of what has ended.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "storage/local_file.hpp"
#include "storage/read_queue.hpp"

namespace dsinfer {

/// A read on its way. `file` is empty where the Source itself must read.
struct Job {
  Read read;
  std::shared_ptr<LocalFile> file;
  size_t done = 0, needed = 0;  ///< bytes of read.out, local files only
  bool bypass = false;          ///< past the page cache
  bool in_memory = false;       ///< lies in the page cache: a copy, which more threads than cores do not speed up
};

/// Reads that have ended. Any thread pushes, one takes; sleepers wake by the descriptor.
class Ended {
 public:
  Ended();
  Ended(const Ended&) = delete;
  Ended& operator=(const Ended&) = delete;
  ~Ended();
  void push(Done done);
  std::optional<Done> take();
  bool empty() const;
  /// Until something is pushed (now or since the last sleep) or the time is over.
  void sleep(int64_t microseconds);
  int descriptor() const { return event_; }

 private:
  int event_;
  mutable std::mutex mutex_;
  std::deque<Done> list_;
};

/// A thread that takes no signals: those are for the program's own.
std::thread quiet_thread(std::function<void()> body);

/// Up to `depth` threads, started when they are needed.
class ThreadLane {
 public:
  ThreadLane(int depth, std::shared_ptr<Ended> ended);
  ThreadLane(const ThreadLane&) = delete;
  ThreadLane& operator=(const ThreadLane&) = delete;
  /// Interrupts what is under way. Threads that do not come back within kPatience are left behind, with what they need to live on.
  ~ThreadLane();
  void submit(Job job);

 private:
  struct Shared;
  void start_thread();
  static void work(const std::shared_ptr<Shared>& shared, size_t self);

  std::shared_ptr<Shared> shared_;
  std::vector<std::thread> threads_;
  size_t depth_;
};

/// Reads of local files through an io_uring.
class UringLane {
 public:
  virtual ~UringLane() = default;
  virtual void submit(Job job) = 0;
  /// Moves what the system has ended to the list. What it will not do by O_DIRECT goes to `refused`.
  virtual void reap(const std::function<void(Job)>& refused) = 0;
  /// Whether something has ended.
  virtual bool ready() const = 0;
};

/// nullptr, and why in `reason`, where the build or the kernel has none, or where it may not be used here.
std::unique_ptr<UringLane> make_uring_lane(int depth, std::shared_ptr<Ended> ended, std::string& reason);

/// How long the end of a queue waits for reads that were told to stop.
inline constexpr std::chrono::seconds kPatience{2};

}  // namespace dsinfer
