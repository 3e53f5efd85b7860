// The socket interface of each node: its own choice, unless a network that all nodes share is better.
#include <algorithm>
#include <map>
#include <set>

#include "topology/ports.hpp"

namespace dsinfer::topology {
namespace {

/// A subnet that several nodes have an interface in.
struct Common {
  std::map<size_t, std::string> interface_of;  // node → its interface
  bool bootstrap = false, out_of_band = false, ipoib = false, rail = false, default_route = false;
  int64_t slowest_mbps = -1;
  size_t rank_sum = 0;
};

bool fixed_by_user(const Node& node) { return user_setting(node, "NCCL_SOCKET_IFNAME").value_or("").size() > 1; }

// An address that says nothing of its neighbours: clouds give /32 and route everything.
bool names_neighbours(const Address& address) {
  const bool ipv4 = address.ip.find(':') == std::string::npos;
  return !link_local(address.ip) && address.prefix_len > 0 && address.prefix_len < (ipv4 ? 32 : 128);
}

void add_interface(Common& common, const Node& node, size_t node_idx, const Interface& interface, size_t rank) {
  if (!common.interface_of.emplace(node_idx, interface.name).second) return;  // the better-ranked one is there
  common.bootstrap = common.bootstrap || interface.bootstrap;
  common.out_of_band = common.out_of_band || interface.out_of_band;
  common.default_route = common.default_route || interface.default_route;
  common.ipoib = common.ipoib || interface.type == "infiniband" || (interface.type.empty() && interface.name.starts_with("ib"));
  common.rail = common.rail || std::any_of(node.network.ports.begin(), node.network.ports.end(),
                                           [&](const ChosenPort& p) { return p.netdev == interface.name; });
  common.slowest_mbps = common.slowest_mbps < 0 ? interface.speed_mbps : std::min(common.slowest_mbps, interface.speed_mbps);
  common.rank_sum += rank;
}

/// True if `a` serves better than `b`: more nodes, the launcher's own network, no rail of RDMA traffic, speed, then the nodes' own order.
bool better(const Common& a, const Common& b) {
  const auto key = [](const Common& c) {
    return std::tuple(c.interface_of.size(), c.bootstrap, !c.ipoib, !c.rail, c.out_of_band, c.slowest_mbps, c.default_route);
  };
  return key(a) != key(b) ? key(a) > key(b) : a.rank_sum < b.rank_sum;
}

}  // namespace

void choose_interfaces(Cluster& cluster) {
  std::map<std::string, Common> subnets;
  std::vector<std::vector<std::string>> ranked(cluster.nodes.size());
  for (size_t i = 0; i < cluster.nodes.size(); ++i) {
    Node& node = cluster.nodes[i];
    ranked[i] = rank_interfaces(node, node.network.reasons);
    if (!ranked[i].empty()) node.network.socket_ifname = ranked[i].front();
    for (size_t rank = 0; rank < ranked[i].size(); ++rank) {
      const Interface* interface = find_interface(node, ranked[i][rank]);
      if (!interface || interface->up == false) continue;
      // Container engines give the same private subnet to every host: no way between nodes while the node has anything else.
      if (overlay_name(interface->name) && !overlay_name(ranked[i].front()) && !fixed_by_user(node)) continue;
      std::set<std::string> own;
      for (const Address& address : interface->addresses) {
        if (names_neighbours(address)) own.insert(subnet_of(address));
      }
      for (const std::string& subnet : own) add_interface(subnets[subnet], node, i, *interface, rank);
    }
  }
  if (cluster.nodes.size() < 2) return;
  const Common* best = nullptr;
  const std::string* name = nullptr;
  for (const auto& [subnet, common] : subnets) {
    if (common.interface_of.size() * 2 > cluster.nodes.size() && (!best || better(common, *best))) best = &common, name = &subnet;
  }
  if (!best) return;
  for (const auto& [i, interface] : best->interface_of) {
    Network& network = cluster.nodes[i].network;
    const Interface* own = find_interface(cluster.nodes[i], network.socket_ifname);
    if (fixed_by_user(cluster.nodes[i]) || (own && own->bootstrap)) continue;
    network.socket_ifname = interface;
    network.reasons.push_back(
        {interface, "common-subnet",
         *name + " is common to " + std::to_string(best->interface_of.size()) + " of " + std::to_string(cluster.nodes.size()) + " nodes",
         false});
  }
}

}  // namespace dsinfer::topology
