/// Verbs ports on their way through the drop steps.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "topology/choice.hpp"
#include "topology/distance.hpp"

namespace dsinfer::topology {

/// The name that stands for an HCA everywhere: its verbs name, or its bus id where no source names it.
inline const std::string& name_of(const Hca& hca) { return hca.name.empty() ? hca.bus_id : hca.name; }

struct Candidate {
  const Hca* hca = nullptr;
  HcaPort port;                          ///< link layer concluded where no source states it
  std::vector<std::string> netdevs;
  bool explicitly = false;               ///< the user names this very device
  std::string dropped, text;             ///< code and words of the step that dropped it
  std::string subject() const { return name_of(*hca) + ":" + std::to_string(port.number); }
};

/// link_layer.cpp: as stated, else by GIDs, LID, PCI class, netdev and name; sets `judged` if the class of other functions or a name decided.
LinkLayer link_layer_of_port(const Node& node, const Hca& hca, const HcaPort& port, const std::vector<std::string>& netdevs, bool& judged);
/// Netdevs of a verbs port, by all ways that connect them.
std::vector<std::string> netdevs_of_port(const Node& node, const Hca& hca, const HcaPort& port);
const Interface* find_interface(const Node& node, const std::string& name);
const PciDevice* find_pci(const Node& node, const std::string& bus_id);

/// network_drops.cpp: steps 1 to 10 over all candidates; `user_list` = NCCL_IB_HCA decides instead of the rules of thumb.
void drop_ports(const Node& node, std::vector<Candidate>& candidates, bool user_list, Network& network);

/// network_fabric.cpp: EFA and GCP signs, counts of functions.
void choose_fabric(Node& node);

/// network_socket.cpp: by its name an interface of a container engine or an overlay. NCCL would take most of them.
bool overlay_name(std::string_view name);
/// network_interfaces.cpp: Network::socket_ifname of all nodes.
void choose_interfaces(Cluster& cluster);

/// network_subnet.cpp: "10.0.0.0/24" of an address; "" where the prefix is unknown.
std::string subnet_of(const Address& address);
/// That of the interface's first address that is not link-local.
std::string subnet_of(const Interface& interface);
bool link_local(const std::string& ip);

}  // namespace dsinfer::topology
