#include "topology/checks.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace dsinfer::topology {

bool is_check_code(const std::string& code) {
  static const std::set<std::string> codes = {
      // of one node
      "roce-address-link-local", "gdr-off-by-distance", "gdr-off-no-peermem", "memlock-finite", "nccl-conf-applies", "user-hca-unknown",
      "user-hca-unusable", "user-hca-prefix", "user-hca-mixed", "user-gid-index-wrong", "user-gid-index-no-effect",
      "user-socket-ifname-unknown", "user-socket-ifname-down", "user-socket-ifname-prefix", "user-transport-refused", "no-uverbs",
      "no-rdma-cm", "shm-small", "fabric-manager-off", "acs-redirect", "iommu-translated", "socket-loopback", "socket-link-local",
      "hcas-share-subnet", "socket-fallback", "plugin-fabric", "slow-class-serves-gpus", "choice-judged",
      // between nodes
      "hca-count-differs", "hca-names-differ", "link-layer-differs", "transport-differs", "plugin-differs", "rate-differs",
      "rail-subnet-differs", "gid-index-differs", "mtu-differs", "socket-subnet-differs", "nccl-version-differs", "environment-differs",
      "driver-version-differs", "gpu-count-differs", "gpu-model-differs", "peermem-differs", "firmware-differs", "host-id-equal",
      "peer-unreachable", "rail-unreachable", "rails-isolated", "reach-sampled"};
  return codes.contains(code);
}

void Classes::add(const std::string& value, const std::string& node) {
  if (!value.empty()) nodes_[value].push_back(node);
}

std::vector<std::string> Classes::odd_ones() const {
  size_t largest = 0, total = 0;
  for (const auto& [value, nodes] : nodes_) largest = std::max(largest, nodes.size()), total += nodes.size();
  const bool majority = largest * 2 > total;
  std::vector<std::string> out;
  for (const auto& [value, nodes] : nodes_) {
    if (!majority || nodes.size() != largest) out.insert(out.end(), nodes.begin(), nodes.end());
  }
  return out;
}

std::vector<std::string> Classes::evidence(const std::string& what, size_t most) const {
  std::vector<std::pair<std::string, const std::vector<std::string>*>> order;
  for (const auto& [value, nodes] : nodes_) order.emplace_back(value, &nodes);
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second->size() > b.second->size(); });
  std::vector<std::string> out;
  for (const auto& [value, nodes] : order) {
    if (out.size() == most) {
      out.push_back(fmt::format("{} more values", order.size() - most));
      break;
    }
    out.push_back(fmt::format("{}{}: {}", what.empty() ? "" : what + " ", value, some_names(*nodes)));
  }
  return out;
}

std::string some_names(const std::vector<std::string>& names) {
  constexpr size_t kShown = 4;
  if (names.size() <= kShown) return fmt::format("{}", fmt::join(names, ", "));
  return fmt::format("{} … ({} nodes)", fmt::join(names.begin(), names.begin() + kShown, ", "), names.size());
}

}  // namespace dsinfer::topology
