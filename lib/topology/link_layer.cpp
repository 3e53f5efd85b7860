// Link layer and netdevs of a verbs port, where its own source leaves them open.
#include <algorithm>

#include "topology/pci_order.hpp"
#include "topology/ports.hpp"

namespace dsinfer::topology {
namespace {

bool ipoib(const std::string& netdev) { return netdev.starts_with("ib"); }

LinkLayer by_name(const std::string& name) {
  if (name.starts_with("mlx5_bond_") || name.starts_with("roce") || name.find("_eth") != name.npos || name.find("_an") != name.npos ||
      name.starts_with("erdma") || name.starts_with("rxe")) {
    return LinkLayer::ethernet;
  }
  if (name.starts_with("ib") || name.find("_ib") != name.npos || name.starts_with("opa")) return LinkLayer::infiniband;
  return LinkLayer::unknown;
}

// A matrix names the HCAs and a PCI listing shows nothing but functions of one kind: then they are of that kind.
LinkLayer by_other_functions(const Node& node) {
  size_t infiniband = 0, ethernet = 0;
  for (const PciDevice& device : node.pci) {
    const bool mellanox = device.vendor == 0x15b3 || device.description.find("Mellanox") != std::string::npos;
    if (device.vendor != 0 && !mellanox) continue;
    if (device.vendor == 0 && !device.description.empty() && !mellanox) continue;
    infiniband += device.class_code >> 8 == 0x0207;
    ethernet += device.class_code >> 8 == 0x0200;
  }
  if (infiniband > 0 && ethernet == 0) return LinkLayer::infiniband;
  if (ethernet > 0 && infiniband == 0) return LinkLayer::ethernet;
  return LinkLayer::unknown;
}

}  // namespace

const Interface* find_interface(const Node& node, const std::string& name) {
  const auto it = std::find_if(node.interfaces.begin(), node.interfaces.end(), [&](const Interface& i) { return i.name == name; });
  return it == node.interfaces.end() ? nullptr : &*it;
}

const PciDevice* find_pci(const Node& node, const std::string& bus_id) {
  if (bus_id.empty()) return nullptr;
  const auto it = std::find_if(node.pci.begin(), node.pci.end(), [&](const PciDevice& d) { return d.bus_id == bus_id; });
  return it == node.pci.end() ? nullptr : &*it;
}

std::vector<std::string> netdevs_of_port(const Node& node, const Hca& hca, const HcaPort& port) {
  std::vector<std::string> out = port.netdevs;
  for (const Gid& gid : port.gids) {
    if (!gid.netdev.empty() && std::find(out.begin(), out.end(), gid.netdev) == out.end()) out.push_back(gid.netdev);
  }
  if (!out.empty()) return out;
  for (const Interface& interface : node.interfaces) {
    if (!hca.bus_id.empty() && interface.bus_id == hca.bus_id) out.push_back(interface.name);
  }
  if (!out.empty()) return out;
  const auto place = hca.bus_id.empty() ? pci_key_of_name(hca.name) : pci_key(hca.bus_id);
  for (const Interface& interface : node.interfaces) {
    if (place && interface.bus_id.empty() && pci_key_of_name(interface.name) == place) out.push_back(interface.name);
  }
  return out;
}

LinkLayer link_layer_of_port(const Node& node, const Hca& hca, const HcaPort& port, const std::vector<std::string>& netdevs, bool& judged) {
  if (port.link_layer != LinkLayer::unknown) return port.link_layer;
  if (port.lid > 0 && port.lid < 0xffff) return LinkLayer::infiniband;
  if (std::any_of(port.gids.begin(), port.gids.end(), [](const Gid& gid) { return gid.roce_version == 2; })) return LinkLayer::ethernet;
  if (const PciDevice* function = find_pci(node, hca.bus_id)) {
    if (function->class_code >> 8 == 0x0207) return LinkLayer::infiniband;
    if (function->class_code >> 8 == 0x0200) return LinkLayer::ethernet;
  }
  if (!netdevs.empty()) return std::any_of(netdevs.begin(), netdevs.end(), ipoib) ? LinkLayer::infiniband : LinkLayer::ethernet;
  judged = true;
  const LinkLayer named = by_name(hca.name);
  return named != LinkLayer::unknown ? named : by_other_functions(node);
}

}  // namespace dsinfer::topology
