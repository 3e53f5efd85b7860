/// The steps of choose_network(), each pure and testable alone. Rules: what NCCL does, and our policy where NCCL takes everything it sees.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "topology/names.hpp"

namespace dsinfer::topology {

/// A variable's value as the user set it: the process environment first, then files; nullopt if nobody did.
DSINFER_INTERNAL std::optional<std::string> user_setting(const Node& node, std::string_view name);
DSINFER_INTERNAL const Setting* find_setting(const Node& node, std::string_view name);  ///< the one that counts
bool of_conf_file(const Setting& setting);                                              ///< from nccl.conf or the file that NCCL_CONF_FILE names

/// NCCL's device list: "^" excludes, "=" asks for exact names, else prefixes; ":port". Also for interface names (no ports).
struct DSINFER_INTERNAL DeviceList {
  bool exclude = false, exact = false;
  struct Entry { std::string name; int port = -1; };
  std::vector<Entry> entries;
  static DeviceList parse(std::string_view value);
  bool admits(std::string_view name, int port = -1) const;
};

/// The GID index that NCCL ≥ 2.21 takes on this RoCE port, and whether the entry there is a usable RoCE v2 one.
struct GidChoice {
  int index = 0;
  bool usable = false, link_local_ipv4 = false;
  bool operator==(const GidChoice&) const = default;
};
DSINFER_INTERNAL std::optional<GidChoice> choose_gid(const Node& node, const HcaPort& port);

/// network_ports.cpp: which verbs ports stay, why the others went. Fills transport, link_layer, hcas, ports, excluded, seen, reasons, fallback.
DSINFER_INTERNAL void choose_ports(Node& node);
/// network_socket.cpp: interfaces in order of preference with the reason of each; the first is the node's own choice.
DSINFER_INTERNAL std::vector<std::string> rank_interfaces(const Node& node, std::vector<Reason>& reasons);
/// network_affinity.cpp: gpu_nic_affinity, gdr_by_default, rails, links, gb_per_s_per_gpu.
DSINFER_INTERNAL void choose_affinity(Node& node);
/// network_environment.cpp: variables for NCCL, Gloo, UCX and Open MPI, the user's kept and checked.
/// `plugin_everywhere`: all nodes have the plug-in of their fabric; one without would hang the others.
DSINFER_INTERNAL void choose_environment(Node& node, int num_nodes, bool plugin_everywhere);
DSINFER_INTERNAL bool plugin_found(const Node& node);
/// node_checks.cpp: findings about one node. cluster_checks.cpp: findings between nodes.
DSINFER_INTERNAL std::vector<Finding> check_node(const Node& node);
DSINFER_INTERNAL std::vector<Finding> check_cluster(const Cluster& cluster);

}  // namespace dsinfer::topology
