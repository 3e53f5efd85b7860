#include "weights/safetensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "core/json.hpp"
#include "dsinfer/error.hpp"
#include "storage/http_answer.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kLengthBytes = 8;                  // little-endian length of the JSON
constexpr int64_t kMaxHeader = 100 * 1000 * 1000;    // as the format's own reader

// Bytes of an element of every dtype with whole bytes; 0 for others, whose length we cannot check.
int64_t element_bytes(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int64_t> kSizes[] = {
      {"BOOL", 1}, {"U8", 1}, {"I8", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
      {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4}, {"I64", 8}, {"U64", 8}, {"F64", 8}, {"C64", 8}};
  for (const auto& [name, bytes] : kSizes) if (name == dtype) return bytes;
  return 0;
}

std::vector<int64_t> naturals(const JsonObject& object, const char* key) {
  if (!object.at(key).is_array()) throw Error(Error::bad_format, fmt::format("{}: key \"{}\" should be an array", object.origin(), key));
  std::vector<int64_t> values = object.integers(key);
  for (const int64_t value : values) if (value < 0) throw Error(Error::bad_format, fmt::format("{}: key \"{}\" holds {}, expected 0 or more", object.origin(), key, value));
  return values;
}

void check_length(const TensorEntry& entry, const std::string& origin) {
  int64_t bytes = element_bytes(entry.dtype);
  if (bytes == 0) return;
  for (const int64_t dim : entry.shape)
    if (__builtin_mul_overflow(bytes, dim, &bytes)) throw Error(Error::bad_format, fmt::format("{}: shape [{}] overflows", origin, shape_text(entry.shape)));
  if (bytes != entry.end - entry.begin)
    throw Error(Error::bad_format, fmt::format("{}: {} of shape [{}] takes {} bytes, but its data_offsets span {}", origin, shown(entry.dtype), shape_text(entry.shape), bytes, entry.end - entry.begin));
}

TensorEntry parse_entry(const Json& json, int64_t data_begin, const std::string& origin) {
  const JsonObject object(json, origin);
  TensorEntry entry;
  entry.dtype = object.string("dtype");
  entry.shape = naturals(object, "shape");
  const std::vector<int64_t> offsets = naturals(object, "data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1])
    throw Error(Error::bad_format, fmt::format("{}: key \"data_offsets\" is [{}], expected [begin, end] with begin ≤ end", origin, shape_text(offsets)));
  if (__builtin_add_overflow(offsets[0], data_begin, &entry.begin) || __builtin_add_overflow(offsets[1], data_begin, &entry.end))
    throw Error(Error::bad_format, fmt::format("{}: key \"data_offsets\" is [{}]: overflow", origin, shape_text(offsets)));
  check_length(entry, origin);
  return entry;
}

void check_extents(SafetensorsHeader& header, int64_t file_size, const std::string& file, bool may_be_short) {
  struct Extent { int64_t begin, end; const std::string* name; };
  std::vector<Extent> extents;
  int64_t end = header.data_begin;
  for (const auto& [name, entry] : header.tensors) {
    if (entry.end > file_size && !may_be_short)
      throw Error(Error::bad_format, fmt::format("{}: truncated: tensor {} ends at byte {}, the file at {}; fetch the file again", file, shown(name), entry.end, file_size));
    if (entry.end > entry.begin) extents.push_back({entry.begin, entry.end, &name});
    end = std::max(end, entry.end);
  }
  header.end = end;
  if (file_size > end || (file_size < end && !may_be_short)) throw Error(Error::bad_format, fmt::format("{}: is {} bytes long, its header describes {}; fetch the file again", file, file_size, end));
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < extents.size(); ++i)
    if (extents[i].begin < extents[i - 1].end)
      throw Error(Error::bad_format, fmt::format("{}: tensors {} and {} overlap at byte {}", file, shown(*extents[i - 1].name), shown(*extents[i].name), extents[i].begin));
}

}  // namespace

std::string shape_text(const std::vector<int64_t>& shape) {
  constexpr size_t kShown = 8;
  const auto end = shape.begin() + static_cast<std::ptrdiff_t>(std::min(shape.size(), kShown));
  return fmt::format("{}{}", fmt::join(shape.begin(), end, ", "), shape.size() > kShown ? fmt::format(", … of {}", shape.size()) : "");
}

std::optional<DType> parse_dtype(std::string_view name) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::e4m3}) if (name == dtype_name(dtype)) return dtype;
  return std::nullopt;
}

SafetensorsHeader parse_safetensors(std::string_view json, int64_t file_size, const std::string& file, bool may_be_short) {
  SafetensorsHeader header;
  header.data_begin = kLengthBytes + static_cast<int64_t>(json.size());
  const Json parsed = parse_json(json, file, /*unique_keys=*/true);
  if (!parsed.is_object()) throw Error(Error::bad_format, file + ": the safetensors header is not a JSON object");
  header.tensors.reserve(parsed.size());
  for (const auto& [name, value] : parsed.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) throw Error(Error::bad_format, file + ": __metadata__ is not a JSON object");
      for (const auto& [key, text] : value.items()) if (text.is_string()) header.metadata.emplace(key, text.get<std::string>());
      continue;
    }
    header.tensors.emplace(name, parse_entry(value, header.data_begin, file + ": tensor " + shown(name)));
  }
  check_extents(header, file_size, file, may_be_short);
  return header;
}

std::string read_safetensors_text(Source& source) {
  if (source.size() < kLengthBytes) throw Error(Error::bad_format, fmt::format("{}: truncated: {} bytes, a safetensors file has at least {}; fetch the file again", source.name(), source.size(), kLengthBytes));
  std::array<std::byte, kLengthBytes> raw;
  source.read(0, raw);
  uint64_t length = 0;
  for (size_t i = raw.size(); i-- > 0;) length = length << 8 | std::to_integer<uint64_t>(raw[i]);
  if (length > kMaxHeader) throw Error(Error::bad_format, fmt::format("{}: not a safetensors file: header length {}, expected at most {}", source.name(), length, kMaxHeader));
  if (static_cast<int64_t>(length) > source.size() - kLengthBytes)
    throw Error(Error::bad_format, fmt::format("{}: truncated: a header of {} bytes, but the file has {}; fetch the file again", source.name(), length, source.size()));
  std::string text(length, '\0');
  source.read(kLengthBytes, std::as_writable_bytes(std::span(text)));
  return text;
}

SafetensorsHeader read_safetensors(Source& source, bool may_be_short) { return parse_safetensors(read_safetensors_text(source), source.size(), source.name(), may_be_short); }

}  // namespace dsinfer
