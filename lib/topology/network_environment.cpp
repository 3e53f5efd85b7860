// The variables that NCCL, Gloo, UCX and Open MPI need on this node, each with its reason.
#include <algorithm>
#include <charconv>
#include <set>

#include <fmt/format.h>

#include "topology/lines.hpp"
#include "topology/ports.hpp"

namespace dsinfer::topology {
namespace {

bool of_network(std::string_view name) {
  return name.starts_with("NCCL_") || name.starts_with("UCX_") || name.starts_with("GLOO_") || name.starts_with("OMPI_MCA_");
}

/// Adds variables that the user has not set.
class Environment {
 public:
  explicit Environment(Node& node) : node_(node), out_(node.network.environment) {
    for (const Setting& setting : node.settings) {
      if (!of_network(setting.name) || !names_.insert(setting.name).second) continue;
      const Setting& counts = *find_setting(node, setting.name);
      out_.push_back({counts.name, counts.value, "set by the user (" + counts.origin + ")", true});
    }
  }
  void set(const std::string& name, std::string value, std::string reason) {
    if (value.empty() || !names_.insert(name).second) return;
    out_.push_back({name, std::move(value), std::move(reason), false});
  }
  bool has(const std::string& name) const { return names_.contains(name); }

 private:
  Node& node_;
  std::vector<EnvironmentVariable>& out_;
  std::set<std::string> names_;
};

/// "2.21.5+cuda12.4" → 2, 21.
bool older_than(const std::string& version, int major, int minor) {
  int found_major = 0, found_minor = 0;
  const char* end = version.data() + version.size();
  const auto first = std::from_chars(version.data(), end, found_major);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '.') return false;
  if (std::from_chars(first.ptr + 1, end, found_minor).ec != std::errc()) return false;
  return found_major < major || (found_major == major && found_minor < minor);
}

// Rail ids came with 2.30: older versions would read "mlx5_0:1:0" as a port.
bool knows_rails(const std::string& version) {
  return !version.empty() && !older_than(version, 2, 30) && version.find('.') != version.npos;
}

std::string hca_list(const Network& network, bool rails) {
  std::string list;
  for (const ChosenPort& port : network.ports) {
    list += fmt::format("{}{}:{}", list.empty() ? "" : ",", port.hca, port.port);
    if (rails) list += fmt::format(":{}", port.rail);
  }
  return list;
}

void add_interface(Environment& environment, const Network& network) {
  const std::string& name = network.socket_ifname;
  if (name.empty()) return;
  environment.set("NCCL_SOCKET_IFNAME", "=" + name, "bootstrap and out-of-band traffic; \"=\": this very name, not all that begin with it");
  environment.set("GLOO_SOCKET_IFNAME", name, "Gloo would resolve the host name, which is 127.0.1.1 on many systems");
  // Open MPI refuses an include list beside an exclude list.
  if (!environment.has("OMPI_MCA_btl_tcp_if_exclude"))
    environment.set("OMPI_MCA_btl_tcp_if_include", name, "Open MPI's TCP traffic on the same interface; must be set before MPI_Init");
  if (!environment.has("OMPI_MCA_oob_tcp_if_exclude"))
    environment.set("OMPI_MCA_oob_tcp_if_include", name, "Open MPI's control traffic likewise");
}

bool bonded(const Network& network) {
  return std::any_of(network.ports.begin(), network.ports.end(), [](const ChosenPort& port) {
    return port.hca.find("_bond_") != std::string::npos || port.netdev.starts_with("bond");
  });
}

// Alibaba's eRDMA; values as its maker gives them.
bool erdma(const Network& network) {
  return std::any_of(network.ports.begin(), network.ports.end(), [](const ChosenPort& port) { return port.hca.starts_with("erdma"); });
}

void add_erdma(Environment& environment) {
  environment.set("NCCL_IB_GID_INDEX", "1", "eRDMA: entry 1 holds the IPv4 address");
  environment.set("NCCL_IB_QPS_PER_CONNECTION", "8", "eRDMA: one queue pair does not fill the card");
  environment.set("NCCL_MIN_NCHANNELS", "16", "eRDMA: as its maker advises");
  environment.set("NCCL_NET_PLUGIN", "none", "eRDMA: NCCL's own verbs transport");
}

void add_roce(Environment& environment, const Node& node) {
  const Network& network = node.network;
  if (erdma(network)) add_erdma(environment);
  if (older_than(node.host.nccl_version, 2, 21) && network.gid_index) {
    environment.set("NCCL_IB_GID_INDEX", std::to_string(*network.gid_index),
                    "NCCL " + node.host.nccl_version + " does not look for the RoCE v2 address itself; all chosen ports have it here");
    environment.set("UCX_IB_GID_INDEX", std::to_string(*network.gid_index), "as for NCCL");
  }
  if (bonded(network)) environment.set("NCCL_IB_QPS_PER_CONNECTION", "4", "a queue pair stays on one member of the bond; several use both");
  if (network.ib_tc && *network.ib_tc >= 0)
    environment.set("UCX_IB_TRAFFIC_CLASS", std::to_string(*network.ib_tc), "as the site's NCCL_IB_TC");
  if (network.ib_sl && *network.ib_sl >= 0) environment.set("UCX_IB_SL", std::to_string(*network.ib_sl), "as the site's NCCL_IB_SL");
  if (const auto index = user_setting(node, "NCCL_IB_GID_INDEX"); index && *index != "-1")
    environment.set("UCX_IB_GID_INDEX", *index, "as the site's NCCL_IB_GID_INDEX");
}

void add_rdma(Environment& environment, const Node& node, int num_nodes) {
  const Network& network = node.network;
  environment.set("NCCL_IB_DISABLE", "0", "verbs ports are up");
  if (network.hcas) {  // without names there is nothing to list
    const bool rails = network.rails_isolated == true && knows_rails(node.host.nccl_version);
    environment.set("NCCL_IB_HCA", "=" + hca_list(network, rails),
                    rails ? "the chosen ports in PCI order with their rails; \"=\": exact names"
                          : "the chosen ports in PCI order; \"=\": exact names, for mlx5_1 would also take mlx5_10");
    environment.set("UCX_NET_DEVICES", hca_list(network, false), "the same ports for UCX; must be set before MPI_Init");
  }
  add_interface(environment, network);
  if (num_nodes > 16) environment.set("NCCL_IB_TIMEOUT", "22", "more than 16 nodes: two minutes before a lost packet ends the job");
  if (network.rails_isolated == true) environment.set("NCCL_CROSS_NIC", "0", "rails have no route to each other");
  if (network.transport == Transport::roce) add_roce(environment, node);
}

// Where the cloud's own NIC gets more sockets by default (AWS, Google), the default stays.
bool tuned_by_nccl(const Node& node, const Interface& interface) {
  const PciDevice* function = find_pci(node, interface.bus_id);
  return function && (function->vendor == 0x1d0f || function->vendor == 0x1ae0);
}

void add_sockets(Environment& environment, const Node& node) {
  const Network& network = node.network;
  const std::string why = network.fallback_reason.empty() ? "sockets" : network.fallback_reason;
  environment.set("NCCL_NET", "Socket", why + ": no process may try another transport than its peers");
  environment.set("NCCL_IB_DISABLE", "1", why);
  environment.set("NCCL_IBEXT_DISABLE", "1", "the same for the plug-in of HPC-X images");
  environment.set("NCCL_NET_PLUGIN", "none", "no plug-in may take the network over on some ranks");
  add_interface(environment, network);
  const Interface* interface = find_interface(node, network.socket_ifname);
  if (interface && interface->speed_mbps >= 25000 && !tuned_by_nccl(node, *interface)) {
    environment.set("NCCL_SOCKET_NTHREADS", "4", "one socket does not fill 25 Gb/s or more");
    environment.set("NCCL_NSOCKS_PERTHREAD", "4", "likewise");
  }
}

}  // namespace

bool plugin_found(const Node& node) {
  const std::string& fabric = node.network.plugin_fabric;
  const std::string plugin = lower_case(node.host.net_plugin);  // a path, or the name in a log: "AWS Libfabric", "FasTrak"
  if (fabric.empty() || plugin.empty()) return false;
  if (fabric == "efa") return plugin.find("ofi") != plugin.npos || plugin.find("aws") != plugin.npos || plugin.ends_with("libnccl-net.so");
  return plugin.find("tcpx") != plugin.npos || plugin.find("fastrak") != plugin.npos || plugin.ends_with("libnccl-net.so");
}

void choose_environment(Node& node, int num_nodes, bool plugin_everywhere) {
  Network& network = node.network;
  network.environment.clear();
  Environment environment(node);
  if (num_nodes == 1) return;  // a job of one node has no network
  switch (network.transport) {
    case Transport::ib:
    case Transport::roce: return add_rdma(environment, node, num_nodes);
    case Transport::socket:
      if (network.fallback_reason != "peers-cannot" && plugin_everywhere)
        return add_interface(environment, network);  // the plug-in sets its own
      return add_sockets(environment, node);
    case Transport::unknown: return add_interface(environment, network);
  }
}

}  // namespace dsinfer::topology
