#include "dsinfer/loader.hpp"
#include "weights/layout.hpp"
#include "weights/load_terms.hpp"
#include "weights/loader.hpp"

namespace dsinfer {

ModelConfig held_config(const ModelConfig& stored, WeightFormat weights) {
  ModelConfig held = stored;
  if (weights == WeightFormat::bf16) held.fp8.reset();
  if (weights == WeightFormat::fp8 && !held.fp8) held.fp8 = Fp8Config{};
  return held;
}

RankMemory rank_memory(const std::filesystem::path& folder, const Plan& plan, int world_rank, WeightFormat weights) {
  LoadOptions options;
  options.weights = weights;
  return rank_memory(Checkpoint(folder, Headers::may_stand_alone), plan, world_rank, options);
}

RankMemory rank_memory(const Checkpoint& checkpoint, const Plan& plan, int world_rank, const LoadOptions& options) {
  const ModelConfig config = read_config(checkpoint.storage());  // the plan's may be that of the weights as held
  const RankPlan rank = plan.rank(world_rank);
  check_format(config, checkpoint.storage().name(), options.weights);
  const std::vector<TensorSpec> table = tensor_table(config);
  const std::vector<ShardPiece> pieces = shard_pieces(checkpoint.resolve(config, table), config, rank);
  constexpr int64_t kCacheElement = 4;  // the CPU's cache is f32
  RankMemory memory{held_layout(pieces, config, options.weights, options.method == ReadMethod::mmap, absorbed_dtype(options)).held_bytes, rank.layers.size() * config.cache_dim() * kCacheElement, 0};
  for (const ShardPiece& piece : pieces) memory.read_bytes += piece.range.bytes();
  return memory;
}

}  // namespace dsinfer
