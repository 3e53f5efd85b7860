/// Hand-made machines for tests of the choice.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "dsinfer/cluster.hpp"

namespace dsinfer::parts {

inline HcaPort port(LinkLayer layer, double rate = 0, PortState state = PortState::active, int number = 1) {
  HcaPort p;
  p.number = number;
  p.link_layer = layer;
  p.rate_gbps = rate;
  p.state = state;
  if (state == PortState::down) p.phys_state = "Polling";
  return p;
}

inline Hca hca(const std::string& name, HcaPort p, const std::string& bus_id = "") {
  Hca h;
  h.name = name;
  h.bus_id = bus_id;
  h.ports.push_back(std::move(p));
  return h;
}

inline Hca ib(const std::string& name, double rate = 400, const std::string& bus_id = "") { return hca(name, port(LinkLayer::infiniband, rate), bus_id); }
inline Hca roce(const std::string& name, double rate = 400, const std::string& bus_id = "") { return hca(name, port(LinkLayer::ethernet, rate), bus_id); }

/// The table of a ConnectX port with one address: RoCE v2 at `index` (3 on bare metal).
inline void give_address(HcaPort& p, const std::string& ipv4, int index = 3) {
  p.gid_table = true;
  for (int i = 0; i < 4; ++i) {
    Gid gid;
    gid.index = index - 3 + i;
    gid.address = i < 2 ? "fe80::1" : "::ffff:" + ipv4;
    gid.roce_version = 1 + i % 2;
    p.gids.push_back(gid);
  }
}

inline Interface interface(const std::string& name, const std::string& ip = "", int prefix = 24, int64_t speed_mbps = 0) {
  Interface i;
  i.name = name;
  i.up = true;
  i.type = name == "lo" ? "loopback" : name.substr(0, 2) == "ib" ? "infiniband" : "ethernet";
  i.speed_mbps = speed_mbps;
  if (!ip.empty()) i.addresses.push_back({ip, prefix});
  return i;
}

inline Gpu gpu(int index, const std::string& bus_id = "", const std::string& name = "NVIDIA H100 80GB HBM3") {
  Gpu g;
  g.index = index;
  g.label = "GPU" + std::to_string(index);
  g.bus_id = bus_id;
  g.name = name;
  return g;
}

inline Node node(const std::string& name, std::vector<Hca> hcas = {}, std::vector<Interface> interfaces = {}) {
  Node n;
  n.name = name;
  n.hcas = std::move(hcas);
  n.hcas_complete = true;
  n.interfaces = std::move(interfaces);
  n.interfaces_complete = !n.interfaces.empty();
  return n;
}

inline void set(Node& n, const std::string& name, const std::string& value, const std::string& origin = "environment") { n.settings.push_back({name, value, origin}); }

inline Node chosen(Node n) {
  Cluster cluster;
  cluster.nodes.push_back(std::move(n));
  choose_network(cluster);
  return cluster.nodes.front();
}

inline Cluster chosen(std::vector<Node> nodes) {
  Cluster cluster;
  cluster.nodes = std::move(nodes);
  choose_network(cluster);
  return cluster;
}

inline std::string value_of(const Node& n, const std::string& name) {
  for (const EnvironmentVariable& variable : n.network.environment) {
    if (variable.name == name) return variable.value;
  }
  return "";
}

inline std::string reason_of(const Node& n, const std::string& subject) {
  for (const Reason& reason : n.network.reasons) {
    if (reason.subject == subject && reason.dropped) return reason.code;
  }
  return "";
}

inline const Finding* finding(const std::vector<Finding>& findings, const std::string& code) {
  const auto it = std::find_if(findings.begin(), findings.end(), [&](const Finding& f) { return f.code == code; });
  return it == findings.end() ? nullptr : &*it;
}

using Names = std::vector<std::string>;

}  // namespace dsinfer::parts
