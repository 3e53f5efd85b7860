// A fleet from words.
#include <fmt/format.h>

#include "dsinfer/error.hpp"
#include "plan/fleet.hpp"

namespace dsinfer {
namespace {

constexpr int kMostGpusPerNode = 64, kMostGpus = 1 << 17, kMostNodes = kMostGpus;  // larger than any cluster, and answered in seconds

void check_count(const char* field, int64_t value, int64_t most) {
  if (value < 1 || value > most) throw Error(Error::invalid_argument, fmt::format("{} is {}, expected 1 … {}", field, value, most));
}

}  // namespace

void check_size(int64_t nodes, int64_t gpus_per_node) {
  check_count("nodes", nodes, kMostNodes);
  check_count("gpus_per_node", gpus_per_node, kMostGpusPerNode);
  if (nodes * gpus_per_node > kMostGpus)
    throw Error(Error::invalid_argument, fmt::format("nodes · gpus_per_node = {} · {} = {}, expected at most {}", nodes, gpus_per_node, nodes * gpus_per_node, kMostGpus));
}

LinkKind with_rate_of(LinkKind link, const GpuKind& gpu) {
  if (link.gb_per_s > 0) return link;
  if (link.transport == "nvlink") {
    if (gpu.nvlink_gb_per_s <= 0) throw Error(Error::invalid_argument, fmt::format("link \"{}\": gpu \"{}\" has no NVLink; say pcie", link.id, gpu.id));
    link.gb_per_s = gpu.nvlink_gb_per_s;
  } else {
    link.gb_per_s = gpu.pcie_gb_per_s;
  }
  return link;
}

Fleet describe_fleet(const Catalogue& catalogue, int nodes, int gpus_per_node, std::string_view gpu, std::string_view between, std::string_view inside) {
  check_size(nodes, gpus_per_node);
  Fleet fleet;
  fleet.nodes = nodes;
  fleet.gpus_per_node = gpus_per_node;
  fleet.gpu = catalogue.gpu(gpu);
  const std::string within = !inside.empty() ? std::string(inside) : is_host(fleet.gpu) ? "shared-memory" : fleet.gpu.nvlink_gb_per_s > 0 ? "nvlink" : "pcie";
  fleet.inside = with_rate_of(catalogue.link(within, gpus_per_node), fleet.gpu);
  if (!between.empty()) {
    fleet.between = with_rate_of(catalogue.link(between, gpus_per_node), fleet.gpu);
    const bool network = fleet.between.gbps > 0;
    fleet.nics_per_node = network ? fleet.between.nics : 0;
  } else if (nodes > 1) {
    throw Error(Error::invalid_argument, fmt::format("link: {} nodes have to be joined by something: say roce400x8, ib200x1, socket25x1, …", nodes));
  } else {
    fleet.between = catalogue.link("socket", gpus_per_node);
    fleet.notes.push_back(fmt::format("no network was named: {} is assumed where more nodes are considered", fleet.between.source));
  }
  const bool nvlink = fleet.inside.transport == "nvlink";
  std::vector<FleetGpu> of_node;
  for (int i = 0; i < gpus_per_node; ++i) of_node.push_back({0, fmt::format("{}{}", is_host(fleet.gpu) ? "CPU" : "GPU", i), nvlink ? 0 : i});
  fleet.gpus.reserve(static_cast<size_t>(nodes) * of_node.size());
  for (int node = 0; node < nodes; ++node) {
    fleet.node_names.push_back("node" + std::to_string(node));
    for (FleetGpu& place : of_node) place.node = node;
    fleet.gpus.insert(fleet.gpus.end(), of_node.begin(), of_node.end());
  }
  return fleet;
}

}  // namespace dsinfer
