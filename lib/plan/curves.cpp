#include "plan/curves.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <utility>

#include "core/json.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer {

extern const char* const kShippedCurves;  // data/curves.json, by CMake

namespace {

template <class T>
using Field = std::pair<const char*, double T::*>;

constexpr std::array kFamilyFields = {
    Field<CurveFamily>{"weight_stream", &CurveFamily::weight_stream}, Field<CurveFamily>{"expert_stream", &CurveFamily::expert_stream},
    Field<CurveFamily>{"cache_stream", &CurveFamily::cache_stream}, Field<CurveFamily>{"gemm_share", &CurveFamily::gemm_share},
    Field<CurveFamily>{"gemm_bytes_per_flop", &CurveFamily::gemm_bytes_per_flop}, Field<CurveFamily>{"core_share", &CurveFamily::core_share},
    Field<CurveFamily>{"core_bytes_per_flop", &CurveFamily::core_bytes_per_flop}, Field<CurveFamily>{"fp8_core_gain", &CurveFamily::fp8_core_gain},
    Field<CurveFamily>{"attention_fixed_us", &CurveFamily::attention_fixed_us}, Field<CurveFamily>{"experts_fixed_us", &CurveFamily::experts_fixed_us},
    Field<CurveFamily>{"layer_fixed_us", &CurveFamily::layer_fixed_us}, Field<CurveFamily>{"step_fixed_us", &CurveFamily::step_fixed_us},
    Field<CurveFamily>{"draft_fixed_us", &CurveFamily::draft_fixed_us}, Field<CurveFamily>{"token_traffic", &CurveFamily::token_traffic},
    Field<CurveFamily>{"row_traffic", &CurveFamily::row_traffic}, Field<CurveFamily>{"prefill_launch_us", &CurveFamily::prefill_launch_us},
    Field<CurveFamily>{"skew", &CurveFamily::skew}, Field<CurveFamily>{"skew_balanced", &CurveFamily::skew_balanced}};

constexpr std::array kLinkFields = {
    Field<LinkCurves>{"one_shot_fixed_us", &LinkCurves::one_shot_fixed_us}, Field<LinkCurves>{"two_shot_fixed_us", &LinkCurves::two_shot_fixed_us},
    Field<LinkCurves>{"direct_share", &LinkCurves::direct_share}, Field<LinkCurves>{"nccl_fixed_us", &LinkCurves::nccl_fixed_us},
    Field<LinkCurves>{"nccl_share", &LinkCurves::nccl_share}, Field<LinkCurves>{"nccl_hop_us", &LinkCurves::nccl_hop_us},
    Field<LinkCurves>{"pcie_fixed_us", &LinkCurves::pcie_fixed_us}, Field<LinkCurves>{"pcie_share", &LinkCurves::pcie_share},
    Field<LinkCurves>{"pcie_crowding", &LinkCurves::pcie_crowding}, Field<LinkCurves>{"between_share", &LinkCurves::between_share},
    Field<LinkCurves>{"socket_share", &LinkCurves::socket_share}, Field<LinkCurves>{"socket_fixed_us", &LinkCurves::socket_fixed_us},
    Field<LinkCurves>{"low_latency_fixed_us", &LinkCurves::low_latency_fixed_us}, Field<LinkCurves>{"low_latency_hop_us", &LinkCurves::low_latency_hop_us},
    Field<LinkCurves>{"low_latency_share", &LinkCurves::low_latency_share},
    Field<LinkCurves>{"normal_fixed_us", &LinkCurves::normal_fixed_us}, Field<LinkCurves>{"normal_eager_us", &LinkCurves::normal_eager_us},
    Field<LinkCurves>{"normal_share", &LinkCurves::normal_share}, Field<LinkCurves>{"normal_between_share", &LinkCurves::normal_between_share},
    Field<LinkCurves>{"overlap", &LinkCurves::overlap}};

Confidence parse_mark(const std::string& word, const std::string& origin) {
  if (word == "measured") return Confidence::measured;
  if (word == "interpolated") return Confidence::interpolated;
  if (word == "specification") return Confidence::specification;
  throw Error(Error::bad_format, fmt::format("{}: mark \"{}\", expected measured, interpolated or specification", origin, word));
}

// A share of nothing would divide by zero, a cost below zero would make more work faster.
bool divides(std::string_view key) { return key.ends_with("_share") || key.ends_with("_stream") || key == "fp8_core_gain"; }

void check(std::string_view key, double value, const std::string& origin) {
  const bool good = divides(key) ? value > 0 && value <= 4 : key == "overlap" ? value >= 0 && value <= 1 : value >= 0 && value <= 1e6;
  if (!good || !std::isfinite(value)) throw Error(Error::bad_format, fmt::format("{}: {} is {}, expected {}", origin, key, value, divides(key) ? "more than 0, at most 4" : "a number from 0"));
}

template <class T, size_t N>
void parse_fields(const JsonObject& object, const std::array<Field<T>, N>& fields, T& into) {
  for (const auto& [key, value] : object.raw().items()) {
    if (key == "covers") continue;
    bool known = false;
    for (const auto& [name, member] : fields) {
      if (key != name) continue;
      const JsonObject number = object.object(name);
      check(name, number.number("value"), object.origin());
      parse_mark(number.string("mark"), object.origin() + " " + name);
      into.*member = number.number("value");
      known = true;
    }
    if (!known) throw Error(Error::bad_format, fmt::format("{}: unknown key \"{}\"", object.origin(), key));
  }
}

std::vector<std::string> words(const JsonObject& object, const char* key) {
  std::vector<std::string> all;
  if (!object.has(key)) return all;
  if (!object.at(key).is_array()) throw Error(Error::bad_format, fmt::format("{}: \"{}\" is not an array", object.origin(), key));
  for (const Json& word : object.at(key)) {
    if (!word.is_string()) throw Error(Error::bad_format, fmt::format("{}: \"{}\" holds something that is no string", object.origin(), key));
    all.push_back(word.get<std::string>());
  }
  return all;
}

void parse_range(const JsonObject& covers, CurveFamily& family) {
  family.gpus = words(covers, "gpus");
  family.precisions = words(covers, "precisions");
  family.transports = words(covers, "transports");
  family.max_batch = covers.number("max_batch");
  family.max_context = covers.number("max_context");
  family.max_nodes = covers.number("max_nodes");
  family.confidence = parse_mark(covers.string("mark"), covers.origin());
}

// What a family does not say is Hopper's, the one that was measured; only its range is not inherited.
CurveFamily start_of(const std::string& name, const std::map<std::string, CurveFamily>& known) {
  if (const auto found = known.find(name); found != known.end()) return found->second;
  const auto measured = known.find("hopper");
  CurveFamily family = measured == known.end() ? CurveFamily{} : measured->second;
  family.gpus.clear();
  family.confidence = Confidence::specification;
  return family;
}

}  // namespace

