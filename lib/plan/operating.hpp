/// How a plan is run: batch and chunk. Steps that were timed are kept, for the search asks about one plan several times.
#pragma once
#include <map>
#include <vector>

#include "plan/search.hpp"

namespace dsinfer {

/// How prompts of the question are computed with one chunk size.
struct Prefill {
  int64_t chunk = 1, steps = 1;
  double tokens_per_s = 0;       ///< of a replica that only prefills
  double alone_ms = 0;           ///< a prompt by itself
  StepTime step;
};

/// Times of one shape. Holds a reference to the question.
class Operation {
 public:
  Operation(const Question& question, const Candidate& candidate);
  /// At the best point within the limits, the load and memory.
  void operate(Candidate& candidate) const;
  /// At a given batch of each DP rank, with the longest chunk.
  void operate_at(Candidate& candidate, int64_t batch) const;
  /// Tokens a second at the largest batch, limits aside: no point of the plan delivers more.
  double most_tokens_per_s(const Candidate& candidate) const;
  /// Milliseconds for each token when nothing is prefilled.
  double decode_ms(int64_t batch) const;

 private:
  struct Decode { int micro_batches = 1; StepTime step; double round_ms = 0; };
  const Decode& decode(int64_t batch) const;
  void predict(Candidate& candidate, int64_t batch, const Prefill& prefill) const;
  void limit(Candidate& candidate) const;
  void limit_load(Candidate& candidate) const;

  const Question& q_;
  Shape shape_;
  int64_t most_batch_ = 1;
  std::vector<Prefill> prefills_;              ///< longest chunk first
  mutable std::map<int64_t, Decode> decodes_;  ///< by batch
};

}  // namespace dsinfer
