/// Loading from shard caches, and making them.
#pragma once
#include "weights/loader.hpp"
#include "weights/shard.hpp"

namespace dsinfer {

/// Collective, inside a phase that all ranks are in: throws on this rank alone. Each rank reads its own file of options.shard_cache. Nothing if a rank has none:
/// ranks hand weights on to each other, so all read the checkpoint or none does. Throws bad_format for a file that is stale, foreign or edited.
DSINFER_INTERNAL std::optional<RankWeights> load_cached(World& world, const Checkpoint& checkpoint, const Plan& plan, const ModelConfig& config, const std::vector<ShardPiece>& pieces,
                                                        Backend& backend, const LoadOptions& options);

}  // namespace dsinfer
