// Any bytes as the header of a shard cache: what is accepted is, byte for byte, what this library writes for these hashes; all else is an Error. What it says of
// itself can always be told.
#include "weights/shard_cache_header.hpp"

#include "dsinfer/error.hpp"

namespace {

using namespace dsinfer;

HeldLayout small_layout() {
  HeldLayout layout;
  HeldTensor vector{.name = "norm.weight", .vector = true, .rows = 5, .cols = 1};
  vector.data_at = 0, vector.data_bytes = 20;
  HeldTensor matrix{.name = "q.weight", .format = Format::fp8_block, .rows = 17, .cols = 16};
  matrix.block_rows = matrix.block_cols = 16;
  matrix.data_at = 64, matrix.data_bytes = 17 * 16;
  matrix.scale_at = 384, matrix.scale_bytes = 8;
  layout.tensors = {vector, matrix};
  layout.buffer_bytes = 448;
  return layout;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const HeldLayout layout = small_layout();
  static const ShardKey key{"fingerprint", "{}", "tp=2", 1, 2, WeightFormat::as_stored, "layout"};
  const std::string_view header(reinterpret_cast<const char*>(data), size);
  bool accepted = false;
  try {
    const std::vector<Hash128> blocks = check_shard_header(header, key, layout);
    accepted = true;
    if (blocks.size() != 1 || shard_header(key, layout, blocks) != header) __builtin_trap();
  } catch (const Error&) {
  }
  if (accepted && !shard_differences(header, key).empty()) __builtin_trap();
  // The same with a hash that is right, so that more than the hash is tried.
  std::string mended(header);
  const size_t at = mended.find("\"header_hash\":\"");
  if (!accepted && at != mended.npos && at + 15 + 32 <= mended.size()) {
    ContentHash hash;
    hash.add(std::string_view(mended).substr(0, at + 15));
    hash.add(std::string_view(mended).substr(at + 15 + 32));
    mended.replace(at + 15, 32, hash.hash().hex());
    try {
      if (shard_header(key, layout, check_shard_header(mended, key, layout)) != mended) __builtin_trap();
    } catch (const Error&) {
    }
    shard_differences(mended, key);
  }
  return 0;
}
