#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <set>

#include "core/bytes.hpp"
#include "core/outcome.hpp"
#include "topology/probes.hpp"
#include "topology/reach.hpp"
#include "topology/tree.hpp"

namespace dsinfer {
namespace {

using namespace topology;

std::string link_text(const char* path) {
  std::array<char, 256> text{};
  const ssize_t size = readlink(path, text.data(), text.size());
  return size > 0 ? std::string(text.data(), static_cast<size_t>(size)) : "";
}

// Ranks with equal keys run on one host. The boot id tells kernels apart, but clones of a virtual machine may share it, and containers on one
// kernel do: so the namespaces and the addresses of physical interfaces count too.
std::string host_key(const ProbeOptions& options) {
  const auto machine = folder_tree(options.root);
  const auto line = [&](const char* path) { return machine->line(path).value_or(""); };
  std::string key = line("proc/sys/kernel/random/boot_id");
  if (options.root != "/") {
    key += "|" + line("proc/sys/kernel/hostname") + "|" + line("etc/hostname") + "|" + line("etc/machine-id");
    return key.find_first_not_of('|') == key.npos ? options.root : key;
  }
  key += "|" + host_name() + "|" + link_text("/proc/self/ns/net") + "|" + link_text("/proc/self/ns/pid");
  if (!options.netlink) return key;
  for (const Interface& interface : probe_netlink().interfaces) {
    if (interface.kind == "physical") key += "|" + interface.mac;
  }
  return key;
}

/// Which ranks share a host.
struct Hosts {
  std::vector<int> node_of_rank;
  std::vector<int> speaker;  ///< of each node: its first rank
};

Hosts hosts_of(const std::vector<std::string>& keys) {
  Hosts hosts;
  std::map<std::string, int> seen;
  for (size_t rank = 0; rank < keys.size(); ++rank) {
    const auto [at, fresh] = seen.emplace(keys[rank], static_cast<int>(hosts.speaker.size()));
    if (fresh) hosts.speaker.push_back(static_cast<int>(rank));
    hosts.node_of_rank.push_back(at->second);
  }
  return hosts;
}

// A speaker's message: what it wants of the reach test, then its facts. Rank 0, always a speaker, decides for all: a rank that left the test out
// alone would leave the others waiting for it.
constexpr size_t kOptionBytes = sizeof(uint8_t) + sizeof(int64_t);

std::string pack(const GatherOptions& options, const std::string& facts) {
  ByteWriter out;
  out.put<uint8_t>(options.check_reach);
  out.put<int64_t>(options.reach_timeout.count());
  return out.take() + facts;
}
std::string_view facts_of(std::string_view message) { return message.substr(std::min(kOptionBytes, message.size())); }
void take_options(std::string_view message, GatherOptions& options) {
  ByteReader in(message);
  options.check_reach = in.get<uint8_t>() != 0;
  options.reach_timeout = std::chrono::milliseconds(in.get<int64_t>());
}

void give_unique_names(Cluster& cluster) {
  std::set<std::string> taken;
  for (const Node& node : cluster.nodes) taken.insert(node.name);
  std::set<std::string> given;
  for (Node& node : cluster.nodes) {
    const std::string name = node.name.empty() ? "node" : node.name;
    std::string unique = name;
    for (int i = 2; given.count(unique) || (unique != node.name && taken.count(unique)); ++i) unique = fmt::format("{}-{}", name, i);
    for (Finding& finding : node.findings) std::replace(finding.nodes.begin(), finding.nodes.end(), node.name, unique);
    given.insert(node.name = unique);
  }
}

// A clock's reading before and after a meeting of all ranks. All ranks are in the meeting at some instant: two clocks whose intervals lie apart
// differ by at least the gap.
struct ClockReading {
  double before = 0, after = 0;
};

std::vector<ClockReading> read_clocks(World& world) {
  const auto now = [] { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); };
  world.all_gather("");  // brings the ranks together, so that the next meeting is short
  ClockReading reading;
  reading.before = now();
  world.all_gather("");
  reading.after = now();
  ByteWriter out;
  out.put(reading);
  std::vector<ClockReading> all;
  for (const std::string& bytes : world.all_gather(out.take())) all.push_back(ByteReader(bytes).get<ClockReading>());
  return all;
}

std::optional<Finding> clock_finding(const Cluster& cluster, const Hosts& hosts, const std::vector<ClockReading>& clocks) {
  Finding finding{"clock-differs", Severity::info, {}, "", {}, "run a time service (chrony, ntpd): logs of the nodes cannot be merged by time"};
  const ClockReading& first = clocks[static_cast<size_t>(hosts.speaker[0])];
  double most = 0;
  for (size_t node = 1; node < cluster.nodes.size(); ++node) {
    const ClockReading& here = clocks[static_cast<size_t>(hosts.speaker[node])];
    const double gap = std::max(here.before - first.after, first.before - here.after);
    if (gap <= 1) continue;
    most = std::max(most, gap);
    finding.nodes.push_back(cluster.nodes[node].name);
    finding.evidence.push_back(fmt::format("{} is {:.1f} s {} {}", cluster.nodes[node].name, gap, here.before > first.after ? "ahead of" : "behind", cluster.nodes[0].name));
  }
  if (finding.nodes.empty()) return std::nullopt;
  finding.text = fmt::format("clocks differ by up to {:.1f} s", most);
  return finding;
}

bool has_rdma(const Cluster& cluster) {
  return std::count_if(cluster.nodes.begin(), cluster.nodes.end(), [](const Node& node) { return !node.network.ports.empty(); }) > 1;
}

void test_reach(World& world, const GatherOptions& options, int node, Cluster& cluster) {
  const ReachTest test{cluster, node, std::clamp(options.reach_timeout, std::chrono::milliseconds(10), std::chrono::milliseconds(600000))};
  std::vector<Reach> reach = reach_tcp(world, test);
  if (has_rdma(cluster)) {
    const std::vector<Reach> rails = reach_rdma(world, test, options.probe.verbs_library);
    reach.insert(reach.end(), rails.begin(), rails.end());
  }
  cluster.reach = std::move(reach);
  const auto isolated = rails_are_isolated(cluster.reach);
  for (Node& each : cluster.nodes) {
    if (isolated && !each.network.rails_isolated) each.network.rails_isolated = isolated;
  }
}

}  // namespace

