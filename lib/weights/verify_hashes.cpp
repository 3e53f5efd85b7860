#include "weights/verify_hashes.hpp"

#include <fmt/format.h>

#include "core/json.hpp"
#include "dsinfer/error.hpp"
#include "weights/new_file.hpp"

namespace dsinfer {
namespace {

constexpr const char* kFormat = "dsinfer tensor hashes 1";
constexpr const char* kHash = "XXH3-128 over the XXH3-128 of each 8 MiB of the tensor, digests big-endian";

}  // namespace

TensorHashes read_hashes(const std::filesystem::path& path) {
  const std::string origin = path.string();
  const Json parsed = parse_json(read_text_file(origin), origin, /*unique_keys=*/true);
  const JsonObject list(parsed, origin);
  if (const std::string format = list.string("format"); format != kFormat)
    throw Error(Error::bad_format, fmt::format("{}: format is \"{}\", expected \"{}\"; remove the file, and a full check writes it anew", origin, format, kFormat));
  TensorHashes hashes;
  const JsonObject tensors = list.object("tensors");
  for (const auto& [name, value] : tensors.raw().items()) {
    const auto hash = value.is_string() ? Hash128::parse(value.get_ref<const std::string&>()) : std::nullopt;
    if (!hash) throw Error(Error::bad_format, fmt::format("{}: the hash of tensor {} is not 32 hexadecimal digits", origin, name));
    hashes.emplace(name, *hash);
  }
  return hashes;
}

void write_hashes(const std::filesystem::path& path, const TensorHashes& hashes, const std::string& fingerprint) {
  std::string text = fmt::format("{{\n \"format\": \"{}\",\n \"hash\": \"{}\",\n \"fingerprint\": \"{}\",\n \"tensors\": {{", kFormat, kHash, fingerprint);
  const char* between = "\n";
  for (const auto& [name, hash] : hashes) {
    text += fmt::format("{}  {}: \"{}\"", between, Json(name).dump(), hash.hex());
    between = ",\n";
  }
  text += "\n }\n}\n";
  NewFile file(path);
  file.write(0, text);
  file.commit();
}

}  // namespace dsinfer
