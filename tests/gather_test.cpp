// Ranks that find out together which nodes they run on and how these reach each other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "dsinfer/cluster.hpp"
#include "fakes/fake_verbs.hpp"
#include "ranks.hpp"
#include "topology/reach.hpp"
#include "topology/shared_library.hpp"

namespace dsinfer::topology {
namespace {

using namespace std::chrono_literals;
using test::on_threads;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

GatherOptions without_libraries() {
  GatherOptions options;
  options.probe.nvml_library = options.probe.verbs_library = options.probe.nccl_library = "";
  options.probe.environment = std::vector<std::string>{};
  return options;
}

// ---- which ranks share a node

/// Roots of pretended hosts, one folder each.
class Gather : public ::testing::Test {
 protected:
  std::filesystem::path folder = std::filesystem::temp_directory_path() / ("dsinfer_gather_" + std::to_string(::getpid()));
  void TearDown() override { std::filesystem::remove_all(folder); }

  std::string host(const std::string& root, const std::string& name, const std::string& boot_id) {
    write(root, "proc/sys/kernel/hostname", name + "\n");
    write(root, "proc/sys/kernel/random/boot_id", boot_id + "\n");
    write(root, "proc/sys/kernel/ostype", "Linux\n");
    return (folder / root).string();
  }
  void write(const std::string& root, const std::string& path, const std::string& text) {
    std::filesystem::create_directories((folder / root / path).parent_path());
    std::ofstream(folder / root / path) << text;
  }
};

TEST_F(Gather, RanksOfOneProcessAreOneNode) {
  std::vector<std::string> json(4);
  on_threads(4, [&](World& world) {
    const Cluster cluster = gather(world, without_libraries());
    json[static_cast<size_t>(world.rank())] = cluster.to_json();
    EXPECT_EQ(cluster.nodes.size(), 1u);
    EXPECT_THAT(cluster.node_of_rank, ElementsAre(0, 0, 0, 0));
    EXPECT_THAT(cluster.reach, IsEmpty());
  });
  for (const std::string& other : json) EXPECT_EQ(other, json[0]);
}

TEST_F(Gather, RanksFollowTheirHostsAndAllSeeTheSame) {
  const std::vector<std::string> roots = {host("b", "beta", "1111"), host("a", "alpha", "2222"), host("b", "beta", "1111"), host("c", "gamma", "3333")};
  std::vector<std::string> json(4);
  on_threads(4, [&](World& world) {
    GatherOptions options = without_libraries();
    options.check_reach = false;
    options.probe.root = roots[static_cast<size_t>(world.rank())];
    const Cluster cluster = gather(world, options);
    json[static_cast<size_t>(world.rank())] = cluster.to_json();
    EXPECT_THAT(cluster.node_of_rank, ElementsAre(0, 1, 0, 2));
    ASSERT_EQ(cluster.nodes.size(), 3u);
    EXPECT_EQ(cluster.nodes[0].name, "beta");
    EXPECT_EQ(cluster.nodes[1].name, "alpha");
    EXPECT_EQ(cluster.nodes[2].name, "gamma");
  });
  for (const std::string& other : json) EXPECT_EQ(other, json[0]);
}

TEST_F(Gather, HostsOfOneNameAreToldApart) {
  const std::vector<std::string> roots = {host("a", "node", "1"), host("b", "node", "2"), host("c", "node-2", "3"), host("d", "node", "4")};
  on_threads(4, [&](World& world) {
    GatherOptions options = without_libraries();
    options.check_reach = false;
    options.probe.root = roots[static_cast<size_t>(world.rank())];
    const Cluster cluster = gather(world, options);
    std::vector<std::string> names;
    for (const Node& node : cluster.nodes) names.push_back(node.name);
    EXPECT_THAT(names, ElementsAre("node", "node-3", "node-2", "node-4"));
  });
}

TEST_F(Gather, RankZeroDecidesOnTheReachTest) {
  const std::vector<std::string> roots = {host("a", "alpha", "1"), host("b", "beta", "2")};
  for (const int tester : {0, 1}) {
    on_threads(2, [&](World& world) {
      GatherOptions options = without_libraries();
      options.check_reach = world.rank() == tester;
      options.probe.root = roots[static_cast<size_t>(world.rank())];
      EXPECT_EQ(gather(world, options).reach.size(), tester == 0 ? 2u : 0u);
    });
  }
}

TEST_F(Gather, WhatFailsOnOneRankFailsOnAll) {
  std::atomic<int> failed{0};
  on_threads(3, [&](World& world) {
    if (world.rank() == 1) {
      world.report_failure("the user pressed stop");
      return;
    }
    try {
      gather(world, without_libraries());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Error::group_failed);
      ++failed;
    }
  });
  EXPECT_EQ(failed, 2);
}

// ---- reachability

Node node_on(const std::string& name, const std::string& ifname, std::vector<Address> addresses) {
  Node node;
  node.name = node.host.name = name;
  Interface interface;
  interface.name = ifname;
  interface.addresses = std::move(addresses);
  node.interfaces.push_back(interface);
  node.network.socket_ifname = ifname;
  return node;
}

// Each rank speaks for the node of its own number; what every rank found must be the same.
Cluster reach_by_tcp(Cluster cluster, std::chrono::milliseconds timeout = 3000ms) {
  std::mutex mutex;
  std::vector<Reach> first;
  on_threads(static_cast<int>(cluster.nodes.size()), [&](World& world) {
    const std::vector<Reach> reach = reach_tcp(world, {cluster, world.rank(), timeout});
    const std::lock_guard lock(mutex);
    if (first.empty()) first = reach;
    EXPECT_EQ(reach, first);
  });
  cluster.reach = first;
  return cluster;
}

TEST(ReachTcp, EveryNodeReachesEveryOther) {
  Cluster cluster;
  for (int i = 0; i < 5; ++i) cluster.nodes.push_back(node_on("n" + std::to_string(i), "lo", {{"127.0.0." + std::to_string(i + 1), 8}}));
  cluster = reach_by_tcp(cluster);
  EXPECT_EQ(cluster.reach.size(), 20u);
  for (const Reach& reach : cluster.reach) {
    EXPECT_TRUE(reach.ok) << reach.error;
    EXPECT_GT(reach.round_trip_us, 0);
  }
  EXPECT_EQ(cluster.reach[0].over, "socket lo → 127.0.0.2");
  EXPECT_THAT(reach_findings(cluster), IsEmpty());
}

TEST(ReachTcp, NodesWithoutAUsableAddressAreNamedAtOnce) {
  Cluster cluster;
  cluster.nodes = {node_on("good", "lo", {{"127.0.0.1", 8}}), node_on("fine", "lo", {{"127.0.0.2", 8}}), node_on("bare", "lo", {}),
                   node_on("foreign", "lo", {{"203.0.113.77", 24}}), node_on("twin", "lo", {{"127.0.0.1", 8}})};
  const auto begin = std::chrono::steady_clock::now();
  cluster = reach_by_tcp(cluster, 10000ms);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 8s);  // nothing here is worth waiting for
  const auto error = [&](int from, int to) {
    for (const Reach& reach : cluster.reach)
      if (reach.from == from && reach.to == to) return reach.ok ? "ok" : reach.error;
    return std::string("not tested");
  };
  EXPECT_EQ(error(0, 1), "ok");
  EXPECT_EQ(error(1, 0), "ok");
  EXPECT_EQ(error(1, 4), "ok");
  EXPECT_THAT(error(0, 2), HasSubstr("lo of bare has no address"));
  EXPECT_THAT(error(2, 0), HasSubstr("lo of bare has no address"));
  EXPECT_THAT(error(1, 3), HasSubstr("cannot listen on 203.0.113.77"));
  EXPECT_THAT(error(0, 4), HasSubstr("same address 127.0.0.1"));
  const std::vector<Finding> findings = reach_findings(cluster);
  ASSERT_EQ(findings.size(), 3u);
  EXPECT_EQ(findings[0].nodes, std::vector<std::string>{"bare"});
  EXPECT_EQ(findings[1].nodes, std::vector<std::string>{"foreign"});
  EXPECT_THAT(findings[2].nodes, ElementsAre("good", "twin"));
  for (const Finding& finding : findings) {
    EXPECT_EQ(finding.code, "peer-unreachable");
    EXPECT_EQ(finding.severity, Severity::error);
    EXPECT_FALSE(finding.advice.empty());
  }
}

