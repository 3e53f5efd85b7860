/// Proof that the nodes reach each other over what was chosen: pair by pair, both directions, every wait with a deadline.
#pragma once
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "topology/names.hpp"

namespace dsinfer::topology {

/// What a test is given, on every rank alike but for `node`.
struct ReachTest {
  const Cluster& cluster;
  int node = -1;  ///< the node that this rank speaks for; -1: another rank of its host does
  std::chrono::milliseconds timeout{3000};
};

constexpr int kMostNodesInFull = 64;
/// Ordered pairs of nodes to test: all; above kMostNodesInFull nodes a ring and a sample, the same on every rank.
DSINFER_INTERNAL std::vector<std::pair<int, int>> reach_pairs(int num_nodes);

/// Collective. An echo over TCP between the chosen socket interfaces, small and then larger than any frame. The same answer on all ranks.
DSINFER_INTERNAL std::vector<Reach> reach_tcp(World& world, const ReachTest& test);
/// Collective. A write of 64 bytes there and back over each pair of chosen ports of one rail, and over one pair of different rails.
DSINFER_INTERNAL std::vector<Reach> reach_rdma(World& world, const ReachTest& test, const std::string& verbs_library);

/// How Reach::over begins for ports of different rails: these need not reach each other.
constexpr const char* kCrossRail = "rdma across";
/// Whether rails are cut off from each other: each rail reaches its like, but no other. Nothing if that was not tested.
DSINFER_INTERNAL std::optional<bool> rails_are_isolated(const std::vector<Reach>& reach);

/// What Cluster::reach means, as findings: "peer-unreachable", "rail-unreachable", "reach-sampled".
DSINFER_INTERNAL std::vector<Finding> reach_findings(const Cluster& cluster);

/// Collective. Every rank's results, in rank order.
DSINFER_INTERNAL std::vector<Reach> share_reach(World& world, const std::vector<Reach>& mine);
/// How long a test of this rank still serves its peers after its own deadline: they may have begun later.
constexpr std::chrono::milliseconds kReachGrace{500};

}  // namespace dsinfer::topology
