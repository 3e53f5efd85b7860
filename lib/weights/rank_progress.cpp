#include "weights/rank_progress.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/bytes.hpp"
#include "core/wait.hpp"

namespace dsinfer {
namespace {

constexpr auto kCallEvery = std::chrono::milliseconds(50);
constexpr auto kLongestTell = std::chrono::milliseconds(250);

struct Told {
  int64_t done = 0;
  bool last = false;
};

}  // namespace

RankProgress::RankProgress(World& world, const ProgressCallback& callback, int64_t total, const char* work)
    : world_(world.split(0, world.rank())), callback_(callback), work_(work), rank_(world.rank()), done_(static_cast<size_t>(world.size())), finished_(static_cast<size_t>(world.size())) {
  ByteWriter mine;
  mine.put(total);
  for (const std::string& bytes : world_->all_gather(mine.take())) total_.push_back(ByteReader(bytes).get<int64_t>());
}

void RankProgress::tick(bool always) {
  const auto now = Clock::now();
  if (const auto failed = world_->failure()) throw *failed;
  // Often enough that nobody's stall limit runs out while this rank works.
  if (now - told_ >= std::min<Clock::duration>(kLongestTell, world_->stall_timeout() / 8)) tell(/*last=*/false);
  hear();
  if (callback_ && (always || now - called_ >= kCallEvery)) call_back(now);
}

void RankProgress::tell(bool last) {
  told_ = Clock::now();
  ByteWriter message;
  message.put(Told{done_[static_cast<size_t>(rank_)], last});
  const std::string bytes = message.take();
  for (int peer = 0; peer < world_->size(); ++peer)
    if (peer != rank_) world_->post(peer, bytes);
}

void RankProgress::hear() {
  while (const std::optional<Message> message = world_->receive()) {
    const auto told = ByteReader(message->bytes).get<Told>();
    done_[static_cast<size_t>(message->from)] = told.done;
    if (told.last) finished_[static_cast<size_t>(message->from)] = true;
  }
}

void RankProgress::call_back(Clock::time_point now) {
  called_ = now;
  const auto mine = static_cast<size_t>(rank_);
  LoadProgress progress;
  progress.bytes_done = progress.all_bytes_done = done_[mine];
  progress.bytes_total = progress.all_bytes_total = total_[mine];
  progress.seconds = std::chrono::duration<double>(now - started_).count();
  progress.slowest_rank = rank_;
  if (rank_ == 0) {
    progress.all_bytes_done = std::accumulate(done_.begin(), done_.end(), int64_t{0});
    progress.all_bytes_total = std::accumulate(total_.begin(), total_.end(), int64_t{0});
    for (size_t r = 0; r < done_.size(); ++r) progress.rank_part.push_back(total_[r] ? static_cast<double>(done_[r]) / static_cast<double>(total_[r]) : 1);
    progress.slowest_rank = static_cast<int>(std::min_element(progress.rank_part.begin(), progress.rank_part.end()) - progress.rank_part.begin());
  }
  rate_.tell(progress, now);
  if (!callback_(progress))
    throw Error(Error::cancelled, fmt::format("{} was cancelled by its progress callback after {} of {} bytes", work_, progress.bytes_done, progress.bytes_total));
}

void RankProgress::finish() {
  done_[static_cast<size_t>(rank_)] = total_[static_cast<size_t>(rank_)];
  tell(/*last=*/true);
  finished_[static_cast<size_t>(rank_)] = true;
  const auto all = [&] { return std::find(finished_.begin(), finished_.end(), false) == finished_.end(); };
  // Every message counts as progress: a rank that reads is not stalled.
  uint64_t heard = 0;
  wait_until(*world_, [&] {
    Awaited awaited{"", -1, {}};
    for (size_t r = 0; r < finished_.size(); ++r)
      if (!finished_[r]) awaited.text += (awaited.text.empty() ? "rank " : ", ") + std::to_string(r), awaited.rank = awaited.rank < 0 ? static_cast<int>(r) : awaited.rank;
    awaited.text += fmt::format(" in {}", work_);
    return awaited;
  }, [&] {
    const std::vector<int64_t> before = done_;
    tick();
    if (done_ != before) ++heard;
    return all();
  }, &heard);
  if (callback_) call_back(Clock::now());
}

}  // namespace dsinfer