TEST(ReachTcp, FamiliesMustMeet) {
  Cluster cluster;
  cluster.nodes = {node_on("four", "lo", {{"127.0.0.1", 8}}), node_on("six", "lo", {{"::1", 128}}), node_on("both", "lo", {{"::1", 128}, {"127.0.0.3", 8}})};
  cluster = reach_by_tcp(cluster);
  int refused = 0;
  for (const Reach& reach : cluster.reach) refused += reach.error.find("no address family in common") != std::string::npos;
  EXPECT_EQ(refused, 2);
}

// The port on which this process's network namespace listens at 127.0.0.77, once it does; 0 if it never does.
uint16_t listening_port() {
  for (int i = 0; i < 500; ++i) {
    std::ifstream table("/proc/self/net/tcp");
    for (std::string line; std::getline(table, line);) {
      std::istringstream words(line);
      std::string slot, local, remote, state;
      words >> slot >> local >> remote >> state;
      if (state == "0A" && local.rfind("4D00007F:", 0) == 0) return static_cast<uint16_t>(std::stoul(local.substr(9), nullptr, 16));
    }
    std::this_thread::sleep_for(10ms);
  }
  return 0;
}

TEST(ReachTcp, StrangersThatSayNothingMakeRoom) {
  Cluster cluster;
  cluster.nodes = {node_on("a", "lo", {{"127.0.0.77", 8}}), node_on("b", "lo", {{"127.0.0.78", 8}})};
  std::vector<int> strangers;
  on_threads(2, [&](World& world) {
    if (world.rank() == 1) {  // before this rank comes, the first listens already and takes strangers only
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_addr.s_addr = htonl(0x7f00004d);
      address.sin_port = htons(listening_port());
      for (int i = 0; address.sin_port != 0 && i < 100; ++i) {
        strangers.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        EXPECT_EQ(0, connect(strangers.back(), reinterpret_cast<const sockaddr*>(&address), sizeof address));
      }
    }
    for (const Reach& reach : reach_tcp(world, {cluster, world.rank(), 10000ms})) EXPECT_TRUE(reach.ok) << reach.error;
  });
  EXPECT_EQ(strangers.size(), 100u) << "the listener was not found";
  for (const int stranger : strangers) close(stranger);
}

