// 4-bit checkpoints: AutoAWQ's and compressed-tensors' quantization_config.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "config/deepseek.hpp"
#include "config/module_pattern.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

constexpr size_t kMostNames = 1 << 16;

[[noreturn]] void unsupported(const std::string& origin, const std::string& key, const std::string& found, const std::string& expected) {
  throw Error(Error::unsupported, fmt::format("{}: key \"quantization_config.{}\" is {}; this version supports {}", origin, key, found, expected));
}

std::string dump(const Json& value) { return value.dump(-1, ' ', true).substr(0, 200); }

std::vector<std::string> names(const JsonObject& json, const char* key, const std::string& origin) {
  std::vector<std::string> out;
  if (!json.has(key)) return out;
  const Json& list = json.at(key);
  if (!list.is_array() || list.size() > kMostNames) throw Error(Error::bad_format, fmt::format("{}: key \"quantization_config.{}\" should be an array of at most {} names", origin, key, kMostNames));
  for (const Json& name : list) {
    if (!name.is_string()) throw Error(Error::bad_format, fmt::format("{}: key \"quantization_config.{}\" holds {}, expected names of modules", origin, key, dump(name)));
    out.push_back(name.get<std::string>());
  }
  return out;
}

// One group of config_groups: what of it is not the form we know is refused by its key.
Int4Config read_group(const JsonObject& group, const std::string& name, const std::string& format, const std::string& origin) {
  const auto key = [&](const char* inner) { return fmt::format("config_groups.{}.{}", name, inner); };
  if (group.string("format", format) != "pack-quantized") unsupported(origin, key("format"), "\"" + group.string("format", format) + "\"", "\"pack-quantized\"");
  const std::vector<std::string> targets = names(group, "targets", origin);
  if (targets != std::vector<std::string>{"Linear"}) unsupported(origin, key("targets"), group.has("targets") ? dump(group.at("targets")) : "absent", "[\"Linear\"]");
  for (const char* activations : {"input_activations", "output_activations"})
    if (group.has(activations)) unsupported(origin, key(activations), dump(group.at(activations)), "null (weights alone are quantised)");
  const JsonObject weights = group.object("weights");
  const int64_t bits = weights.integer("num_bits");
  if (bits != Int4Config::kBits) unsupported(origin, key("weights.num_bits"), fmt::format("{}", bits), "4");
  if (weights.string("type", "int") != "int") unsupported(origin, key("weights.type"), "\"" + weights.string("type", "int") + "\"", "\"int\"");
  if (weights.string("strategy", "group") != "group") unsupported(origin, key("weights.strategy"), "\"" + weights.string("strategy", "group") + "\"", "\"group\"");
  if (weights.has("dynamic") && weights.at("dynamic") != false) unsupported(origin, key("weights.dynamic"), dump(weights.at("dynamic")), "false");
  if (weights.has("actorder")) {
    const Json& order = weights.at("actorder");
    if (order != false && order != "weight" && order != "static") unsupported(origin, key("weights.actorder"), dump(order), "null, \"weight\" and \"static\" (groups of consecutive columns)");
  }
  Int4Config int4;
  int4.layout = Int4Layout::pack_quantized;
  int4.group_size = weights.integer("group_size");
  int4.zero_points = !weights.boolean("symmetric", true);
  return int4;
}

}  // namespace

Int4Config read_awq(const JsonObject& json, const std::string& origin) {
  const char* bits = json.has("bits") ? "bits" : "w_bit";
  if (json.integer(bits, 4) != Int4Config::kBits) unsupported(origin, bits, fmt::format("{}", json.integer(bits)), "4");
  std::string version = json.string("version", "gemm");
  std::transform(version.begin(), version.end(), version.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (version != "gemm") unsupported(origin, "version", "\"" + version + "\"", "\"gemm\"");
  if (!json.boolean("zero_point", true)) unsupported(origin, "zero_point", "false", "true");
  Int4Config int4;
  int4.group_size = json.integer(json.has("q_group_size") ? "q_group_size" : "group_size", 128);
  int4.not_converted = names(json, "modules_to_not_convert", origin);
  return int4;
}

Int4Config read_pack_quantized(const JsonObject& json, const std::string& origin) {
  const std::string format = json.string("format", "pack-quantized");
  if (format != "pack-quantized" && format != "mixed-precision") unsupported(origin, "format", "\"" + format + "\"", "\"pack-quantized\"");
  for (const char* key : {"kv_cache_scheme", "sparsity_config", "transform_config"})
    if (json.has(key) && !json.at(key).empty()) unsupported(origin, key, dump(json.at(key)), "null");
  const JsonObject groups = json.object("config_groups");
  if (groups.raw().size() != 1) unsupported(origin, "config_groups", fmt::format("an object of {} groups", groups.raw().size()), "one group");
  const std::string name = groups.raw().begin().key();
  Int4Config int4 = read_group(groups.object(name.c_str()), name, format, origin);
  int4.not_converted = names(json, "ignore", origin);
  return int4;
}

bool Int4Config::converts(std::string_view module) const {
  return std::none_of(not_converted.begin(), not_converted.end(), [&](const std::string& listed) {
    if (layout == Int4Layout::awq) return module.find(listed) != std::string_view::npos;
    return listed.starts_with("re:") ? matches_pattern(std::string_view(listed).substr(3), module) : module == listed;
  });
}

}  // namespace dsinfer
