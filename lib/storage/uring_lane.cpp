#include "storage/read_lanes.hpp"

#ifdef DSINFER_URING
#include <fmt/format.h>
#include <liburing.h>

#include <cerrno>
#include <cstring>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

// The ring and what it reads into. Lives as long as the system holds a read of it.
struct Ring {
  struct Slot {
    Job job;
    bool busy = false;
  };
  explicit Ring(int depth) : slots(static_cast<size_t>(depth)) {
    for (size_t i = slots.size(); i-- > 0;) free.push_back(i);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() {
    if (open) io_uring_queue_exit(&ring);
  }
  size_t in_flight() const { return slots.size() - free.size(); }

  io_uring ring{};
  bool open = false;
  std::vector<Slot> slots;
  std::vector<size_t> free;
};

constexpr uint64_t kCancelled = ~uint64_t{0};  // user data of requests to cancel; others are slots

// Waits until the system has let go of all reads, and no longer than `limit`.
bool drain(Ring& ring, std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (ring.in_flight() > 0) {
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(end - std::chrono::steady_clock::now()).count();
    if (left <= 0) return false;
    __kernel_timespec wait{left / 1'000'000'000, left % 1'000'000'000};
    io_uring_cqe* cqe = nullptr;
    const int code = io_uring_wait_cqe_timeout(&ring.ring, &cqe, &wait);
    if (code == -ETIME) return false;
    if (code == -EINTR || code == -EAGAIN) continue;
    if (code < 0) return false;
    const uint64_t slot = io_uring_cqe_get_data64(cqe);
    io_uring_cqe_seen(&ring.ring, cqe);
    if (slot != kCancelled) ring.free.push_back(slot);
  }
  return true;
}

class Lane final : public UringLane {
 public:
  Lane(std::unique_ptr<Ring> ring, std::shared_ptr<Ended> ended) : ring_(std::move(ring)), ended_(std::move(ended)) {}
  ~Lane() override;

  void submit(Job job) override {
    if (ring_->free.empty()) {
      waiting_.push_back(std::move(job));
      return;
    }
    const size_t slot = ring_->free.back();
    ring_->free.pop_back();
    ring_->slots[slot].job = std::move(job);
    start(slot);
    flush();
  }

  bool ready() const override { return io_uring_cq_ready(&ring_->ring) > 0; }
  void reap(const std::function<void(Job)>& refused) override;

 private:
  void start(size_t slot);
  void flush();
  void finish(size_t slot, std::exception_ptr error);

