#include "topology/nics.hpp"

#include <algorithm>
#include <set>

namespace dsinfer::topology {
namespace {

Nic nic_of(const Hca& hca) {
  Nic nic{hca.name, hca.bus_id, "hca", LinkLayer::unknown, hca.port_count.value_or(static_cast<int>(hca.ports.size())), 0, hca.numa, hca.physical_function, {}};
  for (const HcaPort& port : hca.ports) {
    if (nic.link_layer == LinkLayer::unknown) nic.link_layer = port.link_layer;
    if (port.state != PortState::down) nic.rate_gbps = std::max(nic.rate_gbps, port.rate_gbps);  // a port that is down tells the lowest rate
    nic.netdevs.insert(nic.netdevs.end(), port.netdevs.begin(), port.netdevs.end());
  }
  return nic;
}

bool is_card(const Interface& interface) {
  if (interface.type == "loopback" || interface.name == "lo") return false;
  return interface.kind == "physical" || (interface.kind.empty() && !interface.bus_id.empty());
}

}  // namespace

std::vector<Nic> nics_of(const Node& node) {
  std::vector<Nic> nics;
  std::set<std::string> functions, netdevs;  // that are listed
  for (const Hca& hca : node.hcas) {
    nics.push_back(nic_of(hca));
    functions.insert(hca.bus_id);
    netdevs.insert(nics.back().netdevs.begin(), nics.back().netdevs.end());
  }
  for (const Interface& interface : node.interfaces) {  // members of a bond that an HCA stands on are that HCA's
    if (netdevs.count(interface.name)) netdevs.insert(interface.lower.begin(), interface.lower.end());
  }
  functions.erase("");
  std::set<std::string> named = functions;
  for (const Interface& interface : node.interfaces) {
    if (!is_card(interface)) continue;
    named.insert(interface.bus_id);
    if (netdevs.count(interface.name) || functions.count(interface.bus_id)) continue;
    nics.push_back({interface.name, interface.bus_id, "interface", LinkLayer::unknown, 0, static_cast<double>(interface.speed_mbps) / 1000, -1, "", {interface.name}});
    if (interface.type == "ethernet") nics.back().link_layer = LinkLayer::ethernet;
    if (interface.type == "infiniband") nics.back().link_layer = LinkLayer::infiniband;
  }
  for (const PciDevice& device : node.pci) {
    if (!is_nic_class(device.class_code) || named.count(device.bus_id)) continue;
    nics.push_back({"", device.bus_id, "pci", LinkLayer::unknown, 0, 0, device.numa, device.physical_function, {}});
  }
  return nics;
}

}  // namespace dsinfer::topology
