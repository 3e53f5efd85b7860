#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>

#include "dsinfer/error.hpp"
#include "storage/read_lanes.hpp"

namespace dsinfer {

Ended::Ended() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (event_ < 0) throw Error(Error::io, fmt::format("eventfd: {}; a read queue needs one descriptor", std::strerror(errno)));
}

Ended::~Ended() { ::close(event_); }

void Ended::push(Done done) {
  {
    const std::lock_guard lock(mutex_);
    list_.push_back(std::move(done));
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(event_, &one, sizeof one);  // fails only when the count is full, and then sleepers wake anyway
}

std::optional<Done> Ended::take() {
  const std::lock_guard lock(mutex_);
  if (list_.empty()) return std::nullopt;
  std::optional<Done> done(std::move(list_.front()));
  list_.pop_front();
  return done;
}

bool Ended::empty() const {
  const std::lock_guard lock(mutex_);
  return list_.empty();
}

void Ended::sleep(int64_t microseconds) {
  pollfd wanted{event_, POLLIN, 0};
  microseconds = std::max<int64_t>(microseconds, 0);
  const timespec limit{static_cast<time_t>(microseconds / 1'000'000), static_cast<long>(microseconds % 1'000'000 * 1000)};
  if (::ppoll(&wanted, 1, &limit, nullptr) <= 0) return;
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(event_, &count, sizeof count);
}

struct ThreadLane::Shared {
  std::mutex mutex;
  std::condition_variable work, left;
  std::deque<Job> waits, copies;    // for a disk or a network; out of the page cache
  std::vector<Source*> running;     // by thread; nullptr: none, or not through its Source
  std::vector<char> gone;           // by thread
  size_t idle = 0, copying = 0, copy_limit = 1;
  bool stop = false;
  std::shared_ptr<Ended> ended;

  /// Reads that a thread could begin now.
  size_t to_begin() const { return waits.size() + std::min(copies.size(), copy_limit - std::min(copy_limit, copying)); }
};

namespace {

std::exception_ptr perform(Job& job) {
  try {
    if (job.file) {
      job.file->read(job.read.offset, job.read.out, job.done, job.needed, job.bypass);
    } else {
      const auto there = static_cast<size_t>(std::max<int64_t>(job.read.source->size() - job.read.offset, 0));
      const bool aligned = job.read.offset % kDirectAlignment == 0 && job.read.out.size() % kDirectAlignment == 0;
      const bool past_end = aligned && job.read.out.size() > there && job.read.out.size() - there < kDirectAlignment;  // to its page's edge: as a direct read may
      job.read.source->read(job.read.offset, past_end ? job.read.out.first(there) : job.read.out);
    }
    return nullptr;
  } catch (...) {
    return std::current_exception();
  }
}

class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

std::thread quiet_thread(std::function<void()> body) {
  const SignalsBlocked blocked;
  return std::thread(std::move(body));
}

ThreadLane::ThreadLane(int depth, std::shared_ptr<Ended> ended) : shared_(std::make_shared<Shared>()), depth_(static_cast<size_t>(depth)) {
  shared_->ended = std::move(ended);
  shared_->copy_limit = std::max(1u, std::thread::hardware_concurrency());
  shared_->running.resize(depth_);
  shared_->gone.resize(depth_);
  threads_.reserve(depth_);
}

void ThreadLane::submit(Job job) {
  {
    const std::lock_guard lock(shared_->mutex);
    (job.in_memory ? shared_->copies : shared_->waits).push_back(std::move(job));
    if (shared_->to_begin() > shared_->idle && threads_.size() < depth_) start_thread();
  }
  shared_->work.notify_one();
}

void ThreadLane::start_thread() {
  try {
    threads_.push_back(quiet_thread([shared = shared_, self = threads_.size()] { work(shared, self); }));
  } catch (const std::system_error& error) {
    if (!threads_.empty()) return;  // those that are there will do
    shared_->waits.clear();
    shared_->copies.clear();
    throw Error(Error::out_of_memory, fmt::format("reading needs a thread: {}", error.what()));
  }
}

void ThreadLane::work(const std::shared_ptr<Shared>& shared, size_t self) {
  std::unique_lock lock(shared->mutex);
  while (true) {
    ++shared->idle;
    shared->work.wait(lock, [&] { return shared->stop || shared->to_begin() > 0; });
    --shared->idle;
    if (shared->stop) break;
    const bool copy = shared->waits.empty();
    auto& queue = copy ? shared->copies : shared->waits;
    Job job = std::move(queue.front());
    queue.pop_front();
    shared->copying += copy;
    if (!job.file) shared->running[self] = job.read.source;
    lock.unlock();
    std::exception_ptr error = perform(job);
    lock.lock();
    shared->copying -= copy;
    shared->running[self] = nullptr;
    if (!shared->stop) shared->ended->push({job.read.tag, std::move(error)});
  }
  shared->gone[self] = true;
  shared->left.notify_all();
}

ThreadLane::~ThreadLane() {
  std::deque<Job> dropped[2];
  std::vector<char> gone;
  {
    std::unique_lock lock(shared_->mutex);
    shared_->stop = true;
    dropped[0].swap(shared_->waits);
    dropped[1].swap(shared_->copies);
    for (Source* source : shared_->running) {
      if (source) source->interrupt();
    }
    shared_->work.notify_all();
    shared_->left.wait_for(lock, kPatience, [&] {
      return static_cast<size_t>(std::count(shared_->gone.begin(), shared_->gone.end(), 1)) == threads_.size();
    });
    gone = shared_->gone;
  }
  for (size_t i = 0; i < threads_.size(); ++i) gone[i] ? threads_[i].join() : threads_[i].detach();
}

}  // namespace dsinfer
