/// Leader: what rank 0 does besides its part of the batches: requests in, batches out to all ranks, tokens back, events.
#pragma once
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "engine/answer.hpp"
#include "engine/board.hpp"
#include "engine/rank_steps.hpp"
#include "engine/signal.hpp"

namespace dsinfer {

/// submit and cancel on any thread, the rest on the one that drives. What it is made with outlives it; no tokenizer: no text.
class Leader {
 public:
  using Clock = std::chrono::steady_clock;
  Leader(RankSteps& steps, EngineBoard& board, const EngineOptions& options, const Tokenizer* tokenizer);

  int event_fd() const { return signal_.fd(); }
  uint64_t submit(Request request);
  bool cancel(uint64_t request);

  StepResult step(std::vector<Event>& events, std::chrono::milliseconds timeout);
  bool publish();
  /// No request is taken from now on.
  void refuse_more();
  /// Batches in flight end first: their hidden rows are still on the way between stages. Then all ranks are told.
  void shut_down();

 private:
  bool take_inbox(std::vector<Event>& events);
  void forget(std::map<uint64_t, Answer>::iterator answer);
  bool send_batches();
  bool take_results(std::vector<Event>& events);
  void take_result(const BatchResult& result, std::vector<Event>& events);
  void count_token(const Answer& answer, const Choice& choice);
  void wait_for_results(Clock::time_point deadline, std::vector<Event>& events);
  std::string stall_text() const;
  bool has_mail() const;

  RankSteps& steps_;
  EngineBoard& board_;
  World& world_;
  EngineOptions options_;
  const Tokenizer* tokenizer_;
  Signal signal_;
  Scheduler scheduler_;
  std::map<uint64_t, Answer> answers_;
  std::map<uint64_t, size_t> results_missing_;  // batch in flight → sampling ranks that have not answered
  std::vector<BatchResult> own_results_;        // of this rank's sampler
  Clock::time_point flight_since_;              // when the first of the batches in flight went out
  Clock::duration waited_{};                    // in step() since anything moved
  uint64_t flight_ns_ = 0;                      // time with batches in flight, up to flight_since_

  // Under the board's mutex.
  std::vector<Answer> inbox_;
  std::vector<uint64_t> cancels_;
  std::map<uint64_t, bool> alive_;  // every request that has not ended → cancel asked for
  uint64_t last_id_ = 0;
};

}  // namespace dsinfer
