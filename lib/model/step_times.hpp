/// StepTimes: where the host's time in a step goes. For benches: nobody is timed unless somebody watches.
#pragma once
#include <chrono>
#include <cstdint>

#include "dsinfer/export.hpp"

namespace dsinfer {

/// Nanoseconds, summed over steps.
struct StepTimes {
  uint64_t schedule = 0;  ///< the next batch, its announcement, posts to other ranks
  uint64_t copy_in = 0;   ///< tokens, positions and pages to the device, embedding
  uint64_t launch = 0;    ///< the layers' replay or launches
  uint64_t head = 0;      ///< launches of norm, head and survey
  uint64_t answer = 0;    ///< until the sampler has what it needs on the host: the device's work is waited for here
  uint64_t choose = 0;    ///< the sampler
  uint64_t token = 0;     ///< tokens to their answers: events, text, stops
};

/// What this thread's steps add to; null: nothing is timed.
DSINFER_INTERNAL StepTimes*& watched_step_times();

/// Adds what passed since it was made, or since the last call.
class StepLap {
 public:
  StepLap() : times_(watched_step_times()) {
    if (times_) last_ = std::chrono::steady_clock::now();
  }
  void operator()(uint64_t StepTimes::*part) {
    if (!times_) return;
    const auto now = std::chrono::steady_clock::now();
    times_->*part += static_cast<uint64_t>(std::chrono::nanoseconds(now - last_).count());
    last_ = now;
  }

 private:
  StepTimes* times_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace dsinfer