TEST(ReachTcp, ARankThatIsGoneEndsTheTest) {
  Cluster cluster;
  for (int i = 0; i < 3; ++i) cluster.nodes.push_back(node_on("n" + std::to_string(i), "lo", {{"127.0.0." + std::to_string(i + 1), 8}}));
  std::atomic<int> failed{0};
  on_threads(3, [&](World& world) {
    if (world.rank() == 2) return world.report_failure("power is out");
    EXPECT_THROW(reach_tcp(world, {cluster, world.rank(), 3000ms}), Error);
    ++failed;
  });
  EXPECT_EQ(failed, 2);
}

TEST(ReachTcp, SilentRanksOfAHostTakePart) {
  Cluster cluster;
  cluster.nodes = {node_on("a", "lo", {{"127.0.0.1", 8}}), node_on("b", "lo", {{"127.0.0.2", 8}})};
  on_threads(4, [&](World& world) {
    const int node = world.rank() % 2 == 0 ? world.rank() / 2 : -1;
    const std::vector<Reach> reach = reach_tcp(world, {cluster, node, 3000ms});
    ASSERT_EQ(reach.size(), 2u);
    EXPECT_TRUE(reach[0].ok && reach[1].ok);
  });
}

TEST(ReachPairs, AreAllOfFewAndASampleOfMany) {
  EXPECT_THAT(reach_pairs(1), IsEmpty());
  EXPECT_EQ(reach_pairs(64).size(), 64u * 63);
  const auto pairs = reach_pairs(1000);
  EXPECT_LT(pairs.size(), 1000u * 20);
  const std::set<std::pair<int, int>> all(pairs.begin(), pairs.end());
  EXPECT_EQ(all.size(), pairs.size());
  for (const auto& [from, to] : pairs) {
    EXPECT_TRUE(all.count({to, from}));
    EXPECT_NE(from, to);
  }
  for (int node = 0; node < 1000; ++node) EXPECT_TRUE(all.count({node, (node + 1) % 1000}));
}

Reach broken(int from, int to, const std::string& over, const std::string& error) { return {from, to, over, false, 0, error}; }
Reach good(int from, int to, const std::string& over) { return {from, to, over, true, 50, ""}; }

TEST(ReachFindings, TellDirectionsAndNodesApart) {
  Cluster cluster;
  for (const char* name : {"a", "b", "c", "d"}) cluster.nodes.push_back(node_on(name, "eth0", {}));
  for (int from = 0; from < 4; ++from)
    for (int to = 0; to < 4; ++to)
      if (from != to) cluster.reach.push_back(good(from, to, "socket eth0"));
  EXPECT_THAT(reach_findings(cluster), IsEmpty());
  cluster.reach[0] = broken(0, 1, "socket eth0 → 10.0.0.2", "No route to host (errno 113)");
  auto findings = reach_findings(cluster);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].text, "a does not reach b, but is reached from there");
  EXPECT_THAT(findings[0].evidence, ElementsAre("a → b (socket eth0 → 10.0.0.2): No route to host (errno 113)"));
  for (Reach& reach : cluster.reach)
    if (reach.from == 3 || reach.to == 3) reach = broken(reach.from, reach.to, reach.over, "no answer to connect within 3000 ms");
  findings = reach_findings(cluster);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].text, "d and its 3 peers do not reach each other");
  EXPECT_THAT(findings[0].nodes, ElementsAre("d"));
}

