/// What a load must agree with before it begins: the other ranks' loads, and the checkpoint's own format.
#pragma once
#include "weights/checkpoint.hpp"
#include "dsinfer/loader.hpp"

namespace dsinfer {

/// Collective. Throws invalid_argument on all ranks, naming what differs, unless all load one checkpoint under one plan in one format and place.
DSINFER_INTERNAL void check_same_load(World& world, const Checkpoint& checkpoint, const Plan& plan, const LoadOptions& options);

/// Throws unsupported for a format in which the checkpoint's weights cannot be held.
DSINFER_INTERNAL void check_format(const ModelConfig& config, const std::string& model, WeightFormat weights);

/// Throws invalid_argument for limits that no load can keep.
DSINFER_INTERNAL void check_options(const LoadOptions& options);

/// Throws invalid_argument where dummy weights are to be read in a way that only files can.
DSINFER_INTERNAL void check_dummy(const Storage& storage, const LoadOptions& options);

}  // namespace dsinfer
