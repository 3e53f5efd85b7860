// What must agree between nodes before NCCL starts. Nodes are compared by classes of equal values, so a thousand equal ones cost a line.
#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "topology/comparison.hpp"
#include "topology/pci_order.hpp"
#include "topology/ports.hpp"
#include "topology/reach.hpp"

namespace dsinfer::topology {
namespace {

bool uses_rdma(const OwnChoice& choice) { return choice.transport == Transport::ib || choice.transport == Transport::roce; }

const HcaPort* port_of(const Node& node, const ChosenPort& chosen) {
  for (const Hca& hca : node.hcas) {
    if (name_of(hca) != chosen.hca) continue;
    for (const HcaPort& port : hca.ports) {
      if (port.number == chosen.port) return &port;
    }
  }
  return nullptr;
}

std::string joined_names(const std::vector<ChosenPort>& ports) {
  std::vector<std::string> names;
  for (const ChosenPort& port : ports) {
    if (std::find(names.begin(), names.end(), port.hca) == names.end()) names.push_back(port.hca);
  }
  return fmt::format("{}", fmt::join(names, ","));
}

void compare_transports(Comparison& c) {
  c.compare([&](size_t i) { return std::string(word(c.own[i].transport)); }, Severity::error, "transport-differs",
            "nodes would use different transports: NCCL would hang in its set-up; all use sockets instead",
            "make the HCAs of the nodes named here usable, or set NCCL_NET=Socket on all");
  c.compare([&](size_t i) { return uses_rdma(c.own[i]) ? std::string(word(c.own[i].link_layer)) : ""; }, Severity::error,
            "link-layer-differs", "chosen ports are InfiniBand on some nodes and Ethernet on others: they cannot connect",
            "cable and configure the ports alike on all nodes");
  c.compare([&](size_t i) { return uses_rdma(c.own[i]) ? fmt::format("{} HCA ports", c.own[i].ports.size()) : ""; }, Severity::error,
            "hca-count-differs", "nodes choose different numbers of HCA ports: NCCL stops, or waits without end",
            "bring the missing ports up, or list the common rails in NCCL_IB_HCA on all nodes");
  c.compare([&](size_t i) { return joined_names(c.own[i].ports); }, Severity::info, "hca-names-differ",
            "HCAs have different names on different nodes: no one NCCL_IB_HCA serves all", "use each node's own list");
  c.compare(
      [&](size_t i) -> std::string {
        const Node& node = c.cluster.nodes[i];
        const std::string users = user_setting(node, "NCCL_NET_PLUGIN").value_or("");
        if (!users.empty()) return "NCCL_NET_PLUGIN=" + users;
        const std::string plugin = node.host.net_plugin.substr(node.host.net_plugin.rfind('/') + 1);
        return plugin.empty() ? (node.host.nccl_path.empty() ? "" : "no plug-in") : plugin;
      },
      Severity::error, "plugin-differs", "nodes would load different network plug-ins: NCCL would hang without a message",
      "install the same plug-in everywhere, or set NCCL_NET_PLUGIN=none on all");
}

void compare_rails(Comparison& c) {
  c.compare_rails([](size_t, const ChosenPort& port) { return port.rate_gbps > 0 ? fmt::format("{:g} Gb/s", port.rate_gbps) : ""; },
                  Severity::warning, "rate-differs", "ports of one rail run at different rates: the slowest sets the pace",
                  "check cables and switch ports of the slower ones");
  c.compare_rails(
      [&](size_t i, const ChosenPort& port) {
        const HcaPort* facts = port_of(c.cluster.nodes[i], port);
        const Interface* netdev = find_interface(c.cluster.nodes[i], port.netdev);
        const std::string active = facts && facts->active_mtu > 0 ? fmt::format("active_mtu {}", facts->active_mtu) : "";
        const std::string link = netdev && netdev->mtu > 0 ? fmt::format("{}MTU {}", active.empty() ? "" : ", ", netdev->mtu) : "";
        return active + link;
      },
      Severity::warning, "mtu-differs",
      "ports of one rail have different MTUs: lower speed, or lost packets where a switch is smaller still",
      "one MTU on all ports and switches of a rail");

  bool equal_counts = true;
  size_t count = 0;
  for (const OwnChoice& choice : c.own) {
    if (choice.transport != Transport::roce) continue;
    equal_counts = equal_counts && (count == 0 || count == choice.ports.size());
    count = choice.ports.size();
  }
  if (!equal_counts) return;
  const bool broken =
      std::any_of(c.cluster.reach.begin(), c.cluster.reach.end(), [](const Reach& r) { return !r.ok && r.over.starts_with("rdma") && !r.over.starts_with(kCrossRail); });
  c.compare_rails(
      [&](size_t i, const ChosenPort& port) {
        const bool point_to_point =
            port.subnet.ends_with("/31") || port.subnet.ends_with("/32") || port.subnet.ends_with("/127") || port.subnet.ends_with("/128");
        return c.own[i].transport == Transport::roce && !point_to_point ? port.subnet : "";
      },
      broken ? Severity::error : Severity::warning, "rail-subnet-differs",
      "the n-th ports of the nodes are in different subnets: without a route between them their packets are lost",
      "cable each rail to one leaf or subnet in the same order on all nodes");
}

void compare_gids(Comparison& c) {
  bool wrong = false;
  for (const Node& node : c.cluster.nodes) {
    wrong =
        wrong || std::any_of(node.findings.begin(), node.findings.end(), [](const Finding& f) { return f.code == "user-gid-index-wrong"; });
  }
  c.compare(
      [&](size_t i) -> std::string {
        if (c.own[i].transport != Transport::roce) return "";
        std::set<int> indexes;
        for (const ChosenPort& port : c.own[i].ports) {
          if (port.gid_index) indexes.insert(*port.gid_index);
        }
        return indexes.empty() ? "" : fmt::format("GID index {}", fmt::join(indexes, ","));
      },
      wrong ? Severity::error : Severity::info, "gid-index-differs", "the RoCE v2 address is at different GID indexes on different nodes",
      "leave NCCL_IB_GID_INDEX unset: NCCL 2.21 and later find it for each port");
}

std::string socket_subnet(const Node& node) {
  const Interface* interface = find_interface(node, node.network.socket_ifname);
  if (!interface || interface->addresses.empty()) return "";
  const std::string subnet = subnet_of(*interface);
  if (!subnet.empty()) return subnet;
  const bool local =
      std::all_of(interface->addresses.begin(), interface->addresses.end(), [](const Address& a) { return link_local(a.ip); });
  return local ? "link-local only" : "";
}

void compare_sockets(Comparison& c) {
  std::set<std::string> unreachable;
  for (const Reach& reach : c.cluster.reach) {
    const size_t to = static_cast<size_t>(reach.to);
    if (!reach.ok && reach.over.starts_with("socket") && reach.to >= 0 && to < c.cluster.nodes.size())
      unreachable.insert(c.cluster.nodes[to].name);
  }
  c.compare(
      [&](size_t i) -> std::string {
        const std::string subnet = socket_subnet(c.cluster.nodes[i]);
        return subnet.ends_with("/32") || subnet.ends_with("/128") ? "" : subnet;  // clouds route every address
      },
      unreachable.empty() ? Severity::warning : Severity::error, "socket-subnet-differs",
      "the socket interfaces are in different subnets: bootstrap fails unless they are routed",
      "name an interface of a common network in NCCL_SOCKET_IFNAME on each node");
  c.compare(
      [&](size_t i) -> std::string {
        const Node& node = c.cluster.nodes[i];
        const Interface* interface = find_interface(node, node.network.socket_ifname);
        return interface && interface->mtu > 0 ? fmt::format("socket MTU {}", interface->mtu) : "";
      },
      Severity::warning, "mtu-differs", "the socket interfaces have different MTUs", "one MTU on all hosts and switches of a network");
}

// What each node says of itself in a row of the table, as one finding for all.
void collect_from_nodes(Comparison& c) {
  for (const char* code : {"hcas-share-subnet", "memlock-finite", "socket-loopback"}) {
    Finding all;
    for (const Node& node : c.cluster.nodes) {
      for (const Finding& finding : node.findings) {
        if (finding.code != code) continue;
        if (all.code.empty()) all = {finding.code, finding.severity, {}, finding.text, {}, finding.advice};
        all.nodes.push_back(node.name);
        for (const std::string& line : finding.evidence) {
          if (all.evidence.size() < 8) all.evidence.push_back(node.name + ": " + line);
        }
      }
    }
    if (!all.code.empty()) c.findings.push_back(std::move(all));
  }
}

}  // namespace

std::vector<Finding> check_cluster(const Cluster& cluster, const std::vector<OwnChoice>& own) {
  Comparison comparison{cluster, own, {}};
  if (cluster.nodes.size() > 1) {
    compare_transports(comparison);
    compare_rails(comparison);
    compare_gids(comparison);
    compare_sockets(comparison);
    compare_settings(comparison);
    compare_hosts(comparison);
    collect_from_nodes(comparison);
  }
  for (Finding& finding : reach_findings(cluster)) comparison.findings.push_back(std::move(finding));
  return std::move(comparison.findings);
}

std::vector<Finding> check_cluster(const Cluster& cluster) {
  std::vector<OwnChoice> own;
  for (const Node& node : cluster.nodes) own.push_back({node.network.transport, node.network.link_layer, node.network.ports});
  return check_cluster(cluster, own);
}

}  // namespace dsinfer::topology
