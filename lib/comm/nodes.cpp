#include "comm/nodes.hpp"

#include <map>

#include "core/outcome.hpp"

namespace dsinfer {

Nodes share_nodes(World& world, const std::string& host) {
  Nodes nodes;
  std::map<std::string, int> seen;
  const std::vector<std::string> all = world.all_gather(host);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const auto [at, fresh] = seen.emplace(all[rank], nodes.count());
    if (fresh) {
      nodes.hosts.push_back(all[rank]);
      nodes.first_rank.push_back(static_cast<int>(rank));
    }
    nodes.of_rank.push_back(at->second);
  }
  nodes.mine = nodes.of_rank[static_cast<size_t>(world.rank())];
  nodes.ranks = 0;
  for (int rank = 0; rank < world.size(); ++rank) {
    if (nodes.of_rank[static_cast<size_t>(rank)] != nodes.mine) continue;
    if (rank < world.rank()) ++nodes.index;
    ++nodes.ranks;
  }
  return nodes;
}

Nodes share_nodes(World& world) { return share_nodes(world, host_name()); }

}  // namespace dsinfer
