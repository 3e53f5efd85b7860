// What must agree between nodes: one transport, one network for sockets, and each row of findings.
#include <gtest/gtest.h>

#include "machine_parts.hpp"
#include "topology/choice.hpp"

using namespace dsinfer;
using namespace dsinfer::parts;

namespace {

Node ib_node(const std::string& name, int hcas = 2) {
  Node n = node(name, {}, {interface("eth0", "10.0.0." + std::to_string(1 + name.back() - '0'))});
  for (int i = 0; i < hcas; ++i) n.hcas.push_back(ib("mlx5_" + std::to_string(i)));
  return n;
}

// Two rails with an address in a subnet each.
Node roce_node(const std::string& name, const std::string& host_part) {
  Node n = node(name, {roce("mlx5_0"), roce("mlx5_1")}, {interface("eth0", "10.0.0." + host_part), interface("rail0", "10.1.0." + host_part), interface("rail1", "10.2.0." + host_part)});
  for (int i : {0, 1}) {
    n.hcas[static_cast<size_t>(i)].ports[0].netdevs = {"rail" + std::to_string(i)};
    give_address(n.hcas[static_cast<size_t>(i)].ports[0], "10." + std::to_string(i + 1) + ".0." + host_part);
  }
  return n;
}

const Finding* found(const Cluster& cluster, const std::string& code) { return finding(cluster.findings, code); }

Severity severity(const Cluster& cluster, const std::string& code) {
  const Finding* f = found(cluster, code);
  EXPECT_TRUE(f) << code;
  return f ? f->severity : Severity::info;
}

}  // namespace

TEST(ClusterChoice, OfEqualNodesFindsNothing) {
  const Cluster cluster = chosen({ib_node("n0"), ib_node("n1"), ib_node("n2")});
  EXPECT_TRUE(cluster.findings.empty()) << cluster.findings.front().code;
  EXPECT_EQ(cluster.nodes[2].network.transport, Transport::ib);
}

TEST(ClusterChoice, FallsToSocketsOnAllWhereOneHasNoHca) {
  Node poor = ib_node("n2", 0);
  const Cluster cluster = chosen({ib_node("n0"), ib_node("n1"), poor});
  for (const Node& n : cluster.nodes) {
    EXPECT_EQ(n.network.transport, Transport::socket);
    EXPECT_EQ(value_of(n, "NCCL_NET"), "Socket");
  }
  EXPECT_EQ(cluster.nodes[0].network.fallback_reason, "peers-cannot");
  EXPECT_EQ(cluster.nodes[0].network.hcas, Names());
  EXPECT_EQ(reason_of(cluster.nodes[0], "mlx5_0:1"), "peers-cannot");
  EXPECT_EQ(cluster.nodes[2].network.fallback_reason, "no-rdma-device");
  EXPECT_EQ(severity(cluster, "transport-differs"), Severity::error);
  EXPECT_EQ(found(cluster, "transport-differs")->nodes, (Names{"n2"}));
}

TEST(ClusterChoice, FallsToSocketsWhereLinkLayersDiffer) {
  const Cluster cluster = chosen({ib_node("n0"), roce_node("n1", "2")});
  EXPECT_EQ(severity(cluster, "link-layer-differs"), Severity::error);
  EXPECT_EQ(cluster.nodes[1].network.fallback_reason, "peers-cannot");
  EXPECT_EQ(cluster.nodes[1].network.gid_index, std::nullopt);
}

TEST(ClusterChoice, DoesNotFallBackForANodeThatNobodyLookedAt) {
  Node unknown = node("n1");
  unknown.hcas_complete = false;
  EXPECT_EQ(chosen({ib_node("n0"), unknown}).nodes[0].network.transport, Transport::ib);
}

TEST(ClusterChoice, TakesTheSubnetThatAllShareWhateverItIsCalled) {
  Node a = node("a", {}, {interface("eth0", "192.168.1.5"), interface("eth1", "10.0.0.1")});
  Node b = node("b", {}, {interface("ens3", "192.168.7.5"), interface("ens4", "10.0.0.2")});
  a.interfaces[0].default_route = b.interfaces[0].default_route = true;
  const Cluster cluster = chosen({a, b});
  EXPECT_EQ(cluster.nodes[0].network.socket_ifname, "eth1");
  EXPECT_EQ(cluster.nodes[1].network.socket_ifname, "ens4");
  EXPECT_FALSE(found(cluster, "socket-subnet-differs"));
}

