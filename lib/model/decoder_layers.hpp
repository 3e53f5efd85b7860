/// DecoderLayers: the layers of one rank's stage, through the backend's blocks where it has them for the model, else through its fine operations.
#pragma once
#include <optional>
#include <vector>

#include "cache/kv_cache.hpp"
#include "model/attention.hpp"
#include "model/block_layers.hpp"
#include "model/moe.hpp"

namespace dsinfer {

class DecoderLayers {
 public:
  /// Holds references to all of these. blocks: null for the fine operations.
  DecoderLayers(Context& context, const WeightSet& weights, const KvCache& cache, Blocks* blocks);

  /// ws.x := what the layers make of it, for the rows of `step`. always_the_same: a step of so many rows is the same operations over the same memory whatever it
  /// holds, and may be replayed. Collective over the stage, also with no rows.
  void run(const StepRows& step, bool always_the_same);

 private:
  // Exactly one of mlp and moe.
  struct Layer {
    Attention attention;
    TensorView input_norm, post_norm;  // [H] f32
    std::optional<Mlp> mlp;
    std::optional<Moe> moe;
  };
  void run_operations(const StepRows& step);
  void run_blocks(const StepRows& step, const std::vector<BlockSegment>& prefill, int64_t longest);
  void count_expert_rows() { context_.stats.expert_rows_computed += static_cast<uint64_t>(moe_layers_ * context_.counted_rows * context_.config.num_experts_per_tok); }

  Context& context_;
  const KvCache& cache_;
  Blocks* blocks_;
  std::vector<Layer> layers_;  // without blocks
  std::optional<ExpertExchange> exchange_;
  std::optional<BlockLayers> block_layers_;
  int64_t moe_layers_ = 0;
};

}  // namespace dsinfer
