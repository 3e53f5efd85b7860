/// RankSteps: one rank's part of every batch: the forward pass, and the choice of tokens where the logits are.
#pragma once
#include <chrono>
#include <optional>
#include <vector>

#include "dsinfer/tokenizer.hpp"
#include "engine/announcement.hpp"
#include "engine/sampler.hpp"
#include "model/model.hpp"

namespace dsinfer {

inline uint64_t nanoseconds(std::chrono::steady_clock::duration d) { return static_cast<uint64_t>(std::chrono::nanoseconds(d).count()); }

/// Driven by one thread.
class RankSteps {
 public:
  /// Collective over `whole`: loads the model.
  RankSteps(World& whole, const ForwardOptions& options, const std::optional<Tokenizer>& tokenizer);

  const Model& model() const { return model_; }
  World& world() const { return world_; }  ///< the replica's ranks; 0 leads
  bool leads() const { return world_.rank() == 0; }
  BatchResult execute(const Announcement& a);
  /// What this rank's steps add to the engine's figures.
  void publish(EngineStats& stats) const;

 private:
  struct SampledRow {
    uint64_t request;
    int64_t position;
  };
  std::vector<SampledRow> feed_sampler(const Announcement& a);
  Choice choose(const SampledRow& row, LogitRows& logits, int64_t i);

  Model model_;
  World& world_;
  Sampler sampler_;
  uint64_t busy_ns_ = 0, idle_ns_ = 0;
};

}  // namespace dsinfer
