/// The header of a shard cache's file.
#pragma once
#include "weights/shard_cache.hpp"

namespace dsinfer {

inline constexpr int64_t kShardBlock = int64_t{8} << 20;  // as long as any disk wants them

/// Hash of what lies where in a rank's buffer.
DSINFER_INTERNAL std::string hash_layout(const HeldLayout& layout);
/// The whole beginning of the file: length, JSON, blanks up to a page. The same length for all hashes.
DSINFER_INTERNAL std::string shard_header(const ShardKey& key, const HeldLayout& layout, const std::vector<Hash128>& blocks);
/// Block hashes of a header that is equal to the one expected but for them. Throws bad_format: what is wrong, without the file's name.
DSINFER_INTERNAL std::vector<Hash128> check_shard_header(std::string_view header, const ShardKey& key, const HeldLayout& layout);
/// Ways in which the header's file was made of something else, for a person; empty if it cannot be told.
DSINFER_INTERNAL std::vector<std::string> shard_differences(std::string_view header, const ShardKey& key);
/// The name of the (first) tensor at a byte of the buffer.
DSINFER_INTERNAL std::string tensor_at(const HeldLayout& layout, int64_t at);

inline int64_t count_blocks(const HeldLayout& layout) { return (layout.buffer_bytes + kShardBlock - 1) / kShardBlock; }

}  // namespace dsinfer
