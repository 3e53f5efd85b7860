/// Sampler: logits → token, on the rank that has the logits. Keeps what the penalties of each request need.
#pragma once
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "backend/logit_survey.hpp"
#include "dsinfer/engine.hpp"

namespace dsinfer {

/// Uniform in [0, 1), 53 bits, a pure function of (seed, position). Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
DSINFER_INTERNAL double uniform_at(uint64_t seed, uint64_t position);
/// The block function behind it, for its published test vectors. counter: 4 words, key: 2 words; result in `counter`.
DSINFER_INTERNAL void philox4x32_10(uint32_t (&counter)[4], uint32_t key0, uint32_t key1);

/// Throws invalid_argument naming the value that is out of range.
DSINFER_INTERNAL void check_sampling(const SamplingOptions& options);

/// One chosen token. token -1: the logits were not numbers.
struct Choice {
  uint64_t request = 0;
  int32_t token = -1;
  float logprob = 0;
  std::vector<TokenLogprob> top;
};

/// Chooses among scores already penalised and masked (-inf); `uniform` in [0, 1). temperature 0: the best, lowest id on a tie.
/// The draw walks the kept tokens in the order of their ids, so that two almost equal scores may change places without changing the draw.
DSINFER_INTERNAL int32_t choose_token(std::span<const float> scores, const SamplingOptions& options, double uniform);

/// The same by a row's best candidates (LogitSummary), where they settle it: nothing if what would be kept may reach beyond them. `all_there`: no id is missing.
DSINFER_INTERNAL std::optional<int32_t> choose_among(std::span<const LogitCandidate> best, bool all_there, double tempered_mass, const SamplingOptions& options, double uniform);

class DSINFER_INTERNAL Sampler {
 public:
  /// Ids from id_limit on belong to no token and are never chosen.
  Sampler(int64_t vocab_size, int64_t id_limit) : scores_(static_cast<size_t>(vocab_size)), id_limit_(id_limit) {}

  void start(uint64_t request, const SamplingOptions& options, int64_t prompt_tokens);
  /// Rows of `request` that are computed, from `position` on; prompt tokens count for the repetition penalty. What is fed again after a preemption
  /// counts once.
  void feed(uint64_t request, int64_t position, std::span<const int32_t> tokens);
  /// The token that follows the row at `position`. logits: [vocab_size] of that row.
  Choice choose(uint64_t request, int64_t position, std::span<const float> logits);
  /// What choose() needs of the row; best 0: the whole row (penalties, draws among all ids, top_k beyond kMostBest).
  LogitAsk ask(uint64_t request);
  /// The same choice by what was asked for; nothing: the whole row is needed after all.
  std::optional<Choice> choose(uint64_t request, int64_t position, const LogitSummary& summary, std::span<const LogitCandidate> best);
  int64_t id_limit() const { return id_limit_; }
  void release(uint64_t request) { states_.erase(request); }
  size_t size() const { return states_.size(); }

 private:
  struct State {
    SamplingOptions options;
    int64_t prompt_tokens = 0;
    int64_t fed = 0;                             ///< prompt positions seen
    std::unordered_set<int32_t> prompt;          ///< its tokens, if the repetition penalty is on
    std::unordered_map<int32_t, int32_t> counts; ///< of the tokens chosen so far, if a penalty is on
  };
  State& state(uint64_t request);
  void penalise(const State& state);

  std::unordered_map<uint64_t, State> states_;
  std::vector<float> scores_;  // [vocab_size] scratch
  int64_t id_limit_;
};

}  // namespace dsinfer
