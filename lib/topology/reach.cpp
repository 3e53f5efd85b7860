#include "topology/reach.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/bytes.hpp"

namespace dsinfer::topology {
namespace {

// Mixes the bits of a number. Source: splitmix64, Steele, Lea, Flood 2014.
uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

bool over_rdma(const Reach& reach) { return reach.over.rfind("rdma", 0) == 0; }
bool across_rails(const Reach& reach) { return reach.over.rfind(kCrossRail, 0) == 0; }

std::string advice_for(const std::string& error, bool rdma) {
  const auto has = [&](const char* words) { return error.find(words) != error.npos; };
  if (rdma) return "check cabling, VLAN and subnet of this rail, its GID index, and that UDP port 4791 passes (RoCE); or leave this HCA out with NCCL_IB_HCA";
  if (has("same address")) return "choose an interface whose address is this node's own: NCCL_SOCKET_IFNAME";
  if (has("refused")) return "a firewall rejects the connection: open the TCP ports between the nodes (NCCL and Gloo take any)";
  if (has("somebody else")) return "look for a second machine with this address (ip neigh, arping)";
  if (has("large")) return "a switch or tunnel between them passes smaller frames than the interfaces send: lower the interfaces' MTU or raise the switch's";
  if (has("unreachable") || has("Invalid argument") || has("no address family") || has("Permission denied"))
    return "give both interfaces addresses in one subnet or a route between them (ip route get), or name another interface in NCCL_SOCKET_IFNAME";
  return "check firewall, VLAN, subnet and the route back (rp_filter), or name another interface in NCCL_SOCKET_IFNAME";
}

/// Failures between two nodes, or of one node with all its peers.
struct Failures {
  std::vector<std::string> evidence;
  std::string first_error;
  std::set<std::pair<int, int>> directions;
};

std::string line_of(const Cluster& cluster, const Reach& reach) {
  const auto name = [&](int node) { return cluster.nodes[static_cast<size_t>(node)].name; };
  return fmt::format("{} → {} ({}): {}", name(reach.from), name(reach.to), reach.over, reach.error);
}

void add(Failures& failures, const Cluster& cluster, const Reach& reach) {
  if (failures.first_error.empty()) failures.first_error = reach.error;
  if (failures.evidence.size() < 8) failures.evidence.push_back(line_of(cluster, reach));
  failures.directions.insert({reach.from, reach.to});
}

void pair_findings(const Cluster& cluster, bool rdma, std::vector<Finding>& findings) {
  const size_t before = findings.size();
  std::map<int, int> tested, broken;
  std::map<std::pair<int, int>, Failures> pairs;
  const int num_nodes = static_cast<int>(cluster.nodes.size());
  std::set<std::pair<int, int>> seen;
  for (const Reach& reach : cluster.reach) {
    if (over_rdma(reach) != rdma || across_rails(reach) || reach.from < 0 || reach.to < 0 || reach.from >= num_nodes || reach.to >= num_nodes) continue;
    const std::pair pair{std::min(reach.from, reach.to), std::max(reach.from, reach.to)};
    if (seen.insert(pair).second) ++tested[pair.first], ++tested[pair.second];
    if (!reach.ok) add(pairs[pair], cluster, reach);
  }
  for (const auto& [pair, failures] : pairs) ++broken[pair.first], ++broken[pair.second];
  const char* code = rdma ? "rail-unreachable" : "peer-unreachable";
  const auto name = [&](int node) { return cluster.nodes[static_cast<size_t>(node)].name; };
  std::set<int> told;
  for (const auto& [node, count] : broken) {  // one node that nobody reaches is one finding, not one for each of its peers
    if (count < 2 || count < tested[node]) continue;
    const bool all = std::all_of(broken.begin(), broken.end(), [&](const auto& other) { return other.second == tested[other.first]; });
    if (all && broken.size() == tested.size()) continue;  // nobody reaches anybody: tell the pairs
    Failures sum;
    for (const auto& [pair, failures] : pairs) {
      if (pair.first != node && pair.second != node) continue;
      if (sum.first_error.empty()) sum.first_error = failures.first_error;
      if (sum.evidence.size() < 8) sum.evidence.push_back(failures.evidence.front());
    }
    told.insert(node);
    findings.push_back({code, Severity::error, {name(node)}, fmt::format("{}{} and its {} peers do not reach each other", rdma ? "over RDMA " : "", name(node), count),
                        std::move(sum.evidence), advice_for(sum.first_error, rdma)});
  }
  constexpr size_t kMost = 32;  // of this kind: what stands in the list already is another's
  size_t more = 0;
  for (auto& [pair, failures] : pairs) {
    if (told.count(pair.first) || told.count(pair.second)) continue;
    if (findings.size() - before >= kMost && ++more) continue;
    const bool both = failures.directions.size() > 1;
    const auto [from, to] = *failures.directions.begin();
    findings.push_back({code, Severity::error, {name(pair.first), name(pair.second)},
                        fmt::format("{} {} {}{}", name(from), both ? "and" : "does not reach", name(to),
                                    both ? fmt::format(" do not reach each other{}", rdma ? " over RDMA" : "") : rdma ? " over RDMA" : ", but is reached from there"),
                        std::move(failures.evidence), advice_for(failures.first_error, rdma)});
  }
  if (more > 0) findings.back().text += fmt::format("; so it is with {} more pairs", more);
}

}  // namespace

std::vector<std::pair<int, int>> reach_pairs(int num_nodes) {
  std::set<std::pair<int, int>> pairs;
  const auto both = [&](int a, int b) {
    if (a != b) pairs.insert({a, b}), pairs.insert({b, a});
  };
  for (int a = 0; a < num_nodes; ++a) {
    if (num_nodes <= kMostNodesInFull) {
      for (int b = a + 1; b < num_nodes; ++b) both(a, b);
      continue;
    }
    constexpr int kSample = 8;
    both(a, (a + 1) % num_nodes);
    for (int i = 0; i < kSample; ++i) {
      both(a, static_cast<int>(mixed(static_cast<uint64_t>(a) * kSample + static_cast<uint64_t>(i)) % static_cast<uint64_t>(num_nodes)));
    }
  }
  return {pairs.begin(), pairs.end()};
}

std::optional<bool> rails_are_isolated(const std::vector<Reach>& reach) {
  int same = 0, same_good = 0, across = 0, across_good = 0;
  for (const Reach& r : reach) {
    if (!over_rdma(r)) continue;
    ++(across_rails(r) ? across : same);
    if (r.ok) ++(across_rails(r) ? across_good : same_good);
  }
  if (across == 0 || same == 0 || same_good < same) return std::nullopt;  // what fails within a rail says nothing of the way between rails
  return across_good == 0 ? std::optional(true) : across_good == across ? std::optional(false) : std::nullopt;
}

std::vector<Finding> reach_findings(const Cluster& cluster) {
  std::vector<Finding> findings;
  if (cluster.reach.empty()) return findings;
  pair_findings(cluster, false, findings);
  pair_findings(cluster, true, findings);
  if (rails_are_isolated(cluster.reach) == true) {
    const auto example = std::find_if(cluster.reach.begin(), cluster.reach.end(), across_rails);
    findings.push_back({"rails-isolated", Severity::info, {}, "each rail reaches its like on the other nodes, but rails do not reach each other", {line_of(cluster, *example)},
                        "nothing: NCCL_CROSS_NIC=0 keeps rings on their rail; PXN must stay on"});
  }
  if (cluster.nodes.size() > kMostNodesInFull) {
    std::set<std::pair<int, int>> pairs;
    for (const Reach& reach : cluster.reach) pairs.insert({std::min(reach.from, reach.to), std::max(reach.from, reach.to)});
    findings.push_back({"reach-sampled", Severity::info, {},
                        fmt::format("{} of {} pairs of nodes were tested: each node with its neighbour in the list and with a sample", pairs.size(),
                                    cluster.nodes.size() * (cluster.nodes.size() - 1) / 2),
                        {}, "nothing; a test of all pairs is made up to " + std::to_string(kMostNodesInFull) + " nodes"});
  }
  return findings;
}

std::vector<Reach> share_reach(World& world, const std::vector<Reach>& mine) {
  ByteWriter out;
  out.put<uint64_t>(mine.size());
  for (const Reach& reach : mine) {
    out.put<int32_t>(reach.from);
    out.put<int32_t>(reach.to);
    out.put<uint8_t>(reach.ok);
    out.put(reach.round_trip_us);
    out.put_text(reach.over);
    out.put_text(reach.error);
  }
  std::vector<Reach> all;
  for (const std::string& bytes : world.all_gather(out.take())) {
    ByteReader in(bytes);
    for (auto left = in.get<uint64_t>(); left > 0; --left) {
      Reach reach;
      reach.from = in.get<int32_t>();
      reach.to = in.get<int32_t>();
      reach.ok = in.get<uint8_t>() != 0;
      reach.round_trip_us = in.get<double>();
      reach.over = in.get_text();
      reach.error = in.get_text();
      all.push_back(std::move(reach));
    }
  }
  return all;
}

}  // namespace dsinfer::topology
