// Cluster from JSON: what is absent keeps its default, unknown keys are passed over, a wrong value is named with the way to it. Who wrote the file
// is not known: all text is cleaned, so that no terminal obeys it.
#include <fmt/format.h>

#include <charconv>
#include <limits>
#include <type_traits>

#include "core/json.hpp"
#include "dsinfer/error.hpp"
#include "topology/cluster_fields.hpp"
#include "topology/cluster_format.hpp"

namespace dsinfer::topology {
namespace {

// What an error says of a value: the object that holds it, and its key there.
struct Place {
  const std::string& origin;
  const std::string& key;
};

[[noreturn]] void wrong(const Place& place, const std::string& expected, const Json& found) {
  std::string shown = found.is_structured() ? std::string(found.is_array() ? "an array" : "an object") : found.dump(-1, ' ', false, Json::error_handler_t::replace);
  shown = shown.size() > 60 ? clean_text(shown.substr(0, 57)) + "..." : clean_text(shown);
  throw Error(Error::bad_format, fmt::format("{}: key \"{}\" should be {}, found {}", place.origin, place.key, expected, shown));
}

void take_word(const Place& place, const Json& json, std::string_view word, auto& value, auto&& parse) {
  const auto found = parse(word);
  if (!found) wrong(place, "a word that this library knows, or null", json);
  value = *found;
}
void take_enum(const Place& p, const Json& j, std::string_view w, Transport& v) { take_word(p, j, w, v, transport_of); }
void take_enum(const Place& p, const Json& j, std::string_view w, LinkLayer& v) { take_word(p, j, w, v, link_layer_of); }
void take_enum(const Place& p, const Json& j, std::string_view w, PortState& v) { take_word(p, j, w, v, port_state_of); }
void take_enum(const Place& p, const Json& j, std::string_view w, PathKind& v) { take_word(p, j, w, v, path_kind_of); }
void take_enum(const Place& p, const Json& j, std::string_view w, Severity& v) { take_word(p, j, w, v, severity_of); }
void take_enum(const Place& p, const Json& j, std::string_view w, Hca::NodeType& v) { take_word(p, j, w, v, node_type_of); }
void take_enum(const Place& p, const Json& j, std::string_view w, NvLink::Remote& v) { take_word(p, j, w, v, remote_of); }

template <class T>
void take_integer(const Place& place, const Json& json, T& value) {
  const std::string expected = fmt::format("a whole number from {} to {}", std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
  if (json.is_number_unsigned() ? json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<T>::max())
                                : !json.is_number_integer() || json.get<int64_t>() < static_cast<int64_t>(std::numeric_limits<T>::min()) ||
                                      json.get<int64_t>() > static_cast<int64_t>(std::numeric_limits<T>::max())) {
    wrong(place, expected, json);
  }
  value = static_cast<T>(json.get<int64_t>());
}

const std::string& string_of(const Place& place, const Json& json) {
  if (!json.is_string()) wrong(place, "a string", json);
  return json.get_ref<const std::string&>();
}

struct Reader {
  template <class T>
  using Seen = T;
  const JsonObject& object;

  template <class T>
  static void take(const Place& place, const Json& json, T& value);
  template <class T>
  static void take(const Place& place, const Json& json, std::vector<T>& values) {
    if (!json.is_array()) wrong(place, "an array", json);
    values.clear();
    for (const Json& element : json) {
      const std::string key = fmt::format("{}[{}]", place.key, values.size());
      take({place.origin, key}, element, values.emplace_back());
    }
  }
  template <class T>
  static void take(const Place& place, const Json& json, std::map<std::string, T>& values) {
    if (!json.is_object()) wrong(place, "an object", json);
    values.clear();
    for (const auto& [key, element] : json.items()) {
      const std::string name = clean_text(key), way = place.key + "." + name;
      take({place.origin, way}, element, values[name]);
    }
  }
  template <class T>
  static void take(const Place& place, const Json& json, std::optional<T>& value) {
    take(place, json, value.emplace());
  }