TEST(ClusterChoice, TakesTheFastestOfSeveralCommonSubnetsAndIpoibLast) {
  Node a = node("a", {}, {interface("ib0", "10.3.0.1", 24, 400000), interface("eth0", "10.0.0.1", 24, 1000), interface("eth1", "10.1.0.1", 24, 100000)});
  Node b = node("b", {}, {interface("ib0", "10.3.0.2", 24, 400000), interface("eth0", "10.0.0.2", 24, 1000), interface("eth1", "10.1.0.2", 24, 100000)});
  EXPECT_EQ(chosen({a, b}).nodes[1].network.socket_ifname, "eth1");
  b.interfaces[2].addresses[0].ip = "10.99.0.1";
  EXPECT_EQ(chosen({a, b}).nodes[1].network.socket_ifname, "eth0");
  b.interfaces[1].addresses[0].ip = "10.98.0.1";
  EXPECT_EQ(chosen({a, b}).nodes[1].network.socket_ifname, "ib0");
}

TEST(ClusterChoice, KeepsTheUsersInterfaceAndFollowsItElsewhere) {
  Node a = node("a", {}, {interface("eth0", "10.0.0.1"), interface("eth1", "10.1.0.1", 24, 100000)});
  Node b = node("b", {}, {interface("eth0", "10.0.0.2"), interface("eth1", "10.1.0.2", 24, 100000)});
  set(a, "NCCL_SOCKET_IFNAME", "eth0");
  const Cluster cluster = chosen({a, b});
  EXPECT_EQ(cluster.nodes[0].network.socket_ifname, "eth0");
  EXPECT_EQ(cluster.nodes[1].network.socket_ifname, "eth0");  // although eth1 is faster
  set(b, "NCCL_SOCKET_IFNAME", "eth1");
  EXPECT_TRUE(found(chosen({a, b}), "socket-subnet-differs"));
}

TEST(ClusterChoice, DoesNotCompareSingleAddressesOfClouds) {
  Node a = node("a", {}, {interface("enp0s12", "10.0.0.6", 32)});
  Node b = node("b", {}, {interface("enp0s12", "10.0.3.9", 32)});
  EXPECT_FALSE(found(chosen({a, b}), "socket-subnet-differs"));
}

TEST(ClusterChoice, IsTheSameWhenRepeated) {
  Cluster cluster = chosen({ib_node("n0"), roce_node("n1", "2"), ib_node("n2", 0)});
  const Cluster once = cluster;
  choose_network(cluster);
  EXPECT_TRUE(cluster == once);
}

TEST(ClusterChecks, CountHcas) {
  const Cluster cluster = chosen({ib_node("n0", 8), ib_node("n1", 6), ib_node("n2", 8)});
  EXPECT_EQ(severity(cluster, "hca-count-differs"), Severity::error);
  EXPECT_EQ(found(cluster, "hca-count-differs")->nodes, (Names{"n1"}));
  EXPECT_EQ(found(cluster, "hca-count-differs")->evidence, (Names{"8 HCA ports: n0, n2", "6 HCA ports: n1"}));
}

TEST(ClusterChecks, CompareHcaNames) {
  Node b = ib_node("n1");
  b.hcas[0].name = "ibp26s0";
  EXPECT_EQ(severity(chosen({ib_node("n0"), b}), "hca-names-differ"), Severity::info);
}

TEST(ClusterChecks, ComparePlugins) {
  Node a = ib_node("n0"), b = ib_node("n1");
  a.host.net_plugin = "/opt/hpcx/lib/libnccl-net.so";
  b.host.nccl_path = "/usr/lib/libnccl.so.2";
  EXPECT_EQ(severity(chosen({a, b}), "plugin-differs"), Severity::error);
  b.host.net_plugin = "/usr/lib/libnccl-net.so";
  EXPECT_FALSE(found(chosen({a, b}), "plugin-differs"));
  b.host.net_plugin = b.host.nccl_path = "";  // nobody looked
  EXPECT_FALSE(found(chosen({a, b}), "plugin-differs"));
}

TEST(ClusterChecks, CompareRatesOfARail) {
  Node a = ib_node("n0"), b = ib_node("n1");
  for (Hca& h : b.hcas) h.ports[0].rate_gbps = 200;
  const Cluster cluster = chosen({a, b});
  EXPECT_EQ(severity(cluster, "rate-differs"), Severity::warning);
  EXPECT_EQ(found(cluster, "rate-differs")->evidence.front(), "rail 0: 200 Gb/s: n1");
}

