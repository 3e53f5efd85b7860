/// Reads a rank's slices of a checkpoint into backend memory.
#pragma once
#include <filesystem>
#include <memory>

#include "backend/backend.hpp"
#include "dsinfer/loader.hpp"
#include "dsinfer/world.hpp"
#include "weights/checkpoint.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {

/// Not collective by itself: throws on this rank alone; callers wrap it in in_agreement(). Checks, before any weight is read, that every
/// tensor of the table is there with the right shape and a legal dtype, that no tensor is named twice, and that files are as long as their headers say.
/// After reading, refuses NaN or infinite scales. Errors name file, tensor, found and expected. `poll` is called at least every 64 MB
/// (for failure notices of other ranks); may throw. MTP layers are not loaded.
DSINFER_INTERNAL WeightSet load_weights(const std::filesystem::path& folder, const ModelConfig& config, const RankPlan& rank, Backend& backend,
                                        const ProgressCallback& progress, const std::function<void()>& poll);

/// The same over a checkpoint already opened (tests give their own Source).
DSINFER_INTERNAL WeightSet load_weights(const Checkpoint& checkpoint, const ModelConfig& config, const RankPlan& rank, Backend& backend,
                                        const ProgressCallback& progress, const std::function<void()>& poll);

}  // namespace dsinfer
