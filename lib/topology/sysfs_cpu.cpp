// Processors and memory of a sysfs tree: packages, cores, NUMA nodes; /proc stands in where /sys was not captured.
#include <algorithm>
#include <charconv>
#include <set>

#include "topology/cpu_list.hpp"
#include "topology/sysfs.hpp"

namespace dsinfer::topology {
namespace {

constexpr int kMaxCpus = 1 << 16, kMaxNodes = 4096;
const std::string kCpus = "sys/devices/system/cpu/", kNodes = "sys/devices/system/node/";

std::optional<int> number_after(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  int value = 0;
  const auto [end, error] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), value);
  return error == std::errc() && end == name.data() + name.size() && value >= 0 ? std::optional(value) : std::nullopt;
}

// "MemTotal:  32 kB", also "Node 0 MemTotal: …" → bytes.
int64_t memory_total(const std::string& meminfo) {
  const size_t at = meminfo.find("MemTotal:");
  if (at == meminfo.npos) return 0;
  const size_t digit = meminfo.find_first_not_of(" \t", at + 9);
  if (digit == meminfo.npos) return 0;
  int64_t kib = 0;
  std::from_chars(meminfo.data() + digit, meminfo.data() + meminfo.size(), kib);
  return kib > 0 && kib < int64_t{1} << 50 ? kib * 1024 : 0;
}

void count_from_sysfs(const Tree& tree, Host& host) {
  std::set<std::string> packages, cores;
  int cpus = 0;
  for (const std::string& name : tree.list(kCpus.substr(0, kCpus.size() - 1))) {
    if (!number_after(name, "cpu") || cpus >= kMaxCpus) continue;
    const std::string base = kCpus + name + "/topology/";
    const auto siblings = tree.line(base + "thread_siblings_list");
    const auto mask = siblings ? std::nullopt : tree.line(base + "thread_siblings");
    if (!siblings && !mask) continue;  // offline: its topology folder is gone
    ++cpus;
    cores.insert(siblings ? *siblings : *mask);
    if (const auto package = tree.line(base + "physical_package_id")) packages.insert(*package);
  }
  host.logical_cpus = cpus;
  host.cores = static_cast<int>(cores.size());
  host.packages = static_cast<int>(packages.size());
  if (const auto online = tree.line(kCpus + "online"); online && cpus == 0) host.logical_cpus = count_of_cpu_list(*online);
}

// Value of "key   : value" lines of /proc/cpuinfo.
std::string_view value_of(std::string_view line, std::string_view key) {
  if (!line.starts_with(key)) return {};
  line.remove_prefix(key.size());
  const size_t colon = line.find_first_not_of(" \t");
  if (colon == line.npos || line[colon] != ':') return {};
  const size_t begin = line.find_first_not_of(" \t", colon + 1);
  return begin == line.npos ? std::string_view() : line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin);
}

std::string arm_model(std::string_view implementer, std::string_view part) {
  constexpr struct { std::string_view part, name; } kParts[] = {{"0xd0c", "Neoverse-N1"}, {"0xd40", "Neoverse-V1"}, {"0xd49", "Neoverse-N2"},
                                                                {"0xd4f", "Neoverse-V2"}, {"0xd84", "Neoverse-V3"}, {"0xd8e", "Neoverse-N3"},
                                                                {"0xd85", "Cortex-X925"}, {"0xd87", "Cortex-A725"}};
  for (const auto& known : kParts) {
    if (implementer == "0x41" && part == known.part) return std::string(known.name);
  }
  return "";
}

void read_cpuinfo(const Tree& tree, Host& host) {
  const std::string info = tree.read("proc/cpuinfo", size_t{4} << 20).value_or("");
  std::set<std::string> packages, cores;
  std::string package, implementer;
  int cpus = 0;
  for (size_t at = 0; at < info.size();) {
    const size_t end = std::min(info.find('\n', at), info.size());
    const std::string_view line(info.data() + at, end - at);
    at = end + 1;
    if (!value_of(line, "processor").empty()) ++cpus;
    if (const auto v = value_of(line, "physical id"); !v.empty()) packages.insert(package = v);
    if (const auto v = value_of(line, "core id"); !v.empty()) cores.insert(package + "/" + std::string(v));
    if (const auto v = value_of(line, "CPU implementer"); !v.empty()) implementer = v;
    if (!host.cpu_model.empty()) continue;
    if (const auto v = value_of(line, "model name"); !v.empty()) host.cpu_model = clean_text(v);
    if (const auto v = value_of(line, "cpu"); !v.empty()) host.cpu_model = clean_text(v);  // POWER
    if (const auto v = value_of(line, "CPU part"); !v.empty()) host.cpu_model = arm_model(implementer, v);
  }
  if (host.arch.empty() && !implementer.empty()) host.arch = "aarch64";
  if (host.logical_cpus == 0 && cpus <= kMaxCpus) host.logical_cpus = cpus;
  if (host.cores == 0) host.cores = static_cast<int>(cores.size());
  if (host.packages == 0) host.packages = static_cast<int>(packages.size());
}

void read_numa(const Tree& tree, Host& host) {
  for (const std::string& name : tree.list(kNodes.substr(0, kNodes.size() - 1))) {
    const auto id = number_after(name, "node");
    if (!id || host.numa.size() >= kMaxNodes) continue;
    NumaNode node;
    node.id = *id;
    node.cpus = clean_text(tree.line(kNodes + name + "/cpulist").value_or(""));
    if (node.cpus.empty()) node.cpus = cpu_list_of_mask(tree.line(kNodes + name + "/cpumap").value_or(""));
    node.memory_bytes = memory_total(tree.read(kNodes + name + "/meminfo").value_or(""));
    if (!node.cpus.empty() || node.memory_bytes > 0) host.numa.push_back(std::move(node));  // Grace keeps empty nodes for GPU memory
  }
}

}  // namespace

void read_processors(const Tree& tree, Host& host) {
  count_from_sysfs(tree, host);
  read_cpuinfo(tree, host);
  read_numa(tree, host);
  host.memory_bytes = memory_total(tree.read("proc/meminfo").value_or(""));
  if (host.memory_bytes == 0) {
    for (const NumaNode& node : host.numa) host.memory_bytes += node.memory_bytes;
  }
}

}  // namespace dsinfer::topology