TEST(ClusterChecks, CompareSubnetsOfARail) {
  Node a = roce_node("n0", "1"), b = roce_node("n1", "2");
  std::swap(b.interfaces[1].addresses, b.interfaces[2].addresses);  // cables crossed
  EXPECT_EQ(severity(chosen({a, b}), "rail-subnet-differs"), Severity::warning);
  Cluster probed;
  probed.nodes = {a, b};
  probed.reach.push_back({0, 1, "rdma mlx5_0:1 → mlx5_0:1", false, 0, "status 12"});
  choose_network(probed);
  EXPECT_EQ(severity(probed, "rail-subnet-differs"), Severity::error);
  EXPECT_EQ(severity(probed, "rail-unreachable"), Severity::error);
  EXPECT_FALSE(found(chosen({a, roce_node("n2", "3")}), "rail-subnet-differs"));
}

TEST(ClusterChecks, FindHcasThatShareASubnet) {
  Node a = roce_node("n0", "1"), b = roce_node("n1", "2");
  for (Node* n : {&a, &b}) n->interfaces[2].addresses[0].ip = "10.1.0.9" + n->name.substr(1);
  EXPECT_EQ(severity(chosen({a, b}), "hcas-share-subnet"), Severity::warning);
  EXPECT_EQ(found(chosen({a, b}), "hcas-share-subnet")->nodes, (Names{"n0", "n1"}));
}

TEST(ClusterChecks, CompareGidIndexes) {
  Node a = roce_node("n0", "1"), b = roce_node("n1", "2");
  for (Hca& h : b.hcas) {
    for (Gid& gid : h.ports[0].gids) gid.index += 4;
  }
  EXPECT_EQ(severity(chosen({a, b}), "gid-index-differs"), Severity::info);
  set(b, "NCCL_IB_GID_INDEX", "3");
  set(a, "NCCL_IB_GID_INDEX", "3");
  EXPECT_EQ(severity(chosen({a, b}), "gid-index-differs"), Severity::error);
}

TEST(ClusterChecks, CompareMtus) {
  Node a = roce_node("n0", "1"), b = roce_node("n1", "2");
  a.hcas[1].ports[0].active_mtu = 4096;
  b.hcas[1].ports[0].active_mtu = 1024;
  EXPECT_EQ(found(chosen({a, b}), "mtu-differs")->evidence, (Names{"rail 1: active_mtu 1024: n1", "rail 1: active_mtu 4096: n0"}));
  a = node("a", {}, {interface("veth0", "10.0.0.1")});
  b = node("b", {}, {interface("veth7", "10.0.0.2")});
  a.interfaces[0].mtu = 1500;
  b.interfaces[0].mtu = 1400;
  EXPECT_EQ(severity(chosen({a, b}), "mtu-differs"), Severity::warning);
}

TEST(ClusterChecks, CompareSocketSubnets) {
  Node a = node("a", {}, {interface("eth0", "10.0.0.1")}), b = node("b", {}, {interface("eth0", "10.7.0.1")});
  EXPECT_EQ(severity(chosen({a, b}), "socket-subnet-differs"), Severity::warning);
  Cluster probed;
  probed.nodes = {a, b};
  probed.reach.push_back({0, 1, "socket eth0 → 10.7.0.1", false, 0, "no answer in 3 s"});
  choose_network(probed);
  EXPECT_EQ(severity(probed, "socket-subnet-differs"), Severity::error);
  EXPECT_EQ(found(probed, "peer-unreachable")->nodes, (Names{"a", "b"}));
  EXPECT_EQ(found(probed, "peer-unreachable")->evidence, (Names{"a → b (socket eth0 → 10.7.0.1): no answer in 3 s"}));
  b.interfaces[0].addresses[0] = {"169.254.4.4", 16};
  EXPECT_TRUE(found(chosen({a, b}), "socket-subnet-differs"));
}

TEST(ClusterChecks, FindLoopback) {
  Node a = node("a", {}, {interface("lo", "127.0.0.1", 8), interface("eth0", "10.0.0.1")}), b = a;
  b.name = "b";
  set(b, "NCCL_SOCKET_IFNAME", "lo");
  EXPECT_EQ(severity(chosen({a, b}), "socket-loopback"), Severity::error);
  EXPECT_EQ(found(chosen({a, b}), "socket-loopback")->nodes, (Names{"b"}));
}

