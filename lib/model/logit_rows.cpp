#include "model/logit_rows.hpp"

#include <algorithm>
#include <cstring>

#include "model/step_times.hpp"

namespace dsinfer {

LogitRows::LogitRows(Backend& backend, int64_t max_rows) : backend_(&backend), max_rows_(max_rows), memory_(backend.allocate(static_cast<size_t>(room_bytes(max_rows)))) {
  constexpr int64_t kWords = survey_words(kMostBest);
  answers_ = memory_.view(DType::i32, {max_rows, kWords});
  asks_ = TensorView(answers_.at(max_rows), DType::i32, {max_rows, kAskWords}, answers_.place);
}

bool LogitRows::survey(TensorView logits, std::span<const LogitAsk> asks, int64_t id_limit) {
  const auto rows = static_cast<int64_t>(asks.size());
  if (!backend_ || rows == 0 || rows > max_rows_ || rows != logits.dim(0)) return false;
  StepLap lap;
  std::vector<LogitAsk> sent(asks.begin(), asks.end());
  uint16_t best = 0;
  for (LogitAsk& ask : sent) {
    best = std::max(best, ask.best);
    ask.best = std::max<uint16_t>(ask.best, 1);
  }
  if (best == 0) return false;
  const auto same = [](const LogitAsk& a, const LogitAsk& b) { return std::memcmp(&a, &b, sizeof a) == 0; };
  if (sent.size() != sent_.size() || !std::equal(sent.begin(), sent.end(), sent_.begin(), same)) {  // most steps ask as the one before
    backend_->copy(asks_.rows(0, rows), TensorView::of(reinterpret_cast<const int32_t*>(sent.data()), {rows, kAskWords}));
    sent_ = std::move(sent);
  }
  words_ = survey_words(best);
  const TensorView answers(answers_.data, DType::i32, {rows, words_}, answers_.place);
  if (!backend_->survey_logits(answers, logits, asks_.rows(0, rows), id_limit)) return false;
  lap(&StepTimes::head);
  host_.resize(static_cast<size_t>(rows * words_));
  backend_->copy(TensorView::of(host_.data(), {rows, words_}), answers);
  lap(&StepTimes::answer);
  asked_.resize(asks.size());
  for (size_t i = 0; i < asks.size(); ++i) asked_[i] = asks[i].best;
  logits_ = logits;
  return true;
}

void LogitRows::hold(TensorView logits) {
  asked_.clear();
  logits_ = logits;
}

std::optional<LogitRows::Answer> LogitRows::answer(int64_t i) const {
  if (asked_.empty() || asked_[static_cast<size_t>(i)] == 0) return std::nullopt;
  const int32_t* words = host_.data() + i * words_;
  Answer answer;
  std::memcpy(static_cast<void*>(&answer.summary), words, sizeof answer.summary);
  answer.best = {reinterpret_cast<const LogitCandidate*>(words + kSummaryWords), static_cast<size_t>(answer.summary.count)};
  return answer;
}

std::span<const float> LogitRows::whole(int64_t i) {
  const int64_t width = logits_.dim(1);
  if (logits_.place == Place::host) return {logits_.row<float>(i), static_cast<size_t>(width)};
  row_.resize(static_cast<size_t>(width));
  backend_->copy(TensorView::of(row_.data(), {1, width}), logits_.rows(i, i + 1));
  return row_;
}

}  // namespace dsinfer
