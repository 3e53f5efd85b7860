/// More or fewer nodes of the same kind.
#include "plan/search.hpp"

namespace dsinfer {

Fleet nodes_of(const Fleet& fleet, int first, int count) {
  Fleet out = fleet;
  out.nodes = count;
  out.gpus.clear();
  out.node_names.clear();
  const auto per_node = static_cast<size_t>(fleet.gpus_per_node);
  for (int node = 0; node < count; ++node) {
    const int like = first + node < fleet.nodes ? first + node : 0;
    for (size_t i = 0; i < per_node; ++i) {
      FleetGpu gpu = fleet.gpus[static_cast<size_t>(like) * per_node + i];
      gpu.node = node;
      out.gpus.push_back(std::move(gpu));
    }
    const auto named = static_cast<size_t>(first + node);
    out.node_names.push_back(named < fleet.node_names.size() ? fleet.node_names[named] : "node" + std::to_string(first + node));
  }
  return out;
}

}  // namespace dsinfer
