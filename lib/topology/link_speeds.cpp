#include "topology/link_speeds.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace dsinfer::topology {
namespace {

constexpr int kMostLinks = 18;  // of one GPU, Hopper and later

const Gpu* find_gpu(const Node& node, const std::string& label) {
  const auto it = std::find_if(node.gpus.begin(), node.gpus.end(), [&](const Gpu& gpu) { return gpu.label == label; });
  return it == node.gpus.end() ? nullptr : &*it;
}

// Direct links of a GPU to all its peers together cannot be more than it has; what a switch gives to each pair is the GPU's whole.
int most_links(const Gpu& gpu) {
  switch (gpu.compute_major) {
    case 6: return 4;
    case 7: return 6;
    case 8: return 12;
    default: return kMostLinks;
  }
}

/// NVLinks from one label to another.
struct Bundle {
  int count = 0;
  double gb_per_s = 0;  // as a tool prints it; 0: from the model
};
using Bundles = std::map<std::pair<std::string, std::string>, Bundle>;

void add(Node& node, const std::string& a, const std::string& b, const Bundle& bundle, const Gpu& gpu) {
  const bool stated = bundle.gb_per_s > 0;
  node.links.push_back({a, b, "nvlink", stated ? bundle.gb_per_s : bundle.count * nvlink_gb_per_s(gpu), stated});
}

// What each GPU says of its own links.
Bundles own_links(const Node& node) {
  Bundles bundles;
  std::map<std::string, std::string> label_at;
  for (const Gpu& gpu : node.gpus) {
    if (!gpu.bus_id.empty()) label_at.emplace(gpu.bus_id, gpu.label);
  }
  for (const Gpu& gpu : node.gpus) {
    for (const NvLink& link : gpu.nvlinks) {
      std::string to;
      if (link.remote == NvLink::Remote::nvswitch)
        to = "nvswitch";
      else if (link.remote == NvLink::Remote::cpu)
        to = "cpu" + std::to_string(std::max(gpu.numa, 0));
      else if (const auto it = label_at.find(link.remote_bus_id); it != label_at.end() && it->second != gpu.label)
        to = it->second;
      if (to.empty() || link.count <= 0) continue;
      Bundle& bundle = bundles[{gpu.label, to}];
      bundle.count += link.count;
      bundle.gb_per_s += link.gb_per_s;
    }
  }
  return bundles;
}

Bundles matrix_links(const Node& node) {
  Bundles bundles;
  std::map<std::string, int> sums, largest;
  for (const Path& path : node.paths) {
    if (path.kind != PathKind::nvlink || path.a == path.b || !find_gpu(node, path.a) || !find_gpu(node, path.b)) continue;
    bundles[std::minmax(path.a, path.b)] = {std::max(path.nvlinks, 1), 0};
    for (const std::string& end : {path.a, path.b}) {
      sums[end] += path.nvlinks;
      largest[end] = std::max(largest[end], path.nvlinks);
    }
  }
  const bool switched =
      std::any_of(sums.begin(), sums.end(), [&](const auto& sum) { return sum.second > most_links(*find_gpu(node, sum.first)); });
  if (!switched) return bundles;
  bundles.clear();
  for (const auto& [label, count] : largest) bundles[{label, "nvswitch"}] = {count, 0};
  return bundles;
}

}  // namespace

double nvlink_gb_per_s(const Gpu& gpu) {
  const auto is = [&](std::string_view model) { return gpu.name.find(model) != gpu.name.npos; };
  if (is("P100")) return 20;
  if (is("A40") || is("A6000") || is("A5000") || is("A5500") || is("A4500") || is("RTX 3090") || is("A16"))
    return 14.0625;  // NVLink 3 bridge at 14.0625 GB/s
  if (is("B100") || is("B200") || is("B300") || is("GB200") || is("GB300")) return 50;
  if (is("V100") || is("A100") || is("A800") || is("A30") || is("H100") || is("H200") || is("H800") || is("H20") || is("GH200") ||
      is("RTX 6000") || is("RTX 8000"))
    return 25;
  switch (gpu.compute_major) {
    case 6: return 20;
    case 7: return 25;
    case 8: return gpu.compute_minor == 0 ? 25 : 14.0625;
    case 9: return 25;
    case 10: return 50;
    default: return 0;
  }
}

void add_nvlinks(Node& node) {
  Bundles bundles = own_links(node);
  const bool peers = std::any_of(bundles.begin(), bundles.end(), [](const auto& b) { return !b.first.second.starts_with("cpu"); });
  if (!peers) bundles.merge(matrix_links(node));
  std::set<std::pair<std::string, std::string>> done;
  for (const auto& [ends, bundle] : bundles) {
    if (!done.insert(std::minmax(ends.first, ends.second)).second) continue;  // both ends tell of it
    if (const Gpu* gpu = find_gpu(node, ends.first)) add(node, ends.first, ends.second, bundle, *gpu);
  }
}

}  // namespace dsinfer::topology
