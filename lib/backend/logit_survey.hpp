/// What Backend::survey_logits is asked of rows of logits and answers, so that sampling need not see the rows.
#pragma once
#include <cstddef>
#include <cstdint>

namespace dsinfer {

/// Of one row; as [T, 2] i32 tensors hold it.
struct LogitAsk {
  enum : int32_t { kMass = 1, kTemperedMass = 2 };
  float temperature = 1;  ///< of tempered_mass; above 0
  uint16_t best = 1;      ///< how many candidates are wanted, 1 … kMostBest; 0: the row is wanted whole
  uint16_t sums = 0;      ///< which of the sums are wanted: kMass, kTemperedMass
};
inline constexpr int64_t kMostBest = 1024;

/// The head of a row of answers; LogitCandidates follow it.
struct LogitSummary {
  double mass = 0;           ///< Σ exp(x − best) over all logits of the row
  double tempered_mass = 0;  ///< Σ exp((x − best) / temperature) over ids below the limit
  int32_t finite = 0;        ///< 0: a logit is not a number or infinite, and the rest is not said
  int32_t count = 0;         ///< candidates that follow: what was asked for, or as many ids as there are
};
struct LogitCandidate {
  int32_t id;
  float logit;
};

inline constexpr int64_t kAskWords = sizeof(LogitAsk) / sizeof(int32_t);
inline constexpr int64_t kSummaryWords = sizeof(LogitSummary) / sizeof(int32_t), kCandidateWords = sizeof(LogitCandidate) / sizeof(int32_t);
static_assert(kAskWords == 2 && kSummaryWords == 6 && kCandidateWords == 2);
/// Words of an answer with so many candidates.
constexpr int64_t survey_words(int64_t best) { return kSummaryWords + best * kCandidateWords; }

}  // namespace dsinfer