TEST(ClusterChecks, CompareVersions) {
  Node a = ib_node("n0"), b = ib_node("n1");
  a.host.nccl_version = "2.21.5", b.host.nccl_version = "2.22.3";
  a.host.driver_version = "570.133.20", b.host.driver_version = "550.144.03";
  const Cluster cluster = chosen({a, b});
  EXPECT_EQ(severity(cluster, "nccl-version-differs"), Severity::error);
  EXPECT_EQ(severity(cluster, "driver-version-differs"), Severity::warning);
}

TEST(ClusterChecks, CompareSettings) {
  Node a = ib_node("n0"), b = ib_node("n1");
  set(a, "NCCL_ALGO", "Ring");
  set(b, "NCCL_CROSS_NIC", "0");
  const Cluster cluster = chosen({a, b});
  ASSERT_TRUE(found(cluster, "environment-differs"));
  EXPECT_EQ(std::count_if(cluster.findings.begin(), cluster.findings.end(), [](const Finding& f) { return f.code == "environment-differs"; }), 2);
  EXPECT_EQ(found(cluster, "environment-differs")->severity, Severity::error);
  EXPECT_EQ(found(cluster, "environment-differs")->evidence, (Names{"NCCL_ALGO = Ring: n0", "NCCL_ALGO = unset: n1"}));
  Node c = ib_node("n0"), d = ib_node("n1");
  set(c, "NCCL_IB_HCA", "mlx5_0");
  set(d, "NCCL_IB_HCA", "mlx5_1");
  EXPECT_FALSE(found(chosen({c, d}), "environment-differs"));
}

TEST(ClusterChecks, CompareGpus) {
  Node a = ib_node("n0"), b = ib_node("n1");
  a.gpus = {gpu(0), gpu(1)};
  b.gpus = {gpu(0, "", "NVIDIA A100-SXM4-80GB")};
  a.gpus_complete = b.gpus_complete = true;
  EXPECT_EQ(severity(chosen({a, b}), "gpu-count-differs"), Severity::warning);
  EXPECT_EQ(severity(chosen({a, b}), "gpu-model-differs"), Severity::warning);
  b.gpus_complete = false;
  EXPECT_FALSE(found(chosen({a, b}), "gpu-count-differs"));
}

TEST(ClusterChecks, ComparePeerMemoryFirmwareLimitsAndHostIds) {
  Node a = ib_node("n0"), b = ib_node("n1");
  a.host.peer_memory = true;
  b.host.peer_memory = b.host.dma_buf = false;
  a.hcas[0].firmware = "28.39.1002", b.hcas[0].firmware = "28.43.2026";
  b.host.memlock_bytes = 65536;
  a.host.id = b.host.id = "0c5b";
  const Cluster cluster = chosen({a, b});
  EXPECT_EQ(severity(cluster, "peermem-differs"), Severity::warning);
  EXPECT_EQ(severity(cluster, "firmware-differs"), Severity::info);
  EXPECT_EQ(found(cluster, "memlock-finite")->nodes, (Names{"n1"}));
  EXPECT_EQ(severity(cluster, "host-id-equal"), Severity::error);
}

TEST(ClusterChecks, NameClassesOfAThousandNodesInOneFinding) {
  std::vector<Node> nodes;
  for (int i = 0; i < 1024; ++i) {
    Node n = node("n" + std::to_string(i), {}, {interface("eth0", "10.0." + std::to_string(i / 250) + "." + std::to_string(1 + i % 250), 16)});
    for (int h = 0; h < (i == 700 ? 7 : 8); ++h) n.hcas.push_back(ib("mlx5_" + std::to_string(h)));
    nodes.push_back(std::move(n));
  }
  const Cluster cluster = chosen(std::move(nodes));
  EXPECT_EQ(cluster.findings.size(), 2u);  // count and names
  EXPECT_EQ(found(cluster, "hca-count-differs")->nodes, (Names{"n700"}));
  EXPECT_EQ(found(cluster, "hca-count-differs")->evidence, (Names{"8 HCA ports: n0, n1, n2, n3 … (1023 nodes)", "7 HCA ports: n700"}));
  EXPECT_EQ(value_of(cluster.nodes[0], "NCCL_IB_TIMEOUT"), "22");
}
