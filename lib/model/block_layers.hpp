/// BlockLayers: the layers of one rank through a backend's blocks (backend/blocks.hpp), where it has them for the model.
#pragma once
#include <optional>
#include <vector>

#include "backend/backend.hpp"
#include "dsinfer/forward.hpp"
#include "model/batch.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {

/// What a backend is asked for blocks of. `limits`: max_tokens, max_len, cache.
DSINFER_INTERNAL BlockDims block_dims(const ModelConfig& config, const RankPlan& rank, const ForwardOptions& limits);

/// The weights of each layer as blocks take them. Holds references into `weights`, which must outlive it.
class DSINFER_INTERNAL BlockLayers {
 public:
  /// Throws Error::unsupported, naming the layer, for weights that the blocks do not take.
  BlockLayers(const ModelConfig& config, const RankPlan& rank, const WeightSet& weights, const Blocks& blocks);

  struct Layer {
    AttentionWeights attention;
    std::optional<MlpWeights> mlp;
    std::optional<MoeWeights> moe;  // exactly one of the two
    std::vector<Weight> expert_gate_up, expert_down;
  };
  const std::vector<Layer>& layers() const { return layers_; }

 private:
  std::vector<Layer> layers_;
};

/// The rows of a part that are not decode rows. They come after those.
DSINFER_INTERNAL std::vector<BlockSegment> prefill_segments(const BatchPart& part);

/// A bound of the longest sequence of a part that few different parts have: a power of two from 1,024 on, or max_len; and its number among these.
struct LengthClass {
  int64_t longest = 0;
  int number = 0;
};
DSINFER_INTERNAL LengthClass length_class(const BatchPart& part, int64_t max_len);

}  // namespace dsinfer
