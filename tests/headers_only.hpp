/// A checkpoint's headers without its data, from the table of tensors: what a dry run needs of DeepSeek-V3.
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "config/tensors.hpp"

namespace dsinfer::testing_support {

/// Files of about `shard_bytes`, tensors in the table's order, as the published checkpoint has them. Returns the number of shards.
inline int write_headers(const std::filesystem::path& folder, const std::string& config_json, int64_t shard_bytes) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config_json;
  const std::vector<TensorSpec> table = tensor_table(ModelConfig::parse(config_json));
  nlohmann::json header = nlohmann::json::object(), index = {{"metadata", nlohmann::json::object()}, {"weight_map", nlohmann::json::object()}};
  int64_t at = 0, total = 0;
  int shard = 0;
  const auto name = [](int number) {
    std::string digits = std::to_string(number);
    return "model-" + std::string(5 - digits.size(), '0') + digits + ".safetensors";
  };
  const auto close = [&] {
    const std::string text = header.dump();
    const auto length = static_cast<uint64_t>(text.size());
    std::ofstream file(folder / name(shard), std::ios::binary);
    for (int byte = 0; byte < 8; ++byte) file.put(static_cast<char>(length >> (8 * byte)));  // little-endian
    file << text;
    header = nlohmann::json::object();
    at = 0;
    ++shard;
  };
  for (const TensorSpec& spec : table) {
    if (!spec.expected) continue;
    int64_t bytes = dtype_size(spec.dtype);
    for (const int64_t dim : spec.shape) bytes *= dim;
    if (at > 0 && at + bytes > shard_bytes) close();
    header[spec.name] = {{"dtype", dtype_name(spec.dtype)}, {"shape", spec.shape}, {"data_offsets", {at, at + bytes}}};
    index["weight_map"][spec.name] = name(shard);
    at += bytes;
    total += bytes;
  }
  close();
  index["metadata"]["total_size"] = total;
  std::ofstream(folder / "model.safetensors.index.json") << index.dump(1);
  return shard;
}

}  // namespace dsinfer::testing_support
