/// What a picture of a node shows, and where: columns of NUMA nodes, in them lanes of what hangs below one host bridge or switch.
#pragma once
#include <string>
#include <vector>

#include "topology/names.hpp"
#include "topology/nics.hpp"

namespace dsinfer::topology {

struct PictureNic {
  Nic nic;
  std::string title;       ///< name, else bus id
  std::string dropped;     ///< reason code; "" if it was not
  bool chosen = false;     ///< carries traffic between nodes
  bool bootstrap = false;  ///< its interface is the one for bootstrap and sockets
  bool down = false;
};

struct Lane {
  std::string bridge;  ///< bus id of the switch or root port above all of it; "" unknown or none
  std::string near;    ///< without a PCI tree: the NIC that a matrix shows these GPUs below one switch or several with
  std::vector<const Gpu*> gpus;
  std::vector<PictureNic> nics;
  size_t nics_left_out = 0;  ///< dropped ones beyond what can be shown
  double gb_per_s = 0;       ///< of the bridge's own link; 0 unknown
};

struct NumaColumn {
  int numa = -1;
  std::vector<Lane> lanes;
};

/// NVLinks between two GPUs, each pair once.
struct PeerLinks {
  size_t a = 0, b = 0;  ///< positions in Node::gpus
  int count = 0;
  double gb_per_s = 0;
};

struct Picture {
  const Node* node = nullptr;
  std::vector<NumaColumn> columns;
  std::vector<PeerLinks> peers;
  bool nvswitch = false;
  double nvswitch_gb_per_s = 0;  ///< of one GPU; 0 unknown
  int nvswitch_links = 0;        ///< of one GPU
};

/// Points into `node`, which must outlive it.
DSINFER_INTERNAL Picture picture_of(const Node& node);
/// "NVIDIA H100 80GB HBM3" → "H100 80GB HBM3".
DSINFER_INTERNAL std::string short_model(const std::string& name);

}  // namespace dsinfer::topology
