/// A model folder's storage in which the weights are made up when they are read.
#pragma once
#include <memory>
#include <string>

#include "storage/storage.hpp"

namespace dsinfer {

/// Whether `model` names dummy weights: "dummy://FOLDER" or "dummy://FOLDER?seed=N", where FOLDER is a local one with a config.json.
DSINFER_INTERNAL bool names_dummy(const std::string& model);

/// The folder's small files, and safetensors files with an index that hold every tensor of a checkpoint of its config, in the dtypes and blocks that the config's
/// quantization says. Their bytes are a pure function of seed, tensor and position. Weights that lie in the folder are not looked at. Throws invalid_argument for another form of name
/// or seed, not_found without folder or config.json, and what parsing the config throws.
DSINFER_INTERNAL std::unique_ptr<Storage> open_dummy(const std::string& model);

/// Whether open_dummy made it.
DSINFER_INTERNAL bool is_dummy(const Storage& storage);

/// Throws invalid_argument where `model` names dummy weights: what `work` is ("verifying") has no sense there.
DSINFER_INTERNAL void refuse_dummy(const std::string& model, const char* work);

/// open_storage(), and dummy weights where they are named.
DSINFER_INTERNAL std::unique_ptr<Storage> open_weights(const std::string& model, const StorageOptions& options = {});

}  // namespace dsinfer
