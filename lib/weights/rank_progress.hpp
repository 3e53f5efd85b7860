/// Progress of work that every rank does by itself: what callbacks are told of all ranks, and that a rank which is still busy is not taken for a stalled one.
#pragma once
#include <chrono>
#include <memory>
#include <numeric>
#include <vector>

#include "weights/progress_rate.hpp"

namespace dsinfer {

class DSINFER_INTERNAL RankProgress {
 public:
  /// Collective. `total`: bytes of this rank's part. `work`: "checking the checkpoint", for errors.
  RankProgress(World& world, const ProgressCallback& callback, int64_t total, const char* work);
  /// Of all ranks, together.
  int64_t all_bytes() const { return std::accumulate(total_.begin(), total_.end(), int64_t{0}); }
  void advance(int64_t bytes) { done_[static_cast<size_t>(rank_)] += bytes; }
  /// Calls the callback now and then, tells the other ranks, hears of their failures. Throws cancelled, group_failed, and what the callback throws.
  void tick(bool always = false);
  /// Collective: until every rank is here. Goes on with tick().
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void tell(bool last);
  void hear();
  void call_back(Clock::time_point now);

  std::unique_ptr<World> world_;  // its own messages
  const ProgressCallback& callback_;
  const char* work_;
  int rank_ = 0;
  std::vector<int64_t> done_, total_;  // of each rank, as far as it is known here
  std::vector<bool> finished_;
  ProgressRate rate_;
  Clock::time_point started_ = Clock::now(), called_{}, told_{};
};

}  // namespace dsinfer
