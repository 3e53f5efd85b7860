/// Nodes that are alike but for what must differ (names, addresses, serial numbers): a thousand nodes are shown as the few kinds that they are.
#pragma once
#include <string>
#include <vector>

#include "topology/names.hpp"

namespace dsinfer::topology {

struct NodeClass {
  std::vector<int> members;  ///< indexes in Cluster::nodes, ascending; the first stands for all
};

DSINFER_INTERNAL std::vector<NodeClass> node_classes(const Cluster& cluster);
/// "n2, n3 … n64 (63)".
DSINFER_INTERNAL std::string names_of(const Cluster& cluster, const std::vector<int>& members, size_t most = 6);

}  // namespace dsinfer::topology
