// Which verbs ports NCCL must not use, in the order of the steps; the first reason counts.
#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include <fmt/format.h>

#include "topology/ports.hpp"

namespace dsinfer::topology {
namespace {

using Candidates = std::vector<Candidate>;

std::string state_text(const HcaPort& port) {
  std::string text(word(port.state));
  if (!port.phys_state.empty()) text += (text.empty() ? "" : "/") + port.phys_state;
  return text.empty() ? "state unknown" : text;
}

void drop(Candidate& candidate, std::string code, std::string text) {
  candidate.dropped = std::move(code);
  candidate.text = std::move(text);
}

std::vector<Candidate*> left(Candidates& candidates) {
  std::vector<Candidate*> out;
  for (Candidate& candidate : candidates) {
    if (candidate.dropped.empty()) out.push_back(&candidate);
  }
  return out;
}

uint32_t vendor_of(const Node& node, const Hca& hca) {
  if (hca.vendor_id != 0) return hca.vendor_id;
  const PciDevice* function = find_pci(node, hca.bus_id);
  if (function && function->vendor != 0) return function->vendor == 0x15b3 ? 0x02c9 : function->vendor;
  return hca.name.starts_with("erdma") ? 0x1ded : hca.name.starts_with("usnic") ? 0x1137 : 0;
}

bool software_name(const std::string& name) { return name.starts_with("rxe") || name.starts_with("siw"); }

// 1: what cannot be opened at all.
void drop_unopenable(const Node& node, Candidate& candidate) {
  const Hca& hca = *candidate.hca;
  const bool no_devices = node.host.uverbs && node.host.uverbs->empty();
  if (hca.sysfs_missing)
    drop(candidate, "sysfs-missing", "listed, but its sysfs folder is gone");
  else if (hca.openable == false)
    drop(candidate, "device-not-openable", "libibverbs cannot open it");
  else if (hca.port_count == 0)
    drop(candidate, "no-ports", "a verbs device without ports");
  else if (no_devices && hca.openable != true)
    drop(candidate, "device-not-openable", "/dev/infiniband has no uverbs device");
  else if (node.rdma_absent && hca.openable != true) {
    if (node.host.uverbs)
      drop(candidate, "provider-library-missing", "sysfs has it and so has /dev/infiniband, but libibverbs does not list it: the library or its provider is missing");
    else
      drop(candidate, "device-not-openable", "NCCL or libibverbs found no device here");
  }
}

// 2 to 4: what offers no reliable connection, or only in software.
void drop_unfit(const Node& node, Candidate& candidate, bool tree_has_links, Network& network) {
  const Hca& hca = *candidate.hca;
  const uint32_t vendor = vendor_of(node, hca);
  const bool no_rc = hca.node_type == Hca::NodeType::usnic || hca.node_type == Hca::NodeType::unspecified;
  if (vendor == 0x1d0f)
    drop(candidate, "not-rc-capable", "EFA: needs the libfabric plug-in");
  else if (no_rc || vendor == 0x1137)
    drop(candidate, "not-rc-capable", fmt::format("node type {}, no reliable connections", no_rc ? word(hca.node_type) : "usNIC"));
  else if (candidate.port.link_layer == LinkLayer::unspecified)
    drop(candidate, "not-rc-capable", "link layer Unspecified");
  else if (candidate.explicitly)
    return;  // asked for by name: software and iWARP too
  else if (hca.vendor_id == 0xffffff)
    drop(candidate, "software-rdma", "vendor 0xffffff: software RDMA, slower than sockets");
  else if (hca.device_link == false && tree_has_links)
    drop(candidate, "software-rdma", "no PCI device behind it");
  else if (vendor == 0 && software_name(hca.name)) {
    drop(candidate, "software-rdma", "by its name: software RDMA");
    network.judged = true;
  } else if (hca.node_type == Hca::NodeType::rnic && vendor != 0x1ded)
    drop(candidate, "iwarp", "node type RNIC");
  else if (hca.node_type == Hca::NodeType::unknown && hca.name.starts_with("iw")) {
    drop(candidate, "iwarp", "by its name");
    network.judged = true;
  }
}

// 5: ports that are not up.
void drop_down(const Node& node, Candidate& candidate, Network& network) {
  const HcaPort& port = candidate.port;
  const bool infiniband = port.link_layer == LinkLayer::infiniband;
  if (infiniband && (port.state == PortState::init || port.state == PortState::armed)) {
    return drop(candidate, "no-subnet-manager", state_text(port) + ": no subnet manager has configured the port");
  }
  bool down = port.state == PortState::down || port.state == PortState::init || port.state == PortState::armed;
  std::string text = state_text(port);
  if (port.state == PortState::unknown && port.link_layer == LinkLayer::ethernet) {
    std::optional<bool> up = port.netdev_up;
    for (const std::string& netdev : candidate.netdevs) {
      const Interface* interface = find_interface(node, netdev);
      if (!up && interface) up = interface->up;
    }
    if (up == false)
      down = true, text = "its netdev " + (candidate.netdevs.empty() ? std::string() : candidate.netdevs.front() + " ") + "has no carrier";
  }
  if (down) {
    network.ports_down[name_of(*candidate.hca)] = port.phys_state;
    return drop(candidate, "port-down", text);
  }
  if (infiniband && (port.lid == 0 || port.lid == 0xffff))
    drop(candidate, "no-subnet-manager", fmt::format("LID {}: not configured by a subnet manager", port.lid));
}

// The interfaces whose addresses stand in a port's GID table: its netdev, bonds over it, VLAN and macvlan children of it.
std::vector<const Interface*> carriers(const Node& node, const Candidate& candidate) {
  std::vector<std::string> names = candidate.netdevs;
  for (const std::string& netdev : candidate.netdevs) {
    const Interface* own = find_interface(node, netdev);
    if (own && !own->master.empty()) names.push_back(own->master);
  }
  const auto among = [](const std::vector<std::string>& list, const std::string& name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  std::vector<const Interface*> out;
  for (const Interface& interface : node.interfaces) {
    const bool over = std::any_of(interface.lower.begin(), interface.lower.end(),
                                  [&](const std::string& lower) { return among(candidate.netdevs, lower); });
    if (over || among(names, interface.name)) out.push_back(&interface);
  }
  return out;
}

// 6: RoCE ports without an address that peers can reach.
void drop_without_gid(const Node& node, Candidate& candidate, bool addresses_known) {
  if (candidate.port.link_layer != LinkLayer::ethernet || candidate.explicitly) return;
  if (candidate.port.gid_table) {
    const auto choice = choose_gid(node, candidate.port);
    if (choice && !choice->usable)
      drop(candidate, "no-usable-gid", fmt::format("the rule ends at GID {}, which is no routable RoCE v2 address", choice->index));
    return;
  }
  const auto interfaces = carriers(node, candidate);
  if (interfaces.empty()) return;
  bool any = false, usable = false;
  for (const Interface* interface : interfaces) {
    for (const Address& address : interface->addresses) any = true, usable = usable || !address.ip.starts_with("fe80");
  }
  if (!usable && (any || addresses_known))
    drop(candidate, "no-usable-gid", fmt::format("{} has no address but link-local ones", interfaces.front()->name));
}

// 7: NCCL refuses to connect InfiniBand to Ethernet.
void drop_mixed(Candidates& candidates) {
  const auto rest = left(candidates);
  const auto infiniband = [](const Candidate* c) { return c->port.link_layer == LinkLayer::infiniband; };
  if (std::none_of(rest.begin(), rest.end(), infiniband)) return;
  for (Candidate* candidate : rest) {
    if (candidate->port.link_layer == LinkLayer::ethernet && !candidate->explicitly)
      drop(*candidate, "mixed-link-layer", "Ethernet beside InfiniBand ports");
  }
}

// Gb/s that a model can do at most; for ports whose rate nobody says.
double model_rate(const Node& node, const Hca& hca) {
  const PciDevice* function = find_pci(node, hca.bus_id);
  const uint32_t part = hca.part_id != 0 ? hca.part_id : function && function->vendor == 0x15b3 ? function->device : 0;
  static const std::map<uint32_t, double> rates = {{4117, 50},   {4118, 50},  {4127, 50},   {4115, 100}, {4119, 100},
                                                   {4120, 100},  {4121, 100}, {4123, 200},  {4124, 200}, {4125, 200},
                                                   {41686, 200}, {4129, 400}, {41692, 400}, {4131, 800}};
  const auto it = rates.find(part);
  return it == rates.end() ? 0 : it->second;
}

bool out_of_band(const Node& node, const Candidate& candidate) {
  return std::any_of(candidate.netdevs.begin(), candidate.netdevs.end(), [&](const std::string& netdev) {
    const Interface* interface = find_interface(node, netdev);
    return interface && interface->out_of_band;
  });
}

// Each GPU has one of these ports at PIX or PXB.
bool serves_each_gpu(const Node& node, const Distances& distances, const std::vector<Candidate*>& ports, PathKind at_most) {
  return !node.gpus.empty() && std::all_of(node.gpus.begin(), node.gpus.end(), [&](const Gpu& gpu) {
    return std::any_of(ports.begin(), ports.end(), [&](const Candidate* port) {
      const PathKind kind = distances.between(gpu.label, name_of(*port->hca));
      return kind >= PathKind::pix && kind <= at_most;
    });
  });
}

// 8: a storage or front-end NIC beside the compute ones is slower.
void drop_slow(const Node& node, const Distances& distances, Candidates& candidates, Network& network) {
  auto rest = left(candidates);
  std::erase_if(rest, [&](const Candidate* c) { return out_of_band(node, *c); });
  std::vector<double> rates;
  for (const Candidate* candidate : rest) rates.push_back(candidate->port.rate_gbps);
  const bool none_known = std::all_of(rates.begin(), rates.end(), [](double rate) { return rate <= 0; });
  if (none_known) {
    for (size_t i = 0; i < rest.size(); ++i) rates[i] = model_rate(node, *rest[i]->hca);
  }
  if (rates.empty() || std::any_of(rates.begin(), rates.end(), [](double rate) { return rate <= 0; })) return;
  const double fastest = *std::max_element(rates.begin(), rates.end());
  std::vector<Candidate*> slow, fast;
  for (size_t i = 0; i < rest.size(); ++i) (rates[i] < fastest ? slow : fast).push_back(rest[i]);
  if (slow.empty()) return;
  network.judged = true;
  if (fast.size() < node.gpus.size() && !serves_each_gpu(node, distances, fast, PathKind::pix) &&
      serves_each_gpu(node, distances, slow, PathKind::pix)) {
    network.reasons.push_back(
        {name_of(*fast.front()->hca), "slow-class-serves-gpus",
         fmt::format("{} ports of {:g} Gb/s are fewer than the GPUs, and slower ports sit beside each GPU; the fastest are kept",
                     fast.size(), fastest),
         false});
  }
  for (Candidate* candidate : slow) {
    const double rate = candidate->port.rate_gbps > 0 ? candidate->port.rate_gbps : model_rate(node, *candidate->hca);
    drop(*candidate, "slow-class", fmt::format("{:g} Gb/s{} where others have {:g}", rate, none_known ? " by its model" : "", fastest));
  }
}

// 9: the NIC of the host's own address, or one far from all GPUs where each has a near one.
std::string management_sign(const Node& node, const Distances& distances, const Candidate& candidate, const std::vector<Candidate*>& rest) {
  if (candidate.port.link_layer == LinkLayer::ethernet) {
    for (const std::string& netdev : candidate.netdevs) {
      const Interface* own = find_interface(node, netdev);
      const Interface* master = own && !own->master.empty() ? find_interface(node, own->master) : nullptr;
      for (const Interface* interface : {own, master}) {
        if (interface && interface->default_route) return interface->name + " holds the default route";
        if (interface && interface->bootstrap) return interface->name + " holds the bootstrap address";
      }
    }
  }
  for (const Gpu& gpu : node.gpus) {
    const PathKind kind = distances.between(gpu.label, name_of(*candidate.hca));
    if (kind != PathKind::node && kind != PathKind::sys) return "";
  }
  std::vector<Candidate*> others;
  std::copy_if(rest.begin(), rest.end(), std::back_inserter(others), [&](const Candidate* c) { return c->hca != candidate.hca; });
  return serves_each_gpu(node, distances, others, PathKind::pxb) ? "far from all GPUs, each of which has a nearer port" : "";
}

void drop_out_of_band(const Node& node, Candidates& candidates) {
  auto rest = left(candidates);
  for (Candidate* candidate : rest) {
    if (out_of_band(node, *candidate) && left(candidates).size() > 1) drop(*candidate, "management-nic", "said to be for management only");
  }
}

void drop_management(const Node& node, const Distances& distances, Candidates& candidates, Network& network) {
  for (Candidate* candidate : left(candidates)) {
    const auto rest = left(candidates);
    if (rest.size() <= 1) return;
    const std::string sign = management_sign(node, distances, *candidate, rest);
    if (sign.empty()) continue;
    drop(*candidate, "management-nic", sign);
    network.judged = true;
  }
}

// 10: a card and its virtual functions are one card.
void drop_virtual(const Node& node, Candidates& candidates) {
  std::set<std::string> present;
  for (const Candidate* candidate : left(candidates)) present.insert(candidate->hca->bus_id);
  for (Candidate* candidate : left(candidates)) {
    const PciDevice* function = find_pci(node, candidate->hca->bus_id);
    const std::string physical =
        !candidate->hca->physical_function.empty() || !function ? candidate->hca->physical_function : function->physical_function;
    if (!physical.empty() && present.contains(physical))
      drop(*candidate, "virtual-function", "its physical function " + physical + " is here too");
  }
}

}  // namespace

void drop_ports(const Node& node, Candidates& candidates, bool user_list, Network& network) {
  const auto each = [&](const std::function<void(Candidate&)>& step) {
    for (Candidate* candidate : left(candidates)) step(*candidate);
  };
  const bool tree_has_links = std::any_of(node.hcas.begin(), node.hcas.end(), [](const Hca& hca) { return hca.device_link == true; });
  const Interface* loopback = find_interface(node, "lo");
  const bool addresses_known = loopback && !loopback->addresses.empty();
  each([&](Candidate& c) { drop_unopenable(node, c); });
  each([&](Candidate& c) { drop_unfit(node, c, tree_has_links, network); });
  each([&](Candidate& c) { drop_down(node, c, network); });
  each([&](Candidate& c) { drop_without_gid(node, c, addresses_known); });
  drop_mixed(candidates);
  if (user_list) return;  // what is left is what the user asked for
  const Distances distances(node);
  drop_out_of_band(node, candidates);
  drop_slow(node, distances, candidates, network);
  drop_management(node, distances, candidates, network);
  drop_virtual(node, candidates);
}

}  // namespace dsinfer::topology
