/// LogitRows: what a step's wanted rows of logits say to the sampler. The rows themselves stay where they were computed until one is looked at whole.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.hpp"
#include "backend/logit_survey.hpp"

namespace dsinfer {

/// Of the last step, until the next.
class DSINFER_INTERNAL LogitRows {
 public:
  struct Answer {
    LogitSummary summary;
    std::span<const LogitCandidate> best;
  };

  LogitRows() = default;
  /// With room for the answers of max_rows rows; outlived by `backend`.
  LogitRows(Backend& backend, int64_t max_rows);
  /// Bytes that this room takes on the backend.
  static int64_t room_bytes(int64_t max_rows) { return max_rows * (survey_words(kMostBest) + kAskWords) * 4; }

  /// Asks the backend about dense rows in its memory, which stay there until the next step: logits [rows, vocab_size] f32. An ask with best 0 wants the row whole.
  /// False where the backend has no way, or there are more rows than room.
  bool survey(TensorView logits, std::span<const LogitAsk> asks, int64_t id_limit);
  /// Rows that are on the host already, or none.
  void hold(TensorView logits);

  /// Nothing where row i was not asked about.
  std::optional<Answer> answer(int64_t i) const;
  /// Row i, brought to the host where it is not there. Valid until the next call.
  std::span<const float> whole(int64_t i);

 private:
  Backend* backend_ = nullptr;
  int64_t max_rows_ = 0;
  Buffer memory_;
  TensorView answers_, asks_;        // [max_rows, survey_words(kMostBest)], [max_rows, kAskWords] i32
  std::vector<LogitAsk> sent_;       // what asks_ holds
  std::vector<uint16_t> asked_;      // best of each row of the step; empty: no survey
  std::vector<int32_t> host_;        // answers, `words_` a row
  int64_t words_ = 0;
  TensorView logits_;
  std::vector<float> row_;
};

}  // namespace dsinfer
