/// ProgressRate: how fast bytes come, over the last seconds, and when the last will be here. For callbacks.
#pragma once
#include <chrono>
#include <deque>
#include <utility>

#include "dsinfer/loader.hpp"

namespace dsinfer {

/// Driven by one thread.
class ProgressRate {
 public:
  using Clock = std::chrono::steady_clock;

  /// Sets bytes_per_second and seconds_left of `progress`, from its all_bytes_done and those of the calls before.
  void tell(LoadProgress& progress, Clock::time_point now) {
    past_.emplace_back(now, progress.all_bytes_done);
    while (past_.size() > 2 && now - past_.front().first > kOver) past_.pop_front();
    const double seconds = std::chrono::duration<double>(now - past_.front().first).count();
    if (seconds <= 0) return;
    progress.bytes_per_second = static_cast<double>(progress.all_bytes_done - past_.front().second) / seconds;
    if (progress.bytes_per_second > 0) progress.seconds_left = static_cast<double>(progress.all_bytes_total - progress.all_bytes_done) / progress.bytes_per_second;
  }

 private:
  static constexpr std::chrono::seconds kOver{5};
  std::deque<std::pair<Clock::time_point, int64_t>> past_;
};

}  // namespace dsinfer