Curves Curves::parse(std::string_view json, const std::string& origin, const Curves& base) {
  const Json document = parse_json(json, origin, true);
  const JsonObject root(document, origin);
  if (const std::string format = root.string("format"); format != "dsinfer-curves-1")
    throw Error(Error::bad_format, fmt::format("{}: format \"{}\", expected \"dsinfer-curves-1\"", origin, format));
  Curves curves = base;
  const auto add = [&](const std::string& name, const JsonObject& families) {
    const JsonObject object = families.object(name.c_str());
    CurveFamily family = start_of(name, curves.families);
    parse_fields(object, kFamilyFields, family);
    if (object.has("covers")) parse_range(object.object("covers"), family);
    curves.families[name] = family;
  };
  if (root.has("families")) {
    const JsonObject families = root.object("families");
    if (families.has("hopper")) add("hopper", families);  // before those that start from it
    for (const auto& [name, value] : families.raw().items())
      if (name != "hopper") add(name, families);
  }
  if (root.has("links")) parse_fields(root.object("links"), kLinkFields, curves.links);
  return curves;
}

const Curves& Curves::shipped() {
  static const Curves curves = parse(kShippedCurves, "the shipped curves", Curves{});
  return curves;
}

const CurveFamily& Curves::of(const GpuKind& gpu) const {
  const auto found = families.find(gpu.curves);
  return found != families.end() ? found->second : families.at("other");
}

std::shared_ptr<const Curves> load_curves(const std::filesystem::path& file) {
  return std::make_shared<const Curves>(Curves::parse(read_text_file(file.string()), file.string(), Curves::shipped()));
}

}  // namespace dsinfer