TEST(ReachFindings, EachKindHasItsOwnCount) {
  Cluster cluster;
  for (int i = 0; i < 10; ++i) cluster.nodes.push_back(node_on("n" + std::to_string(i), "eth0", {}));
  for (int from = 0; from < 10; ++from) {
    for (int to = 0; to < 10; ++to) {
      if (from == to) continue;
      cluster.reach.push_back(broken(from, to, "socket eth0", "no answer"));
      cluster.reach.push_back(broken(from, to, "rdma mlx5_0:1 → mlx5_0:1", "no answer"));
    }
  }
  const std::vector<Finding> findings = reach_findings(cluster);  // 45 pairs of each kind, 32 are told
  ASSERT_EQ(findings.size(), 64u);
  EXPECT_EQ(findings[31].code, "peer-unreachable");
  EXPECT_THAT(findings[31].text, HasSubstr("13 more pairs"));
  EXPECT_EQ(findings[32].code, "rail-unreachable");
  EXPECT_THAT(findings[63].text, HasSubstr("13 more pairs"));
}

TEST(ReachFindings, ARailIsNotASocket) {
  Cluster cluster;
  for (const char* name : {"a", "b"}) cluster.nodes.push_back(node_on(name, "eth0", {}));
  cluster.reach = {good(0, 1, "socket eth0"), good(1, 0, "socket eth0"), broken(0, 1, "rdma mlx5_0:1 → mlx5_0:1", "completion with status=12 vendor err 129"),
                   broken(1, 0, "rdma mlx5_0:1 → mlx5_0:1", "no reply within 3000 ms")};
  const auto findings = reach_findings(cluster);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].code, "rail-unreachable");
  EXPECT_EQ(findings[0].text, "a and b do not reach each other over RDMA");
}

#ifdef DSINFER_TEST_VERBS
// ---- RDMA, over the fake library

class ReachRdma : public ::testing::Test {
 protected:
  SharedLibrary library{DSINFER_FAKE_VERBS};
  FakeVerbs& fake = state();
  void SetUp() override { fake = FakeVerbs(); }
  void TearDown() override { EXPECT_EQ(fake.open_objects, 0); }

  // Node n has the devices fake_<2n> on rail 0 and fake_<2n + 1> on rail 1.
  Cluster cluster_of(int num_nodes, std::optional<int> gid = 3) {
    fake.devices = 2 * num_nodes;
    Cluster cluster;
    for (int n = 0; n < num_nodes; ++n) {
      Node node = node_on("n" + std::to_string(n), "lo", {});
      for (int rail = 0; rail < 2; ++rail) {
        ChosenPort port;
        port.hca = "fake_" + std::to_string(2 * n + rail);
        port.rail = rail;
        port.gid_index = gid;
        node.network.ports.push_back(port);
      }
      cluster.nodes.push_back(node);
    }
    return cluster;
  }
  std::vector<Reach> run(Cluster& cluster, std::chrono::milliseconds timeout = 3000ms, const char* file = DSINFER_FAKE_VERBS) {
    std::mutex mutex;
    cluster.reach.clear();
    on_threads(static_cast<int>(cluster.nodes.size()), [&](World& world) {
      const std::vector<Reach> reach = reach_rdma(world, {cluster, world.rank(), timeout}, file);
      const std::lock_guard lock(mutex);
      if (cluster.reach.empty()) cluster.reach = reach;
      EXPECT_EQ(reach, cluster.reach);
    });
    return cluster.reach;
  }

 private:
  FakeVerbs& state() {
    FakeVerbs* (*get)() = nullptr;
    library.find(get, "fake_verbs");
    return *get();
  }
};

TEST_F(ReachRdma, WritesArriveThereAndBackOnEveryRail) {
  for (const bool ethernet : {true, false}) {
    fake.ethernet = ethernet;
    Cluster cluster = cluster_of(3);
    const std::vector<Reach> reach = run(cluster);
    EXPECT_EQ(reach.size(), 18u);  // 6 ordered pairs of nodes: two rails, and once across
    EXPECT_EQ(rails_are_isolated(reach), std::optional(false));
    for (const Reach& r : reach) EXPECT_TRUE(r.ok) << r.over << ": " << r.error;
    EXPECT_EQ(reach[0].over, "rdma fake_0:1 → fake_2:1");
    EXPECT_THAT(reach_findings(cluster), IsEmpty());
  }
}