Cluster gather(World& world, const GatherOptions& options) {
  std::string key, facts;
  in_agreement(world, [&] { key = host_key(options.probe); });
  const Hosts hosts = hosts_of(world.all_gather(key));
  const int node = hosts.node_of_rank[static_cast<size_t>(world.rank())];
  const bool speaks = hosts.speaker[static_cast<size_t>(node)] == world.rank();
  in_agreement(world, [&] {
    if (!speaks) return;
    Cluster mine;
    mine.nodes.push_back(probe_node(options.probe));
    facts = pack(options, mine.to_json());
  });
  const std::vector<std::string> all = world.all_gather(facts);
  Cluster cluster;
  GatherOptions agreed = options;
  in_agreement(world, [&] {
    cluster.node_of_rank = hosts.node_of_rank;
    take_options(all[0], agreed);
    for (const int rank : hosts.speaker) cluster.nodes.push_back(std::move(Cluster::from_json(facts_of(all[static_cast<size_t>(rank)])).nodes.at(0)));
    give_unique_names(cluster);
    choose_network(cluster);
  });
  const std::vector<ClockReading> clocks = read_clocks(world);
  if (cluster.nodes.size() > 1 && agreed.check_reach) test_reach(world, agreed, speaks ? node : -1, cluster);
  in_agreement(world, [&] {
    if (!cluster.reach.empty()) choose_network(cluster);  // its checks tell what was not reached
    if (auto finding = clock_finding(cluster, hosts, clocks)) cluster.findings.push_back(std::move(*finding));
  });
  return cluster;
}

}  // namespace dsinfer
