// Cluster to JSON: facts in a fixed order, unknown as null, and beside the facts what a reader would otherwise have to work out.
#include <cmath>

#include <fmt/format.h>

#include <set>
#include <type_traits>

#include "core/json.hpp"
#include "topology/cluster_fields.hpp"
#include "topology/cluster_format.hpp"
#include "topology/nics.hpp"

namespace dsinfer::topology {
namespace {

// 400 rather than 400.0; a reader takes both.
OrderedJson number(double value) {
  constexpr double kExact = 9007199254740992;  // 2^53
  if (!std::isfinite(value)) return nullptr;
  if (std::nearbyint(value) == value && std::fabs(value) < kExact && !(value == 0 && std::signbit(value))) return static_cast<int64_t>(value);
  return value;
}

OrderedJson text_or_null(std::string_view text) { return text.empty() ? OrderedJson(nullptr) : OrderedJson(text); }

struct Writer {
  template <class T>
  using Seen = const T;
  OrderedJson& out;

  template <class T>
  static OrderedJson json_of(const T& value);

  template <class T>
  void operator()(const char* key, const T& value) {
    out[key] = json_of(value);
  }
  template <class T>
  void operator()(const char* key, const T& value, const T& unknown) {
    out[key] = value == unknown ? OrderedJson(nullptr) : json_of(value);
  }
  void hex(const char* key, uint32_t value, int digits) {
    out[key] = value == 0 ? OrderedJson(nullptr) : OrderedJson(fmt::format("0x{:0{}x}", value, digits));
  }
  // An object of NAME to value, as one wants to use it; reasons beside it, in order. A name that stands there twice keeps its value in the list.
  void environment(const std::vector<EnvironmentVariable>& variables) {
    OrderedJson values = OrderedJson::object(), reasons = OrderedJson::array();
    for (const EnvironmentVariable& v : variables) {
      OrderedJson reason = {{"name", v.name}, {"reason", v.reason}, {"users", v.users}};
      if (!values.contains(v.name)) {
        values[v.name] = v.value;
      } else {
        reason["value"] = v.value;
      }
      reasons.push_back(std::move(reason));
    }
    out["environment"] = std::move(values);
    out["environment_reasons"] = std::move(reasons);
  }
  void gpu_count(const Node& node);
  void nics(const Node& node);
};

template <class T> struct IsOptional : std::false_type {};
template <class T> struct IsOptional<std::optional<T>> : std::true_type {};
template <class T> struct IsVector : std::false_type {};
template <class T> struct IsVector<std::vector<T>> : std::true_type {};
template <class T> struct IsMap : std::false_type {};
template <class T> struct IsMap<std::map<std::string, T>> : std::true_type {};

template <class T>
OrderedJson Writer::json_of(const T& value) {
  if constexpr (std::is_same_v<T, double>) {
    return number(value);
  } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
    return value;
  } else if constexpr (std::is_enum_v<T>) {
    return text_or_null(word(value));
  } else if constexpr (IsOptional<T>::value) {
    return value ? json_of(*value) : OrderedJson(nullptr);
  } else if constexpr (IsVector<T>::value) {
    OrderedJson list = OrderedJson::array();
    for (const auto& element : value) list.push_back(json_of(element));
    return list;
  } else if constexpr (IsMap<T>::value) {
    OrderedJson object = OrderedJson::object();
    for (const auto& [key, element] : value) object[key] = json_of(element);
    return object;
  } else {
    OrderedJson object = OrderedJson::object();
    Writer writer{object};
    fields(writer, value);
    return object;
  }
}

OrderedJson json_of_nic(const Nic& nic) {
  OrderedJson json;
  json["name"] = text_or_null(nic.name);
  json["bus_id"] = text_or_null(nic.bus_id);
  json["kind"] = nic.kind;
  json["link_layer"] = text_or_null(word(nic.link_layer));
  json["ports"] = nic.ports > 0 ? OrderedJson(nic.ports) : OrderedJson(nullptr);
  json["rate_gbps"] = nic.rate_gbps > 0 ? number(nic.rate_gbps) : OrderedJson(nullptr);
  json["numa"] = nic.numa >= 0 ? OrderedJson(nic.numa) : OrderedJson(nullptr);
  json["physical_function"] = text_or_null(nic.physical_function);
  json["netdevs"] = nic.netdevs;
  return json;
}

void Writer::gpu_count(const Node& node) {
  out["gpu_count"] = node.gpus.empty() && !node.gpus_complete ? OrderedJson(nullptr) : OrderedJson(node.gpus.size());
}

void Writer::nics(const Node& node) {
  OrderedJson nics = OrderedJson::array();
  for (const Nic& nic : nics_of(node)) nics.push_back(json_of_nic(nic));
  out["nics"] = std::move(nics);
}

}  // namespace
}  // namespace dsinfer::topology

namespace dsinfer {

std::string Cluster::to_json() const {
  OrderedJson json;
  json["format"] = topology::kClusterFormat;
  json["version"] = topology::kClusterVersion;
  topology::Writer writer{json};
  topology::fields(writer, *this);
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace dsinfer
