// The catalogue: its files, and what is found in it by name.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "core/json.hpp"
#include "dsinfer/error.hpp"
#include "dsinfer/solver.hpp"
#include "plan/words.hpp"

namespace dsinfer {

extern const char* const kShippedGpus;   // lib/plan/data/gpus.json
extern const char* const kShippedLinks;  // lib/plan/data/links.json

namespace {

constexpr const char* kFormat = "dsinfer-catalogue-1";
constexpr double kMostFigure = 1e9;      // GB/s, TFLOPS: far beyond any device, so that products stay finite
constexpr int64_t kMostMemoryMib = int64_t{1} << 30;
constexpr double kMostGbps = 1e6;
constexpr int kMostNics = 64;

[[noreturn]] void bad(const JsonObject& o, const char* key, const std::string& found, const std::string& expected) {
  throw Error(Error::bad_format, fmt::format("{}: key \"{}\" is {}, expected {}", o.origin(), key, found, expected));
}

double figure(const JsonObject& o, const char* key, double fallback, double most = kMostFigure) {
  const double value = o.number(key, fallback);
  if (!(value >= 0 && value <= most)) bad(o, key, fmt::format("{}", value), fmt::format("0 … {}", most));
  return value;
}

void only_keys(const JsonObject& o, const std::set<std::string>& known) {
  for (const auto& [key, value] : o.raw().items())
    if (!known.contains(key)) throw Error(Error::bad_format, fmt::format("{}: key \"{}\" is unknown; expected one of: {}", o.origin(), key, fmt::join(known, ", ")));
}

std::vector<std::string> strings_of(const JsonObject& o, const char* key) {
  if (!o.has(key)) return {};
  const Json& list = o.at(key);
  if (!list.is_array() || !std::all_of(list.begin(), list.end(), [](const Json& name) { return name.is_string(); })) bad(o, key, list.type_name(), "a list of strings");
  return list.get<std::vector<std::string>>();
}

std::vector<std::string> pci_of(const JsonObject& o) {
  std::vector<std::string> ids = strings_of(o, "pci");
  for (std::string& id : ids) {
    id = lower_case(id);
    if (id.size() != 9 || id[4] != ':' || id.find_first_not_of("0123456789abcdef:") != std::string::npos) bad(o, "pci", '"' + id + '"', "vendor and device as in \"10de:2330\"");
  }
  return ids;
}

int64_t memory_of(const JsonObject& o, int64_t fallback) {
  if (o.has("memory_bytes")) {
    const int64_t bytes = o.integer("memory_bytes");
    if (bytes < 1 || bytes > kMostMemoryMib << 20) bad(o, "memory_bytes", std::to_string(bytes), "1 … 2^50");
    return bytes;
  }
  if (!o.has("memory_mib")) return fallback;
  const int64_t mib = o.integer("memory_mib");
  if (mib < 1 || mib > kMostMemoryMib) bad(o, "memory_mib", std::to_string(mib), "1 … 2^30");
  return mib << 20;
}

GpuKind gpu_from(const JsonObject& o, const Catalogue& before) {
  only_keys(o, {"id", "like", "names", "pci", "memory_mib", "memory_bytes", "compute_capability", "fp8_units", "memory_gb_per_s", "bf16_tflops", "fp8_tflops", "nvlink_gb_per_s", "pcie_gb_per_s", "curves", "source"});
  GpuKind like;
  if (o.has("like")) {
    const std::string id = o.string("like");
    const auto found = std::find_if(before.gpus.begin(), before.gpus.end(), [&](const GpuKind& kind) { return kind.id == id; });
    if (found == before.gpus.end()) bad(o, "like", '"' + id + '"', "the id of a GPU that stands before it");
    like = *found;
  }
  GpuKind kind;
  kind.id = o.string("id");
  kind.names = strings_of(o, "names");
  kind.pci = pci_of(o);
  kind.memory_bytes = memory_of(o, like.memory_bytes);
  kind.compute_capability = figure(o, "compute_capability", like.compute_capability, 1000);
  kind.fp8_units = o.boolean("fp8_units", like.fp8_units);
  kind.memory_gb_per_s = figure(o, "memory_gb_per_s", like.memory_gb_per_s);
  kind.bf16_tflops = figure(o, "bf16_tflops", like.bf16_tflops);
  kind.fp8_tflops = figure(o, "fp8_tflops", like.fp8_tflops);
  kind.nvlink_gb_per_s = figure(o, "nvlink_gb_per_s", like.nvlink_gb_per_s);
  kind.pcie_gb_per_s = figure(o, "pcie_gb_per_s", like.pcie_gb_per_s);
  kind.curves = o.string("curves", like.curves.empty() ? "other" : like.curves);
  kind.source = o.string("source", like.source);
  if (kind.memory_bytes == 0) bad(o, "memory_mib", "missing", "the MiB that the driver reports");
  if (kind.memory_gb_per_s == 0) bad(o, "memory_gb_per_s", "0", "the bandwidth of the device's memory");
  return kind;
}

LinkKind link_from(const JsonObject& o) {
  only_keys(o, {"id", "transport", "gb_per_s", "gbps", "nics", "latency_us", "source"});
  static const std::set<std::string> transports = {"nvlink", "pcie", "memory", "ib", "roce", "socket"};
  LinkKind kind;
  kind.id = o.string("id");
  kind.transport = o.string("transport");
  if (!transports.contains(kind.transport)) bad(o, "transport", '"' + kind.transport + '"', fmt::format("one of: {}", fmt::join(transports, ", ")));
  kind.gb_per_s = figure(o, "gb_per_s", 0);
  kind.gbps = figure(o, "gbps", 0, kMostGbps);
  const int64_t nics = o.integer("nics", 1);
  if (nics < 1 || nics > kMostNics) bad(o, "nics", std::to_string(nics), fmt::format("1 … {}", kMostNics));
  kind.nics = static_cast<int>(nics);
  kind.latency_us = figure(o, "latency_us", 0);
  kind.source = o.string("source", "");
  return kind;
}

template <class Kind> void put(std::vector<Kind>& kinds, Kind kind) {
  const auto found = std::find_if(kinds.begin(), kinds.end(), [&](const Kind& known) { return known.id == kind.id; });
  if (found == kinds.end()) kinds.push_back(std::move(kind)); else *found = std::move(kind);
}

// The objects in list `key`, each with an id of its own.
template <class Add> void each_entry(const JsonObject& file, const char* key, const Add& add) {
  if (!file.has(key)) return;
  const Json& list = file.at(key);
  if (!list.is_array()) bad(file, key, list.type_name(), "a list");
  std::set<std::string> ids;
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonObject entry(list[i], fmt::format("{}: {}[{}]", file.origin(), key, i));
    const std::string id = entry.string("id");
    if (id.empty() || id != lower_case(id)) bad(entry, "id", '"' + id + '"', "a name in lower case");
    if (!ids.insert(id).second) bad(entry, "id", '"' + id + '"', "an id that no other entry of the file has");
    add(entry);
  }
}

void read_into(Catalogue& catalogue, std::string_view text, const std::string& origin) {
  const Json parsed = parse_json(text, origin, /*unique_keys=*/true);
  const JsonObject file(parsed, origin);
  only_keys(file, {"format", "gpus", "links"});
  if (const std::string format = file.string("format"); format != kFormat) bad(file, "format", '"' + format + '"', fmt::format("\"{}\"", kFormat));
  each_entry(file, "gpus", [&](const JsonObject& entry) { put(catalogue.gpus, gpu_from(entry, catalogue)); });
  each_entry(file, "links", [&](const JsonObject& entry) { put(catalogue.links, link_from(entry)); });
}

template <class Kind> std::string ids_of(const std::vector<Kind>& kinds) {
  std::vector<std::string_view> ids;
  for (const Kind& kind : kinds) ids.push_back(kind.id);
  return fmt::format("{}", fmt::join(ids, ", "));
}

[[noreturn]] void no_link(std::string_view id, const std::string& why, const Catalogue& catalogue) {
  throw Error(Error::not_found, fmt::format("link \"{}\": {}; a link is {}, or ib, roce or socket with the Gb/s of a NIC and the NICs of a node: roce400x8, ib200x1", id, why, ids_of(catalogue.links)));
}

// "400x8": Gb/s, NICs.
bool parse_rate(std::string_view text, LinkKind& link) {
  const char* const end = text.data() + text.size();
  double gbps = 0;
  const auto [after, code] = std::from_chars(text.data(), end, gbps, std::chars_format::fixed);
  if (code != std::errc() || !(gbps > 0) || gbps > kMostGbps) return false;
  link.gbps = gbps;
  link.nics = 1;
  if (after == end) return true;
  if (*after != 'x') return false;
  const auto [last, counted] = std::from_chars(after + 1, end, link.nics);
  return counted == std::errc() && last == end && link.nics >= 1 && link.nics <= kMostNics;
}

}  // namespace

