/// The network cards of a node as a reader counts them: each once, whichever sources know of it.
#pragma once
#include <string>
#include <vector>

#include "topology/names.hpp"

namespace dsinfer::topology {

struct Nic {
  std::string name;      ///< verbs name, else the interface's; "" where only the PCI function is known
  std::string bus_id;
  std::string kind;      ///< "hca", "interface", "pci"
  LinkLayer link_layer = LinkLayer::unknown;
  int ports = 0;         ///< of an HCA; 0 unknown
  double rate_gbps = 0;  ///< of its fastest active port; 0 unknown
  int numa = -1;
  std::string physical_function;  ///< of a virtual function
  std::vector<std::string> netdevs;
};

/// HCAs, then physical interfaces that belong to no HCA, then network functions of PCI that nothing else names.
DSINFER_INTERNAL std::vector<Nic> nics_of(const Node& node);

}  // namespace dsinfer::topology
