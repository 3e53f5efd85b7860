/// OutputHead: final norm and head, and the logits' way to whoever asked for them.
#pragma once
#include <span>
#include <vector>

#include "model/logit_rows.hpp"
#include "model/workspace.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {

/// Of the last stage's ranks.
class OutputHead {
 public:
  /// Holds references to all of these. blocks: null where the backend has none for the model.
  OutputHead(Context& context, const WeightSet& weights, Blocks* blocks);

  /// For the wanted rows of ws.x, max_sequences at a time; the vocabulary's slices are joined on tp rank 0's host: [rows, vocab_size] f32, valid until the next call.
  /// No tensor on other ranks, where no row is wanted, and where `answers` holds answers to `asks` in its place.
  TensorView run(const BatchPart& part, std::span<const LogitAsk> asks, int64_t id_limit, LogitRows& answers);

 private:
  void bring(TensorView logits, int64_t begin);

  Context& context_;
  Blocks* blocks_;
  TensorView final_norm_;  // [H] f32
  const Weight* head_;     // [V/tp, H]
  HostSide<int32_t> wanted_;
  std::vector<float> host_logits_;
};

}  // namespace dsinfer
