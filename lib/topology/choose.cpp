// The choice of all nodes: each for itself, then what must agree.
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "topology/checks.hpp"
#include "topology/ports.hpp"

namespace dsinfer {
namespace topology {
namespace {

// Facts that a source states stay; decisions go.
void forget(Node& node) {
  Network network;
  network.topo_file = node.network.topo_file;
  network.rails_isolated = node.network.rails_isolated;
  node.network = std::move(network);
  node.links.clear();
  std::erase_if(node.findings, [](const Finding& finding) { return is_check_code(finding.code); });
}

// A node with RDMA beside one without would hang: what one cannot, none may.
void agree_on_transport(Cluster& cluster, const std::vector<OwnChoice>& own) {
  std::set<Transport> transports;
  for (const OwnChoice& choice : own) {
    if (choice.transport != Transport::unknown) transports.insert(choice.transport);
  }
  if (transports.size() < 2) return;
  std::vector<std::string> sockets, ethernet;
  for (size_t i = 0; i < own.size(); ++i) {
    if (own[i].transport == Transport::socket) sockets.push_back(cluster.nodes[i].name);
    if (own[i].transport == Transport::roce) ethernet.push_back(cluster.nodes[i].name);
  }
  const std::string why = !sockets.empty() ? "no usable HCA on " + some_names(sockets)
                                           : "Ethernet ports on " + some_names(ethernet) + ", InfiniBand on the others";
  for (size_t i = 0; i < own.size(); ++i) {
    Network& network = cluster.nodes[i].network;
    if (own[i].transport == Transport::socket || own[i].transport == Transport::unknown) continue;
    for (const ChosenPort& port : network.ports) {
      network.reasons.push_back({fmt::format("{}:{}", port.hca, port.port), "peers-cannot", why, true});
      if (std::find(network.hcas_excluded.begin(), network.hcas_excluded.end(), port.hca) == network.hcas_excluded.end())
        network.hcas_excluded.push_back(port.hca);
    }
    network.reasons.push_back({"transport", "peers-cannot", "socket: " + why, false});
    network.transport = Transport::socket;
    network.link_layer = LinkLayer::unknown;
    network.fallback_reason = "peers-cannot";
    network.hcas.emplace();
    network.hca_count = 0;
    network.ports.clear();
    network.gid_index.reset();
  }
}

}  // namespace
}  // namespace topology

void choose_network(Cluster& cluster) {
  using namespace topology;
  std::vector<OwnChoice> own;
  for (Node& node : cluster.nodes) {
    forget(node);
    choose_ports(node);
    choose_fabric(node);
    own.push_back({node.network.transport, node.network.link_layer, node.network.ports});
  }
  agree_on_transport(cluster, own);
  choose_interfaces(cluster);
  // Nobody counted the ranks of a machine that was only looked at: it may be one of many.
  const bool alone = cluster.nodes.size() == 1 && !cluster.node_of_rank.empty();
  const int num_nodes = cluster.nodes.size() == 1 && !alone ? 0 : static_cast<int>(cluster.nodes.size());
  const bool plugin_everywhere = std::all_of(cluster.nodes.begin(), cluster.nodes.end(), plugin_found);
  for (Node& node : cluster.nodes) {
    choose_affinity(node);
    choose_environment(node, num_nodes, plugin_everywhere);
    for (Finding& finding : check_node(node)) node.findings.push_back(std::move(finding));
  }
  std::erase_if(cluster.findings, [](const Finding& finding) { return is_check_code(finding.code); });
  std::vector<Finding> findings = check_cluster(cluster, own);
  cluster.findings.insert(cluster.findings.begin(), std::make_move_iterator(findings.begin()), std::make_move_iterator(findings.end()));
}

}  // namespace dsinfer
