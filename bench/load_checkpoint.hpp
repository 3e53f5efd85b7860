/// A checkpoint of some gigabytes to time loading with: DeepSeek-V3's tensors, fewer experts, as many layers as the size asks for.
#pragma once
#include <cstdint>
#include <filesystem>

namespace dsinfer::bench {

/// Writes config.json, index and files of about 1 GB into `folder`, unless they are there with the same config. Contents follow from the seed alone:
/// FP8 weights of finite values, scales near 1e-4. Gives the bytes of all files. Throws std::runtime_error.
int64_t make_load_checkpoint(const std::filesystem::path& folder, double gigabytes);

}  // namespace dsinfer::bench
