// Which NICs each GPU uses, whether GPUDirect is on by distance, and what the links give.
#include <algorithm>
#include <array>
#include <set>

#include "topology/link_speeds.hpp"
#include "topology/ports.hpp"

namespace dsinfer::topology {
namespace {

// The chosen HCAs; all that were seen if none is chosen, for where a card sits is a fact.
std::vector<std::string> nics_of(const Node& node) {
  std::vector<std::string> out;
  const auto add = [&](const std::string& name) {
    if (!name.empty() && std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
  };
  for (const ChosenPort& port : node.network.ports) add(port.hca);
  if (out.empty()) {
    for (const Hca& hca : node.hcas) add(name_of(hca));
  }
  return out;
}

// GPU and CPU joined by NVLink-C2C: a NIC of the same CPU is near (NCCL's P2C).
bool chip_to_chip(const Gpu& gpu) {
  return std::any_of(gpu.nvlinks.begin(), gpu.nvlinks.end(),
                     [](const NvLink& link) { return link.remote == NvLink::Remote::cpu && link.count > 0; }) ||
         gpu.name.find("GH200") != gpu.name.npos || gpu.name.find("GB200") != gpu.name.npos || gpu.name.find("GB300") != gpu.name.npos;
}

void choose_nics(Node& node, const Distances& distances) {
  const std::vector<std::string> nics = nics_of(node);
  if (nics.empty() || node.gpus.empty()) return;
  std::map<std::string, std::vector<std::string>> affinity;
  bool near = false, all_known = true;
  for (const Gpu& gpu : node.gpus) {
    std::vector<std::string> nearest;
    PathKind least = PathKind::unknown;
    for (const std::string& nic : nics) {
      const PathKind kind = distances.between(gpu.label, nic);
      if (kind == PathKind::unknown) {
        all_known = false;
        continue;
      }
      near = near || kind == PathKind::pix || kind == PathKind::pxb ||
             (chip_to_chip(gpu) && (kind == PathKind::phb || kind == PathKind::node));
      if (least == PathKind::unknown || kind < least) nearest.clear(), least = kind;
      if (kind == least) nearest.push_back(nic);
    }
    if (least == PathKind::unknown) continue;
    affinity[gpu.label] = least == PathKind::sys ? std::vector<std::string>() : nearest;
  }
  if (affinity.empty()) return;
  node.network.gpu_nic_affinity = std::move(affinity);
  if (near || all_known) node.network.gdr_by_default = near;
}

double nic_pcie(const Node& node, const std::string& name) {
  for (const Hca& hca : node.hcas) {
    if (name_of(hca) != name) continue;
    const PciDevice* function = find_pci(node, hca.bus_id);
    return function ? function->gb_per_s : 0;
  }
  return 0;
}

// GB/s of each chosen HCA, all its ports together, no more than its slot carries; empty if a rate is unknown.
std::map<std::string, double> nic_rates(const Node& node) {
  std::map<std::string, double> rates;
  for (const ChosenPort& port : node.network.ports) {
    if (port.rate_gbps <= 0) return {};
    rates[port.hca] += port.rate_gbps / 8;
  }
  for (auto& [name, rate] : rates) {
    if (const double slot = nic_pcie(node, name); slot > 0) rate = std::min(rate, slot);
  }
  return rates;
}

// What the slowest GPU can expect between nodes: its NICs, shared with the GPUs that use them too.
double expected_rate(const Node& node) {
  const Network& network = node.network;
  const auto num_gpus = static_cast<double>(node.gpus.size());
  if (node.gpus.empty()) return 0;
  if (network.transport == Transport::socket) {
    const Interface* interface = find_interface(node, network.socket_ifname);
    return interface ? static_cast<double>(interface->speed_mbps) / 8000 / num_gpus : 0;
  }
  const auto rates = nic_rates(node);
  if (rates.empty()) return 0;
  std::map<std::string, double> users;
  std::map<std::string, std::vector<std::string>> uses;
  for (const Gpu& gpu : node.gpus) {
    auto& nics = uses[gpu.label];
    if (network.gpu_nic_affinity) {
      if (const auto it = network.gpu_nic_affinity->find(gpu.label); it != network.gpu_nic_affinity->end()) nics = it->second;
    }
    if (nics.empty()) {
      for (const auto& [name, rate] : rates) nics.push_back(name);
    }
    for (const std::string& nic : nics) users[nic] += 1;
  }
  double least = 0;
  for (const Gpu& gpu : node.gpus) {
    double sum = 0;
    for (const std::string& nic : uses[gpu.label]) {
      if (const auto it = rates.find(nic); it != rates.end()) sum += it->second / users[nic];
    }
    if (gpu.pcie_gb_per_s > 0 && !chip_to_chip(gpu)) sum = std::min(sum, gpu.pcie_gb_per_s);
    if (least == 0 || sum < least) least = sum;
  }
  return least;
}

std::string cpu_label(int numa) { return numa < 0 ? "cpu0" : "cpu" + std::to_string(numa); }

void add_pcie_links(Node& node, const Distances& distances) {
  std::set<int> numas;
  for (const NumaNode& numa : node.host.numa) numas.insert(numa.id);
  const auto add = [&](const std::string& label, const std::string& bus_id, int numa, double known) {
    const PciDevice* function = find_pci(node, bus_id);
    const double rate = known > 0 ? known : function ? function->gb_per_s : 0;
    if (numa < 0) numa = distances.numa_of(bus_id);
    if (numa < 0 && !function && rate == 0) return;
    numas.insert(std::max(numa, 0));
    node.links.push_back({label, cpu_label(numa), "pcie", rate, rate > 0});
  };
  for (const Gpu& gpu : node.gpus) add(gpu.label, gpu.bus_id, gpu.numa, gpu.pcie_gb_per_s);
  for (const Hca& hca : node.hcas) add(name_of(hca), hca.bus_id, hca.numa, 0);
  constexpr size_t kMostPairs = 16;  // of NUMA nodes: more is a list that nobody reads
  if (numas.size() > kMostPairs) return;
  for (auto a = numas.begin(); a != numas.end(); ++a) {
    for (auto b = std::next(a); b != numas.end(); ++b) node.links.push_back({cpu_label(*a), cpu_label(*b), "cpu", 0, false});
  }
}

void add_network_links(Node& node) {
  const Network& network = node.network;
  for (const ChosenPort& port : network.ports) {
    const std::string kind(network.transport == Transport::unknown ? "" : word(network.transport));
    node.links.push_back({port.hca, "network", kind, port.rate_gbps / 8, port.rate_gbps > 0});
  }
  if (network.transport != Transport::socket || network.socket_ifname.empty()) return;
  const Interface* interface = find_interface(node, network.socket_ifname);
  const double rate = interface ? static_cast<double>(interface->speed_mbps) / 8000 : 0;
  node.links.push_back({network.socket_ifname, "network", "socket", rate, rate > 0});
}

}  // namespace

void choose_affinity(Node& node) {
  const Distances distances(node);
  choose_nics(node, distances);
  node.links.clear();
  add_nvlinks(node);
  add_pcie_links(node, distances);
  add_network_links(node);
  node.network.gb_per_s_per_gpu = expected_rate(node);
}

}  // namespace dsinfer::topology
