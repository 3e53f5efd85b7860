/// The check of a checkpoint, over any storage and with any names of nodes (include/dsinfer/loader.hpp has the public form).
#pragma once
#include <memory>

#include "dsinfer/loader.hpp"
#include "storage/storage.hpp"

namespace dsinfer {

struct VerifyOptions {
  VerifyDepth depth = VerifyDepth::quick;
  std::filesystem::path hashes;
  ProgressCallback progress;
  std::string node;  ///< ranks that give one name share the reading of one copy; empty: the name of this machine
};

/// Collective. `open` gives this rank's view of the model's folder; what it throws ends the check on all ranks.
DSINFER_INTERNAL VerifyReport verify_checkpoint(World& world, const std::function<std::shared_ptr<Storage>()>& open, const VerifyOptions& options);

}  // namespace dsinfer