  template <class T>
  void operator()(const char* key, T& value) {
    if (object.has(key)) take({object.origin(), key}, object.at(key), value);
  }
  template <class T>
  void operator()(const char* key, T& value, const T& unknown) {
    value = unknown;
    (*this)(key, value);
  }
  void hex(const char* key, uint32_t& value, int) {
    if (!object.has(key)) return;
    const Json& json = object.at(key);
    const std::string name = key;
    if (json.is_number()) return take_integer({object.origin(), name}, json, value);
    const std::string& text = string_of({object.origin(), name}, json);
    const char* begin = text.data() + (text.rfind("0x", 0) == 0 ? 2 : 0);
    const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value, 16);
    if (error != std::errc() || end != text.data() + text.size()) wrong({object.origin(), name}, "a hexadecimal number such as \"0x15b3\"", json);
  }
  void environment(std::vector<EnvironmentVariable>& variables);
  void gpu_count(const Node&) {}
  void nics(const Node&) {}
};

template <class T>
void Reader::take(const Place& place, const Json& json, T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    if (!json.is_boolean()) wrong(place, "true or false", json);
    value = json.get<bool>();
  } else if constexpr (std::is_same_v<T, double>) {
    if (!json.is_number()) wrong(place, "a number", json);
    value = json.get<double>();
  } else if constexpr (std::is_integral_v<T>) {
    take_integer(place, json, value);
  } else if constexpr (std::is_same_v<T, std::string>) {
    value = clean_text(string_of(place, json));
  } else if constexpr (std::is_enum_v<T>) {
    take_enum(place, json, string_of(place, json), value);
  } else {
    if (!json.is_object()) wrong(place, "an object", json);
    const JsonObject inner(json, place.origin + "." + place.key);
    Reader reader{inner};
    fields(reader, value);
  }
}

// The list of reasons gives the order, the object the values; a variable that only the object has comes after them.
void Reader::environment(std::vector<EnvironmentVariable>& variables) {
  std::map<std::string, std::string> values;
  (*this)("environment", values);
  std::map<std::string, bool> listed;
  std::vector<VariableReason> reasons;
  (*this)("environment_reasons", reasons);
  variables.clear();
  for (VariableReason& reason : reasons) {
    const auto value = values.find(reason.name);
    if (!reason.value && value == values.end()) {
      throw Error(Error::bad_format, fmt::format("{}: key \"environment\" has no \"{}\", which environment_reasons speaks of", object.origin(), reason.name));
    }
    listed[reason.name] = true;
    variables.push_back({reason.name, reason.value ? *reason.value : value->second, reason.reason, reason.users});
  }
  for (const auto& [name, value] : values) {
    if (!listed.count(name)) variables.push_back({name, value, "", false});
  }
}

void check_index(const char* key, size_t i, int index, size_t num_nodes) {
  if (index >= 0 && static_cast<size_t>(index) < num_nodes) return;
  throw Error(Error::bad_format, fmt::format("cluster: key \"{}[{}]\" speaks of node {}, expected 0 … {}", key, i, index, static_cast<int64_t>(num_nodes) - 1));
}

}  // namespace
}  // namespace dsinfer::topology

namespace dsinfer {

Cluster Cluster::from_json(std::string_view json) {
  using namespace topology;
  const Json parsed = parse_json(json, "cluster");
  const JsonObject object(parsed, "cluster");
  if (const std::string format = object.string("format"); format != kClusterFormat) {
    throw Error(Error::bad_format, fmt::format("cluster: key \"format\" is \"{}\", expected \"{}\"", clean_text(format).substr(0, 60), kClusterFormat));
  }
  if (const int64_t version = object.integer("version"); version < 1 || version > kClusterVersion) {
    throw Error(Error::unsupported, fmt::format("cluster: key \"version\" is {}, this library reads 1 … {}; update the library", version, kClusterVersion));
  }
  object.at("nodes");
  Cluster cluster;
  Reader reader{object};
  fields(reader, cluster);
  for (size_t i = 0; i < cluster.node_of_rank.size(); ++i) check_index("node_of_rank", i, cluster.node_of_rank[i], cluster.nodes.size());
  for (size_t i = 0; i < cluster.reach.size(); ++i) {
    check_index("reach", i, cluster.reach[i].from, cluster.nodes.size());
    check_index("reach", i, cluster.reach[i].to, cluster.nodes.size());
  }
  return cluster;
}

}  // namespace dsinfer
