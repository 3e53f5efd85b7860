#include <fmt/format.h>

#include "weights/checkpoint.hpp"

namespace dsinfer {

std::string Fnv128::hex() const { return fmt::format("{:016x}{:016x}", static_cast<uint64_t>(hash_ >> 64), static_cast<uint64_t>(hash_)); }

std::string Checkpoint::fingerprint() const {
  Fnv128 hash;
  for (const char* file : {"config.json", "model.safetensors.index.json"}) {
    if (storage_->exists(file)) hash.add(read_text(*storage_, file));
    hash.add(std::string_view("\0", 1));  // where one text ends
  }
  hash.add(header_hash_.hex());
  return hash.hex();
}

}  // namespace dsinfer