const Catalogue& Catalogue::shipped() {
  static const Catalogue catalogue = [] {
    Catalogue c;
    read_into(c, kShippedGpus, "the shipped gpus.json");
    read_into(c, kShippedLinks, "the shipped links.json");
    return c;
  }();
  return catalogue;
}

Catalogue Catalogue::with_file(const std::filesystem::path& file) {
  Catalogue catalogue = shipped();
  read_into(catalogue, read_text_file(file.string()), file.string());
  return catalogue;
}

const GpuKind& Catalogue::gpu(std::string_view id) const {
  const std::string wanted = lower_case(id);
  for (const GpuKind& kind : gpus) if (kind.id == wanted) return kind;
  throw Error(Error::not_found, fmt::format("gpu \"{}\" is unknown; known: {}. A catalogue file adds others", id, ids_of(gpus)));
}

LinkKind Catalogue::link(std::string_view id, int gpus_per_node) const {
  if (gpus_per_node < 1) throw Error(Error::invalid_argument, fmt::format("gpus_per_node is {}, expected at least 1", gpus_per_node));
  const std::string word = lower_case(id);
  const LinkKind* family = nullptr;  // whose id the word begins with, the longest
  for (const LinkKind& kind : links)
    if (word.starts_with(kind.id) && (!family || kind.id.size() > family->id.size())) family = &kind;
  if (!family) no_link(id, "unknown", *this);
  LinkKind link = *family;
  link.id = word;
  if (word.size() > family->id.size()) {
    const bool network = link.transport == "ib" || link.transport == "roce" || link.transport == "socket";
    if (!network || !parse_rate(std::string_view(word).substr(family->id.size()), link)) no_link(id, "not understood", *this);
    link.gb_per_s = 0;
  }
  if (link.gb_per_s > 0 || link.transport == "nvlink" || link.transport == "pcie" || link.transport == "memory") return link;
  if (link.gbps <= 0) no_link(id, "it does not say how fast its NICs are", *this);
  link.gb_per_s = link.gbps / 8 * link.nics / gpus_per_node;
  return link;
}

}  // namespace dsinfer
