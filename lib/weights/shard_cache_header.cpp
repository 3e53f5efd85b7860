#include "weights/shard_cache_header.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/json.hpp"
#include "dsinfer/error.hpp"
#include "dsinfer/version.hpp"

namespace dsinfer {
namespace {

constexpr const char* kVersion = "1";  // of this form
constexpr size_t kPage = 4096;         // so that the data can be read past the page cache to where it stays

// A run of bytes in the buffer.
struct Segment {
  std::string name, dtype;
  std::vector<int64_t> shape;
  int64_t at = 0, bytes = 0;
};

// The shape in elements where it is known to fill the bytes; as bytes else (int4 pairs).
Segment segment(const std::string& name, DType dtype, std::vector<int64_t> shape, int64_t at, int64_t bytes) {
  int64_t expected = dtype_size(dtype);
  for (const int64_t dim : shape) expected *= dim;
  if (expected != bytes) return {name, "U8", {bytes}, at, bytes};
  return {name, dtype_name(dtype), std::move(shape), at, bytes};
}

// The whole buffer, in its order, without gaps.
std::vector<Segment> segments_of(const HeldLayout& layout) {
  std::vector<Segment> segments;
  const auto add = [&](const HeldTensor& tensor, const char* suffix, DType dtype, std::vector<int64_t> shape, int64_t at, int64_t bytes) {
    if (at >= 0 && bytes > 0) segments.push_back(segment(tensor.name + suffix, dtype, std::move(shape), at, bytes));
  };
  for (const HeldTensor& tensor : layout.tensors) {
    const DType dtype = element_of(tensor.format);
    add(tensor, "", dtype, tensor.vector ? std::vector<int64_t>{tensor.rows} : std::vector<int64_t>{tensor.rows, tensor.cols}, tensor.data_at, tensor.data_bytes);
    add(tensor, "#scale", tensor.scale_dtype, {blocks(tensor.rows, tensor.block_rows), blocks(tensor.cols, tensor.block_cols)}, tensor.scale_at, tensor.scale_bytes);
    add(tensor, "#zero", DType::u8, {tensor.zero_bytes}, tensor.zero_at, tensor.zero_bytes);
    add(tensor, "#key_up", tensor.absorbed_dtype, {tensor.key_up_bytes / dtype_size(tensor.absorbed_dtype)}, tensor.key_up_at, tensor.key_up_bytes);
    add(tensor, "#value_up", tensor.absorbed_dtype, {tensor.value_up_bytes / dtype_size(tensor.absorbed_dtype)}, tensor.value_up_at, tensor.value_up_bytes);
  }
  std::sort(segments.begin(), segments.end(), [](const Segment& a, const Segment& b) { return a.at < b.at; });
  std::vector<Segment> whole;
  int64_t end = 0, pads = 0;
  const auto pad = [&](int64_t to) {
    if (to < end) throw Error(Error::internal, "tensors of a layout overlap");
    if (to > end) whole.push_back({fmt::format("#pad.{}", pads++), "U8", {to - end}, end, to - end});
  };
  for (Segment& s : segments) {
    pad(s.at);
    end = s.at + s.bytes;
    whole.push_back(std::move(s));
  }
  pad(layout.buffer_bytes);
  return whole;
}

const char* weights_name(WeightFormat weights) {
  switch (weights) {
    case WeightFormat::as_stored: return "as_stored";
    case WeightFormat::bf16: return "bf16";
    case WeightFormat::fp8: return "fp8";
  }
  return "?";
}

std::string quoted(const std::string& text) { return Json(text).dump(); }

constexpr std::string_view kHashKey = "\"header_hash\":\"";
constexpr size_t kHashDigits = 32;

// Where the digits of the header's hash stand; npos if there are none.
size_t find_hash(std::string_view header) {
  const size_t at = header.find(kHashKey);
  return at == header.npos || header.size() - at < kHashKey.size() + kHashDigits ? header.npos : at + kHashKey.size();
}

// The hash over everything but its own digits.
Hash128 hash_around(std::string_view header, size_t digits) {
  ContentHash hash;
  hash.add(header.substr(0, digits));
  hash.add(header.substr(digits + kHashDigits));
  return hash.hash();
}

std::string json_of(const ShardKey& key, const HeldLayout& layout, const std::vector<Hash128>& hashes) {
  std::string digits;
  for (const Hash128& hash : hashes) digits += hash.hex();
  // The hash of the header comes first, where it is found without a parser.
  std::string json = fmt::format("{{\"__metadata__\":{{\"header_hash\":\"{:032}\",\"format\":\"dsinfer shard cache\",\"version\":\"{}\",\"library\":\"{}\",\"checkpoint\":{},\"plan_spec\":{},"
                                 "\"plan\":{},\"rank\":\"{}\",\"ranks\":\"{}\",\"weights\":\"{}\",\"absorbed\":\"{}\",\"layout\":\"{}\",\"block_bytes\":\"{}\",\"block_hashes\":\"{}\"}}",
                                 0, kVersion, DSINFER_VERSION, quoted(key.checkpoint), quoted(key.plan_spec), quoted(key.plan), key.rank, key.ranks, weights_name(key.weights), key.absorbed, key.layout,
                                 kShardBlock, digits);
  for (const Segment& s : segments_of(layout))
    json += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", quoted(s.name), s.dtype, fmt::join(s.shape, ","), s.at, s.at + s.bytes);
  return json + "}";
}

}  // namespace

std::string ShardKey::hex() const {
  return content_hash(fmt::format("dsinfer shard cache {}\n{}\n{}\n{}\n{} of {}\n{}\n{}", kVersion, DSINFER_VERSION, checkpoint, plan, rank, ranks, weights_name(weights), layout)).hex();
}

std::string ShardKey::file_name() const { return fmt::format("rank-{:05}-of-{:05}.{}.safetensors", rank, ranks, hex()); }

std::string hash_layout(const HeldLayout& layout) {
  ContentHash hash;
  for (const HeldTensor& t : layout.tensors)
    hash.add(fmt::format("{} {} {} {}x{} {}x{} {} {}+{} {}+{} {}+{} {}+{} {}+{} {}\n", t.name, t.vector, static_cast<int>(t.format), t.rows, t.cols, t.block_rows, t.block_cols,
                         static_cast<int>(t.scale_dtype), t.data_at, t.data_bytes, t.scale_at, t.scale_bytes, t.zero_at, t.zero_bytes, t.key_up_at, t.key_up_bytes, t.value_up_at,
                         t.value_up_bytes, t.fused_with));
  hash.add(fmt::format("{}", layout.buffer_bytes));
  return hash.hash().hex();
}

std::string shard_header(const ShardKey& key, const HeldLayout& layout, const std::vector<Hash128>& hashes) {
  std::string json = json_of(key, layout, hashes);
  const size_t whole = (8 + json.size() + kPage - 1) / kPage * kPage;
  json.resize(whole - 8, ' ');
  std::string header(8, '\0');
  for (size_t i = 0; i < 8; ++i) header[i] = static_cast<char>(static_cast<uint64_t>(json.size()) >> (8 * i) & 0xff);
  header += json;
  const size_t digits = find_hash(header);
  header.replace(digits, kHashDigits, hash_around(header, digits).hex());
  return header;
}

std::vector<Hash128> check_shard_header(std::string_view header, const ShardKey& key, const HeldLayout& layout) {
  const auto edited = [](const char* what) { return Error(Error::bad_format, fmt::format("its header was edited or damaged: {}", what)); };
  const size_t digits = find_hash(header);
  if (digits == header.npos) throw edited("it has no hash of its own");
  if (Hash128::parse(header.substr(digits, kHashDigits)) != hash_around(header, digits)) throw edited("its hash is another");
  const Json parsed = parse_json(header.substr(std::min<size_t>(8, header.size())), "its header", /*unique_keys=*/true);
  const std::string hashes = JsonObject(parsed, "its header").object("__metadata__").string("block_hashes");
  if (hashes.size() != static_cast<size_t>(count_blocks(layout)) * kHashDigits) throw edited("it has another number of blocks");
  std::vector<Hash128> blocks;
  for (size_t at = 0; at < hashes.size(); at += kHashDigits) {
    const auto hash = Hash128::parse(std::string_view(hashes).substr(at, kHashDigits));
    if (!hash) throw edited("a block's hash is no hash");
    blocks.push_back(*hash);
  }
  if (shard_header(key, layout, blocks) != header) throw edited("it is not what this library writes");
  return blocks;
}

std::vector<std::string> shard_differences(std::string_view header, const ShardKey& key) {
  std::vector<std::string> differences;
  try {
    const Json parsed = parse_json(header.substr(std::min<size_t>(8, header.size())), "header");
    const JsonObject made = JsonObject(parsed, "header").object("__metadata__");
    if (made.string("format", "") != "dsinfer shard cache") return {"it is no shard cache"};
    const auto compare = [&](const char* what, const char* field, const std::string& wanted) {
      if (const std::string found = made.string(field, "nothing"); found != wanted) differences.push_back(fmt::format("{} is {}, this run has {}", what, found, wanted));
    };
    compare("the version of its form", "version", kVersion);
    compare("the library's version", "library", DSINFER_VERSION);
    compare("the checkpoint's fingerprint", "checkpoint", key.checkpoint);
    compare("the number of ranks", "ranks", std::to_string(key.ranks));
    if (made.string("plan", "") != key.plan) {
      const std::string spec = made.string("plan_spec", "nothing");
      differences.push_back(spec == key.plan_spec ? fmt::format("the plan {} lays its ranks or stages out differently", spec) : fmt::format("the plan is {}, this run has {}", spec, key.plan_spec));
    }
    compare("the format of the weights", "weights", weights_name(key.weights));
    compare("the dtype of kv_b_proj's absorbed copies (bf16 for a Hopper GPU in w8a8: --absorbed-bf16)", "absorbed", key.absorbed);
    if (differences.empty()) compare("the hash of the layout", "layout", key.layout);
  } catch (const Error&) {
    return {"its header is damaged"};
  }
  return differences;
}

std::string tensor_at(const HeldLayout& layout, int64_t at) {
  std::string name = "none";
  for (const Segment& s : segments_of(layout)) {
    if (s.at > at) break;
    name = s.name;
  }
  return name;
}

}  // namespace dsinfer
