/// Loading a rank's weights: from its shard cache, or by the ReadPlan together with the other ranks.
#pragma once
#include "backend/backend.hpp"
#include "dsinfer/loader.hpp"
#include "storage/read_queue.hpp"
#include "weights/checkpoint.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {

struct RankWeights {
  WeightSet weights;
  LoadReport report;
};

/// Collective over `world`, inside a phase that all ranks are in: throws on this rank alone. All ranks pass the same plan, options and checkpoint.
DSINFER_INTERNAL RankWeights load_rank(World& world, const Checkpoint& checkpoint, const Plan& plan, Backend& backend, const LoadOptions& options);

/// The queue's engine for a method.
DSINFER_INTERNAL IoEngine io_engine(ReadMethod method);

DSINFER_INTERNAL StorageOptions storage_options(const LoadOptions& options);

/// As the public one.
DSINFER_INTERNAL RankMemory rank_memory(const Checkpoint& checkpoint, const Plan& plan, int world_rank, const LoadOptions& options);

/// The folder or URL that names a model. Where a server is waited for, options.progress may cancel, and, with `world`, what another rank met ends it.
DSINFER_INTERNAL std::shared_ptr<Storage> open_model(const std::filesystem::path& model, const LoadOptions& options, World* world = nullptr);

/// The config of a model, wherever it lies.
DSINFER_INTERNAL ModelConfig read_config(Storage& storage);

}  // namespace dsinfer
