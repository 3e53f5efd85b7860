#include "topology/distance.hpp"

#include <algorithm>

#include "topology/join.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kDeepest = 32;  // levels of bridges; also ends a tree that a broken file ties in a knot

// NCCL's files collapse each switch into one element and name only the CPU above; sysfs and hwloc show both ports of a switch.
bool collapsed(const std::string& root) { return root.starts_with("numa"); }

}  // namespace

Distances::Distances(const Node& node) : node_(node) {
  for (const PciDevice& device : node.pci) {
    pci_.emplace(device.bus_id, &device);
    places_.emplace(device.bus_id, Place{device.bus_id, device.numa});
  }
  for (const Hca& hca : node.hcas) places_.insert_or_assign(hca.name.empty() ? hca.bus_id : hca.name, Place{hca.bus_id, hca.numa});
  for (const Gpu& gpu : node.gpus) places_.insert_or_assign(gpu.label, Place{gpu.bus_id, gpu.numa});
  for (const Path& path : node.paths) stated_.emplace(std::minmax(path.a, path.b), path.kind);
}

Distances::Place Distances::place_of(const std::string& name) const {
  const auto it = places_.find(name);
  return it == places_.end() ? Place{} : it->second;
}

// Nearest first, without the device itself.
std::vector<std::string> Distances::ancestors(const std::string& bus_id) const {
  std::vector<std::string> out;
  for (auto it = pci_.find(bus_id); it != pci_.end() && !it->second->parent.empty() && out.size() < kDeepest; it = pci_.find(out.back())) {
    out.push_back(it->second->parent);
  }
  return out;
}

std::string Distances::root_of(const std::string& bus_id) const {
  if (const auto it = pci_.find(bus_id); it != pci_.end() && !it->second->root.empty()) return it->second->root;
  for (const std::string& bridge : ancestors(bus_id)) {
    if (const auto it = pci_.find(bridge); it != pci_.end() && !it->second->root.empty()) return it->second->root;
  }
  return "";
}

int Distances::numa_of(const std::string& bus_id) const {
  if (const auto it = pci_.find(bus_id); it != pci_.end() && it->second->numa >= 0) return it->second->numa;
  for (const std::string& bridge : ancestors(bus_id)) {
    if (const auto it = pci_.find(bridge); it != pci_.end() && it->second->numa >= 0) return it->second->numa;
  }
  return -1;
}

PathKind Distances::by_numa(const Place& a, const Place& b) const {
  const auto numa = [&](const Place& place) { return place.numa >= 0 ? place.numa : numa_of(place.bus_id); };
  const int x = numa(a), y = numa(b);
  if (x >= 0 && y >= 0) return x == y ? PathKind::node : PathKind::sys;
  if (root_of(a.bus_id).empty() || root_of(b.bus_id).empty()) return PathKind::unknown;  // a flat list says nothing of where they sit
  return std::max(x, 0) == std::max(y, 0) ? PathKind::node : PathKind::sys;  // the kernel's -1: a machine of one node, or node 0
}

PathKind Distances::by_tree(const Place& a, const Place& b) const {
  if (a.bus_id == b.bus_id && !a.bus_id.empty()) return PathKind::pix;  // ports of one function
  if (!pci_.contains(a.bus_id) || !pci_.contains(b.bus_id)) return by_numa(a, b);
  const std::vector<std::string> over_a = ancestors(a.bus_id), over_b = ancestors(b.bus_id);
  const std::string root = root_of(a.bus_id);
  for (size_t i = 0; i < over_a.size(); ++i) {
    const auto common = std::find(over_b.begin(), over_b.end(), over_a[i]);
    if (common == over_b.end()) continue;
    const size_t up = std::max(i, static_cast<size_t>(common - over_b.begin())) + 1;
    // Two levels up in a full tree is still the same switch: its downstream port, then its upstream port.
    return up <= (collapsed(root) ? 1u : 2u) ? PathKind::pix : PathKind::pxb;
  }
  if (!root.empty() && root == root_of(b.bus_id)) return PathKind::phb;
  if (collapsed(root)) return root_of(b.bus_id).empty() ? PathKind::unknown : PathKind::sys;
  return by_numa(a, b);
}

PathKind Distances::between(const std::string& a, const std::string& b) const {
  if (a == b) return PathKind::self;
  if (const auto it = stated_.find(std::minmax(a, b)); it != stated_.end()) return it->second;
  return by_tree(place_of(a), place_of(b));
}

PathKind distance(const Node& node, const std::string& a, const std::string& b) { return Distances(node).between(a, b); }

}  // namespace dsinfer::topology