TEST_F(ReachRdma, ACardThatNothingReachesIsNamed) {
  Cluster cluster = cluster_of(3);
  fake.black_hole = 4;  // rail 0 of node 2
  int failed = 0;
  for (const Reach& reach : run(cluster, 300ms)) {
    const bool concerned = reach.over.find("fake_4:1") != std::string::npos;
    EXPECT_EQ(reach.ok, !concerned) << reach.over;
    failed += !reach.ok;
    if (concerned && reach.to == 2) {
      EXPECT_THAT(reach.error, HasSubstr("status=12"));
    }
  }
  EXPECT_EQ(failed, 4);
  EXPECT_EQ(reach_findings(cluster).size(), 1u);
}

TEST_F(ReachRdma, NoRouteBetweenRailsIsToldByBothEnds) {
  Cluster cluster = cluster_of(2);
  fake.no_route_to = 3;  // rail 1 of node 1
  for (const Reach& reach : run(cluster)) {
    if (reach.over.find("fake_3") == std::string::npos) {
      EXPECT_TRUE(reach.ok) << reach.error;
    } else {
      EXPECT_THAT(reach.error, HasSubstr("there is no route between these rails"));
    }
  }
  const auto findings = reach_findings(cluster);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].code, "rail-unreachable");
}

TEST_F(ReachRdma, RailsWithoutARouteBetweenThemAreNoError) {
  Cluster cluster = cluster_of(3);
  fake.isolated = true;
  for (const Reach& reach : run(cluster)) EXPECT_EQ(reach.ok, reach.over.rfind(kCrossRail, 0) != 0) << reach.over << ": " << reach.error;
  EXPECT_EQ(rails_are_isolated(cluster.reach), std::optional(true));
  const auto findings = reach_findings(cluster);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].code, "rails-isolated");
  EXPECT_EQ(findings[0].severity, Severity::info);
}

TEST_F(ReachRdma, AWrongGidIndexIsToldAsSuch) {
  Cluster cluster = cluster_of(2, 7);
  for (const Reach& reach : run(cluster)) EXPECT_THAT(reach.error, HasSubstr("GID index"));
}

TEST_F(ReachRdma, SilenceEndsAtTheDeadline) {
  Cluster cluster = cluster_of(2);
  fake.silent = true;
  for (const Reach& reach : run(cluster, 200ms)) EXPECT_EQ(reach.error, "no reply within 200 ms");
}

TEST_F(ReachRdma, MissingDevicesAndLibrariesAreErrorsOfTheRailNotOfTheJob) {
  Cluster cluster = cluster_of(2);
  cluster.nodes[1].network.ports[0].hca = "mlx5_0";
  for (const Reach& reach : run(cluster)) {
    if (reach.over.find("mlx5_0") == std::string::npos) {
      EXPECT_TRUE(reach.ok) << reach.error;
    } else {
      EXPECT_THAT(reach.error, HasSubstr("libibverbs does not list mlx5_0"));
    }
  }
  cluster = cluster_of(2);
  for (const Reach& reach : run(cluster, 3000ms, "libno-such-thing.so")) EXPECT_THAT(reach.error, HasSubstr("libibverbs lists no device"));
  fake.refuse_open = true;
  for (const Reach& reach : run(cluster)) {
    if (reach.over.find("fake_3") != std::string::npos) {
      EXPECT_THAT(reach.error, HasSubstr("cannot be opened: Operation not permitted"));
    }
  }
}
#endif

// ---- the environment

TEST(ApplyEnvironment, SetsWhatNobodySet) {
  Network network;
  network.environment = {{"DSINFER_TEST_NEW", "eth0", "", false}, {"DSINFER_TEST_OLD", "b", "", false}, {"DSINFER_TEST_USER", "c", "", true}, {"BAD=NAME", "d", "", false}};
  ::setenv("DSINFER_TEST_OLD", "a", 1);
  EXPECT_EQ(apply_environment(network), 1);
  EXPECT_STREQ(::getenv("DSINFER_TEST_NEW"), "eth0");
  EXPECT_STREQ(::getenv("DSINFER_TEST_OLD"), "a");
  EXPECT_EQ(::getenv("DSINFER_TEST_USER"), nullptr);
  EXPECT_EQ(apply_environment(network), 0);
  ::unsetenv("DSINFER_TEST_NEW");
  ::unsetenv("DSINFER_TEST_OLD");
}

}  // namespace
}  // namespace dsinfer::topology
