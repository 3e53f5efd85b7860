/// Model: one rank's part of the forward pass: its layers, its arena, its pages, its groups. It marries Backend and Comm.
#pragma once
#include <memory>

#include "backend/backend.hpp"
#include "comm/groups.hpp"
#include "dsinfer/forward.hpp"
#include "model/batch.hpp"
#include "model/logit_rows.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {

/// Built collectively over `world` (handshake, plan agreement, load, arena, cache). Driven by one thread.
class DSINFER_INTERNAL Model {
 public:
  Model(World& world, const ForwardOptions& options);
  ~Model();

  const Plan& plan() const;
  const RankPlan& rank_plan() const;
  const ModelConfig& config() const;
  int64_t num_pages() const;        ///< of each dp rank; the least over all ranks
  int64_t max_len() const;
  const ForwardOptions& options() const;  ///< with defaults filled in
  World& world();                   ///< this replica's ranks in plan order; rank 0 leads
  const std::vector<int32_t>& end_tokens() const;  ///< on rank 0: what ends an answer, as config.json and generation_config.json say

  /// One step: receives the hidden rows from the stage before, runs this stage's layers on this dp rank's part, sends them on. All ranks call it with
  /// the same Batch in the same order. Returns, on the last stage's tp rank 0 and only if rows were wanted there, logits [num_logit_rows, vocab_size] f32
  /// on the host, valid until the next call; elsewhere no tensor.
  TensorView forward(const Batch& batch);
  /// The same for a sampler: on the rank that gets logits `asks` has one entry for each wanted row, in their order; elsewhere none. Where the backend can answer, the rows
  /// stay where they are. Valid until the next call.
  LogitRows& forward(const Batch& batch, std::span<const LogitAsk> asks, int64_t id_limit);
  /// Whether this rank gets logits (last stage, tp rank 0).
  bool yields_logits() const;
  ForwardStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsinfer
