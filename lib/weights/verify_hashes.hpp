/// The list of tensor hashes that a full check leaves for the next one.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "weights/content_hash.hpp"

namespace dsinfer {

using TensorHashes = std::map<std::string, Hash128>;

/// Throws not_found, io, bad_format naming file and key.
DSINFER_INTERNAL TensorHashes read_hashes(const std::filesystem::path& path);
/// Whole or absent. Throws io.
DSINFER_INTERNAL void write_hashes(const std::filesystem::path& path, const TensorHashes& hashes, const std::string& fingerprint);

}  // namespace dsinfer
