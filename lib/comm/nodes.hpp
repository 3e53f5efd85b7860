/// Nodes: which ranks of a World share a machine.
#pragma once
#include <string>
#include <vector>

#include "dsinfer/world.hpp"

namespace dsinfer {

struct Nodes {
  std::vector<int> of_rank;        ///< rank → node; nodes are numbered in the order of their first ranks
  std::vector<std::string> hosts;  ///< names
  std::vector<int> first_rank;
  int mine = 0;                    ///< this rank's node
  int index = 0, ranks = 1;        ///< this rank among those of its node

  int count() const { return static_cast<int>(hosts.size()); }
};

/// Collective. Ranks that give one host name form a node.
DSINFER_INTERNAL Nodes share_nodes(World& world, const std::string& host);
/// With the name of this machine.
DSINFER_INTERNAL Nodes share_nodes(World& world);

}  // namespace dsinfer
