// What a LoadRun tells of itself, and when it gives up.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/wait.hpp"
#include "dsinfer/error.hpp"
#include "weights/load_run.hpp"

namespace dsinfer {
namespace {

constexpr auto kReportEvery = std::chrono::milliseconds(50);  // the callback
constexpr auto kTellEvery = std::chrono::milliseconds(200);   // rank 0

}  // namespace

void LoadRun::report(bool always) {
  const auto now = Clock::now();
  if (rank_ != 0 && (always || now - told_ >= kTellEvery)) {
    told_ = now;
    if (!ended_) handing_.send_progress(landed_, total_);
  }
  if (!task_.options.progress || (!always && now - reported_ < kReportEvery)) return;
  reported_ = now;
  LoadProgress progress;
  progress.bytes_done = progress.all_bytes_done = landed_;
  progress.bytes_total = progress.all_bytes_total = total_;
  progress.seconds = std::chrono::duration<double>(now - started_).count();
  progress.slowest_rank = rank_;
  if (rank_ == 0) {
    progress.all_bytes_done = progress.all_bytes_total = 0;
    double least = 2;
    for (size_t r = 0; r < task_.reads.ranks.size(); ++r) {
      const int64_t whole = task_.reads.ranks[r].bytes_needed;
      const int64_t done = r == 0 ? landed_ : handing_.parts()[r].ended ? whole : handing_.parts()[r].done;
      const double part = whole > 0 ? static_cast<double>(done) / static_cast<double>(whole) : 1;
      progress.all_bytes_done += done;
      progress.all_bytes_total += whole;
      progress.rank_part.push_back(part);
      if (part < least) least = part, progress.slowest_rank = static_cast<int>(r);
    }
  }
  rate_.tell(progress, now);
  if (!task_.options.progress(progress))
    throw Error(Error::cancelled, fmt::format("loading was cancelled by its progress callback after {} of {} bytes", landed_, total_));
}

// Reads that stand still are this rank's own trouble; a rank that only waits for others goes on as long as any of them moves.
void LoadRun::check_stall(bool moved, bool heard) {
  const auto now = Clock::now();
  const auto limit = task_.world.stall_timeout();
  if (heard) moved_ = now;
  moved_since_beat_ |= moved;
  if (moved_since_beat_ && now - beaten_ >= limit / 8) {
    beaten_ = now;
    moved_since_beat_ = false;
    handing_.send_beat();
  }
  if (in_flight_ == 0) read_moved_ = now;
  const double seconds = std::chrono::duration<double>(limit).count();
  if (in_flight_ > 0 && now - read_moved_ > limit) {
    for (const Slot& slot : slots_) {
      if (slot.chunk < 0 || slot.reads_left == 0) continue;
      const Chunk& c = chunk(slot.chunk);
      throw Error(Error::stalled, fmt::format("rank {}: {}{:.3g} s while reading {} at byte {}; look at the disk or the network that it lies on, or set a longer stall limit", rank_,
                                              kStallWords, seconds, task_.checkpoint.files()[static_cast<size_t>(c.file)].path, c.begin));
    }
  }
  if (now - moved_ <= limit || in_flight_ > 0) return;
  if (!handing_.all_acknowledged())
    throw Error(Error::stalled, fmt::format("rank {}: {}{:.3g} s while handing weights on to ranks {}", rank_, kStallWords, seconds, fmt::join(handing_.waited_for(), ", ")));
  throw Error(Error::stalled, fmt::format("rank {}: {}{:.3g} s while waiting for weights that other ranks read ({} of {} bytes are here)", rank_, kStallWords, seconds, received_, expected_));
}

}  // namespace dsinfer
