#include "storage/read_queue.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <list>

#include "dsinfer/error.hpp"
#include "storage/read_lanes.hpp"

namespace dsinfer {
namespace {

constexpr int kLocalDepth = 32;   // what NVMe arrays and parallel file systems want in flight, at 8 MiB a read
constexpr int kRemoteDepth = 16;  // connections; object stores give 50 to 100 MB/s on each
constexpr int kMaxDepth = 1024;
constexpr size_t kOpenFiles = 64;

// The files read last, kept open.
class RecentFiles {
 public:
  std::shared_ptr<LocalFile> of(const Source& source) {
    const std::string& path = source.path()->native();
    for (auto it = files_.begin(); it != files_.end(); ++it) {
      if (it->path != path || it->version != source.version()) continue;
      files_.splice(files_.begin(), files_, it);
      return it->file;
    }
    std::shared_ptr<LocalFile> file = local_file(source);
    if (!file) return nullptr;
    if (files_.size() == kOpenFiles) files_.pop_back();
    files_.push_front({path, source.version(), file});
    return file;
  }

 private:
  struct Entry {
    std::string path, version;
    std::shared_ptr<LocalFile> file;
  };
  std::list<Entry> files_;
};

class Queue final : public ReadQueue {
 public:
  Queue(IoEngine engine, int depth, bool remote)
      : engine_(engine), remote_(remote), depth_(depth), ended_(std::make_shared<Ended>()), threads_(std::make_unique<ThreadLane>(depth, ended_)) {
    if (remote || (engine != IoEngine::automatic && engine != IoEngine::uring)) return;
    std::string reason;
    ring_ = make_uring_lane(depth, ended_, reason);
    if (!ring_ && engine == IoEngine::uring) {
      throw Error(Error::unsupported, fmt::format("reading by io_uring was asked for: {}; choose automatic", reason));
    }
  }

  void submit(Read read) override;
  std::optional<Done> poll() override {
    reap();
    return ended_->take();
  }
  void wait(int64_t microseconds) override {
    if (ended_->empty() && !(ring_ && ring_->ready())) ended_->sleep(microseconds);
  }
  int depth() const override { return depth_; }
  int64_t alignment() const override { return remote_ || engine_ == IoEngine::pread ? 1 : kDirectAlignment; }
  std::string text() const override;

 private:
  Job job_of(Read&& read);
  void start(Job job);
  void reap() {
    if (ring_) ring_->reap([this](Job job) { threads_->submit(std::move(job)); });
  }

  IoEngine engine_;
  bool remote_;
  int depth_;
  RecentFiles files_;
  std::shared_ptr<Ended> ended_;
  std::unique_ptr<ThreadLane> threads_;
  std::unique_ptr<UringLane> ring_;  // goes first: it does not know the threads
  bool used_ring_direct_ = false, used_ring_ = false, used_direct_ = false, used_pread_ = false;
  std::string scheme_;  // of what is read through its Source
};

Job Queue::job_of(Read&& read) {
  Job job;
  job.read = std::move(read);
  if (!job.read.source->path()) return job;
  job.file = files_.of(*job.read.source);
  if (!job.file) return job;  // no descriptor left
  const auto& [source, offset, out, tag, shared] = job.read;
  job.needed = job.file->needed(offset, out);
  job.bypass = engine_ != IoEngine::pread && job.file->can_bypass(offset, out);
  if (engine_ == IoEngine::direct && job.file->direct_descriptor() < 0) {
    throw Error(Error::unsupported, fmt::format("{}: its file system has no O_DIRECT; choose automatic or pread", job.file->name()));
  }
  if (engine_ == IoEngine::automatic || engine_ == IoEngine::pread) {
    const auto bytes = static_cast<int64_t>(job.needed);
    job.in_memory = bytes > 0 && job.file->bytes_cached(offset, bytes) >= bytes / 4 * 3;
    if (job.in_memory) job.bypass = false;
  }
  return job;
}

void Queue::submit(Read read) {
  const uint64_t tag = read.tag;
  try {
    start(job_of(std::move(read)));
  } catch (...) {
    ended_->push({tag, std::current_exception()});
  }
}

void Queue::start(Job job) {
  if (job.file && job.needed == 0) return ended_->push({job.read.tag, nullptr});
  // What comes from the page cache is a copy, and waits in io_uring_submit() for it; the threads do it beside us.
  const bool by_ring = ring_ && job.file && (job.bypass || engine_ == IoEngine::uring);
  if (!job.file) {
    if (scheme_.empty()) scheme_ = job.read.source->name().substr(0, job.read.source->name().find("://"));
  } else if (by_ring) {
    (job.bypass ? used_ring_direct_ : used_ring_) = true;
  } else {
    (job.bypass ? used_direct_ : used_pread_) = true;
  }
  by_ring ? ring_->submit(std::move(job)) : threads_->submit(std::move(job));
}

std::string Queue::text() const {
  std::string text;
  const auto add = [&text](bool used, const std::string& way) {
    if (used) text += (text.empty() ? "" : " + ") + way;
  };
  add(used_ring_direct_, "io_uring, O_DIRECT");
  add(used_ring_, "io_uring");
  add(used_direct_, "pread, O_DIRECT");
  add(used_pread_, "pread");
  add(!scheme_.empty(), remote_ ? fmt::format("{}, {} connections", scheme_, depth_) : "pread");
  if (!text.empty()) return text;
  if (remote_) return fmt::format("{} connections", depth_);
  return ring_ ? "io_uring, O_DIRECT" : engine_ == IoEngine::pread ? "pread" : "pread, O_DIRECT";
}

}  // namespace

std::unique_ptr<ReadQueue> make_read_queue(IoEngine engine, int depth, bool remote) {
  if (depth < 0 || depth > kMaxDepth) throw Error(Error::invalid_argument, fmt::format("depth of the read queue: {}, expected 0 to {}", depth, kMaxDepth));
  if (depth == 0) depth = remote ? kRemoteDepth : kLocalDepth;
  return std::make_unique<Queue>(engine, depth, remote);
}

}  // namespace dsinfer