  std::unique_ptr<Ring> ring_;
  std::shared_ptr<Ended> ended_;
  std::deque<Job> waiting_;
  bool unsent_ = false;
};

// Queues what is left of the slot's read. There is room: the queue has as many entries as there are slots, and twice that for cancelling.
void Lane::start(size_t slot) {
  Job& job = ring_->slots[slot].job;
  const int64_t at = job.read.offset + static_cast<int64_t>(job.done);
  job.bypass = job.bypass && job.file->direct_descriptor() >= 0;  // refused to another read meanwhile
  std::span<std::byte> rest = job.read.out.subspan(job.done, std::min(job.read.out.size() - job.done, kMaxRead));
  if (!job.bypass) rest = rest.first(std::min(rest.size(), job.needed - job.done));
  io_uring_sqe* entry = io_uring_get_sqe(&ring_->ring);
  io_uring_prep_read(entry, job.bypass ? job.file->direct_descriptor() : job.file->descriptor(), rest.data(), static_cast<unsigned>(rest.size()),
                     static_cast<uint64_t>(at));
  io_uring_sqe_set_data64(entry, slot);
}

// What the kernel has no room for now goes with the next one, or with the next look at what has ended.
void Lane::flush() { unsent_ = io_uring_submit(&ring_->ring) < 0; }

void Lane::finish(size_t slot, std::exception_ptr error) {
  ended_->push({ring_->slots[slot].job.read.tag, std::move(error)});
  ring_->slots[slot].job = {};
  ring_->free.push_back(slot);
}

void Lane::reap(const std::function<void(Job)>& refused) {
  io_uring_cqe* cqe = nullptr;
  bool more = false;
  while (io_uring_peek_cqe(&ring_->ring, &cqe) == 0) {
    const size_t slot = io_uring_cqe_get_data64(cqe);
    const int result = cqe->res;
    io_uring_cqe_seen(&ring_->ring, cqe);
    Job& job = ring_->slots[slot].job;
    const int64_t at = job.read.offset + static_cast<int64_t>(job.done);
    if (result == -EINTR || result == -EAGAIN) {
      start(slot), more = true;
    } else if (result == -EINVAL || result == -EOPNOTSUPP) {
      if (job.bypass) job.file->refuse_bypass();
      job.bypass = false;
      refused(std::move(job));
      ring_->free.push_back(slot);
    } else if (result < 0) {
      finish(slot, job.file->failed(at, job.read.out.size() - job.done, -result));
    } else if (result == 0) {
      finish(slot, job.file->ends_early(at, static_cast<int64_t>(job.needed - job.done)));
    } else if (job.done += static_cast<size_t>(result); job.done >= job.needed) {
      finish(slot, nullptr);
    } else {
      job.bypass = job.bypass && job.file->can_bypass(at + result, job.read.out.subspan(job.done));
      start(slot), more = true;
    }
  }
  while (!waiting_.empty() && !ring_->free.empty()) {
    Job job = std::move(waiting_.front());
    waiting_.pop_front();
    submit(std::move(job));
  }
  if (more || unsent_) flush();
}

Lane::~Lane() {
  waiting_.clear();
  if (ring_->in_flight() == 0) return;
  for (size_t slot = 0; slot < ring_->slots.size(); ++slot) {
    if (!ring_->slots[slot].job.file) continue;
    io_uring_sqe* entry = io_uring_get_sqe(&ring_->ring);
    if (!entry) break;
    io_uring_prep_cancel64(entry, slot, 0);
    io_uring_sqe_set_data64(entry, kCancelled);
  }
  io_uring_submit(&ring_->ring);
  if (drain(*ring_, kPatience)) return;
  // The system still writes into the buffers. Whoever waits for it keeps them; if nobody can, they are better lost than given to others.
  Ring* ring = ring_.release();
  try {
    quiet_thread([ring] {
      if (drain(*ring, std::chrono::hours(24 * 365))) delete ring;
    }).detach();
  } catch (const std::exception&) {
  }
}

}  // namespace

std::unique_ptr<UringLane> make_uring_lane(int depth, std::shared_ptr<Ended> ended, std::string& reason) {
  auto ring = std::make_unique<Ring>(depth);
  const int code = io_uring_queue_init(static_cast<unsigned>(depth) * 2, &ring->ring, 0);
  if (code < 0) {
    reason = fmt::format("io_uring_setup: {} ({})", std::strerror(-code),
                         code == -EPERM    ? "forbidden here, by kernel.io_uring_disabled or the container's seccomp profile"
                         : code == -ENOSYS ? "this kernel has none, or the container hides it"
                                           : "see ulimit -l and -n");
    return nullptr;
  }
  ring->open = true;
  io_uring_probe* probe = io_uring_get_probe_ring(&ring->ring);
  const bool reads = probe && io_uring_opcode_supported(probe, IORING_OP_READ) && io_uring_opcode_supported(probe, IORING_OP_ASYNC_CANCEL);
  io_uring_free_probe(probe);
  if (!reads) {
    reason = "io_uring of this kernel is too old (5.6 is needed)";
    return nullptr;
  }
  if (const int registered = io_uring_register_eventfd(&ring->ring, ended->descriptor()); registered < 0) {
    reason = fmt::format("io_uring_register_eventfd: {}", std::strerror(-registered));
    return nullptr;
  }
  return std::make_unique<Lane>(std::move(ring), std::move(ended));
}

}  // namespace dsinfer

#else
namespace dsinfer {
std::unique_ptr<UringLane> make_uring_lane(int, std::shared_ptr<Ended>, std::string& reason) {
  reason = "this build has no io_uring (liburing-dev was missing, or DSINFER_URING=OFF)";
  return nullptr;
}
}  // namespace dsinfer
#endif
