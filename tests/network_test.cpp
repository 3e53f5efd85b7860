// The network choice of one node: each drop step, the user's settings, interfaces, affinity, environment.
#include <gtest/gtest.h>

#include "machine_parts.hpp"
#include "topology/choice.hpp"
#include "topology/join.hpp"

using namespace dsinfer;
using namespace dsinfer::parts;

namespace {

const Names kNone;

// Eight H100 with a 400 Gb/s HCA each, as a matrix shows them.
Node dgx(LinkLayer layer = LinkLayer::infiniband) {
  Node n = node("dgx");
  for (int i = 0; i < 8; ++i) {
    n.gpus.push_back(gpu(i));
    n.hcas.push_back(hca("mlx5_" + std::to_string(i), port(layer, 400)));
  }
  n.gpus_complete = true;
  for (int g = 0; g < 8; ++g) {
    for (int h = 0; h < 8; ++h) {
      n.paths.push_back({"GPU" + std::to_string(g), "mlx5_" + std::to_string(h), g == h ? PathKind::pix : g / 4 == h / 4 ? PathKind::node : PathKind::sys, 0});
    }
  }
  return n;
}

}  // namespace

TEST(Ports, OfInfiniBandAreTakenInPciOrder) {
  const Node n = chosen(node("n", {ib("mlx5_1", 400, "0000:19:00.0"), ib("mlx5_0", 400, "0000:cc:00.0")}));
  EXPECT_EQ(n.network.transport, Transport::ib);
  EXPECT_EQ(n.network.hcas, (Names{"mlx5_1", "mlx5_0"}));
  EXPECT_EQ(n.network.ports[1].rail, 1);
  EXPECT_EQ(n.network.gid_index, std::nullopt);
  EXPECT_EQ(n.network.fallback_reason, "");
}

TEST(Ports, WithoutBusIdsAreOrderedByTheirUdevNamesOrByNumber) {
  const Node udev = chosen(node("n", {roce("rocep137s0f1"), roce("rocep4s0f0"), roce("rocep4s0f1")}));
  EXPECT_EQ(udev.network.hcas, (Names{"rocep4s0f0", "rocep4s0f1", "rocep137s0f1"}));
  const Node kernel = chosen(node("n", {ib("mlx5_0"), ib("mlx5_10"), ib("mlx5_2")}));
  EXPECT_EQ(kernel.network.hcas, (Names{"mlx5_0", "mlx5_2", "mlx5_10"}));
}

TEST(Ports, OfAVanishedOrClosedDeviceAreDroppedFirst) {
  Node n = node("n", {ib("mlx5_0"), ib("mlx5_1"), ib("mlx5_2"), ib("mlx5_3")});
  n.hcas[1].sysfs_missing = true;
  n.hcas[2].openable = false;
  n.hcas[3].ports.clear();
  n.hcas[3].port_count = 0;
  n = chosen(n);
  EXPECT_EQ(n.network.hcas, (Names{"mlx5_0"}));
  EXPECT_EQ(n.network.hcas_excluded, (Names{"mlx5_1", "mlx5_2", "mlx5_3"}));
  EXPECT_EQ(reason_of(n, "mlx5_1:1"), "sysfs-missing");
  EXPECT_EQ(reason_of(n, "mlx5_2:1"), "device-not-openable");
  EXPECT_EQ(reason_of(n, "mlx5_3:1"), "no-ports");
}

TEST(Ports, WithoutReliableConnectionsAreDropped) {
  Node n = node("n", {roce("usnic_0"), roce("rdmap16s27"), roce("cxgb4_0"), roce("erdma_0")});
  n.hcas[0].vendor_id = 0x1137;
  n.hcas[1].vendor_id = 0x1d0f;
  n.hcas[2].node_type = Hca::NodeType::rnic;
  n.hcas[3].node_type = Hca::NodeType::rnic;
  n.hcas[3].vendor_id = 0x1ded;
  n = chosen(n);
  EXPECT_EQ(reason_of(n, "usnic_0:1"), "not-rc-capable");
  EXPECT_EQ(reason_of(n, "rdmap16s27:1"), "not-rc-capable");
  EXPECT_EQ(reason_of(n, "cxgb4_0:1"), "iwarp");
  EXPECT_EQ(n.network.hcas, (Names{"erdma_0"}));
  EXPECT_EQ(n.network.plugin_fabric, "efa");
}

TEST(Ports, OfSoftwareRdmaAreDroppedUnlessNamed) {
  Node n = node("n", {roce("rxe0", 0)});
  n.hcas[0].vendor_id = 0xffffff;
  EXPECT_EQ(chosen(n).network.fallback_reason, "software-rdma-device");
  EXPECT_EQ(chosen(n).network.hcas, kNone);
  set(n, "NCCL_IB_HCA", "rxe0");
  EXPECT_EQ(chosen(n).network.transport, Transport::roce);
}

TEST(Ports, WithoutADeviceLinkAreSoftwareOnlyWhereOthersHaveOne) {
  Node n = node("n", {roce("odd_0"), roce("mlx5_0")});
  n.hcas[0].device_link = n.hcas[1].device_link = false;
  EXPECT_EQ(chosen(n).network.hca_count, 2);
  n.hcas[1].device_link = true;
  EXPECT_EQ(reason_of(chosen(n), "odd_0:1"), "software-rdma");
}

TEST(Ports, ThatAreDownAreDroppedWithTheirPhysicalState) {
  Node n = chosen(node("n", {roce("mlx5_0"), hca("mlx5_1", port(LinkLayer::ethernet, 40, PortState::down))}));
  EXPECT_EQ(n.network.hcas, (Names{"mlx5_0"}));
  EXPECT_EQ(n.network.ports_down, (std::map<std::string, std::string>{{"mlx5_1", "Polling"}}));
  n = chosen(node("n", {hca("mlx5_0", port(LinkLayer::infiniband, 10, PortState::down))}));
  EXPECT_EQ(n.network.transport, Transport::socket);
  EXPECT_EQ(n.network.fallback_reason, "all-ports-down");
}

TEST(Ports, WithoutASubnetManagerAreDropped) {
  Node n = node("n", {ib("mlx5_0"), ib("mlx5_1"), ib("mlx5_2")});
  n.hcas[0].ports[0].lid = 4;
  n.hcas[1].ports[0].state = PortState::init;
  n.hcas[2].ports[0].lid = 0;
  n = chosen(n);
  EXPECT_EQ(n.network.hcas, (Names{"mlx5_0"}));
  EXPECT_EQ(reason_of(n, "mlx5_1:1"), "no-subnet-manager");
  EXPECT_EQ(reason_of(n, "mlx5_2:1"), "no-subnet-manager");
}

TEST(Ports, OfInfiniBandStayWhateverTheirNetdevDoes) {
  Node n = node("n", {ib("mlx5_0")});
  n.hcas[0].ports[0].state = PortState::unknown;
  n.hcas[0].ports[0].netdevs = {"ib0"};
  n.hcas[0].ports[0].netdev_up = false;
  EXPECT_EQ(chosen(n).network.transport, Transport::ib);
  n.hcas[0].ports[0].link_layer = LinkLayer::ethernet;
  EXPECT_EQ(chosen(n).network.fallback_reason, "all-ports-down");
}

TEST(Ports, OfRoceNeedAnAddress) {
  Node n = node("n", {roce("mlx5_0"), roce("mlx5_1")});
  give_address(n.hcas[0].ports[0], "10.0.0.1");
  n.hcas[1].ports[0].gid_table = true;
  n = chosen(n);
  EXPECT_EQ(n.network.hcas, (Names{"mlx5_0"}));
  EXPECT_EQ(n.network.gid_index, 3);
  EXPECT_EQ(reason_of(n, "mlx5_1:1"), "no-usable-gid");
}

TEST(Ports, OfRoceWithoutATableAreJudgedByTheirNetdevsAddresses) {
  Node n = node("n", {roce("mlx5_0")}, {interface("lo", "127.0.0.1", 8), interface("eth2", "fe80::1", 64)});
  n.hcas[0].ports[0].netdevs = {"eth2"};
  EXPECT_EQ(chosen(n).network.fallback_reason, "no-usable-gid");
  n.interfaces[1].addresses.push_back({"169.254.7.1", 16});
  const Node local = chosen(n);
  EXPECT_EQ(local.network.transport, Transport::roce);
  EXPECT_TRUE(finding(local.findings, "roce-address-link-local"));
  n.interfaces[1].addresses.clear();
  EXPECT_EQ(chosen(n).network.fallback_reason, "no-usable-gid");
  n.interfaces[0].addresses.clear();  // a source without addresses says nothing
  EXPECT_EQ(chosen(n).network.transport, Transport::roce);
}

TEST(Ports, OfEthernetGoWhereInfiniBandIs) {
  const Node n = chosen(node("n", {roce("mlx5_0"), ib("mlx5_1")}));
  EXPECT_EQ(n.network.transport, Transport::ib);
  EXPECT_EQ(n.network.hcas, (Names{"mlx5_1"}));
  EXPECT_EQ(reason_of(n, "mlx5_0:1"), "mixed-link-layer");
}

TEST(Ports, OfOneHcaMayDifferInLinkLayer) {
  Hca card = hca("mlx4_0", port(LinkLayer::infiniband, 40));
  card.ports[0].netdevs = {"ib0"};
  card.ports.push_back(port(LinkLayer::ethernet, 10, PortState::active, 2));
  card.ports[1].netdevs = {"eth2"};
  const Node n = chosen(node("n", {card}));
  EXPECT_EQ(n.network.hcas, (Names{"mlx4_0"}));
  EXPECT_EQ(n.network.hcas_excluded, kNone);
  EXPECT_EQ(n.network.mixed_ports, (std::map<std::string, Names>{{"mlx4_0", {"ib0", "eth2"}}}));
  EXPECT_EQ(value_of(n, "NCCL_IB_HCA"), "=mlx4_0:1");
}

TEST(Ports, OfASlowerClassAreDropped) {
  Node n = chosen(node("n", {roce("mlx5_0", 400), roce("mlx5_1", 100), roce("mlx5_2", 400)}));
  EXPECT_EQ(n.network.hcas, (Names{"mlx5_0", "mlx5_2"}));
  EXPECT_EQ(reason_of(n, "mlx5_1:1"), "slow-class");
  EXPECT_TRUE(n.network.judged);
  n = chosen(node("n", {roce("mlx5_0", 400), roce("mlx5_1", 0)}));  // a rate unknown: the step is skipped
  EXPECT_EQ(n.network.hca_count, 2);
}

TEST(Ports, WithoutRatesAreComparedByTheirModels) {
  Node n = node("n", {roce("mlx5_0", 0), roce("mlx5_1", 0)});
  n.hcas[0].part_id = 4129;
  n.hcas[1].part_id = 4125;
  EXPECT_EQ(chosen(n).network.hcas, (Names{"mlx5_0"}));
  n.hcas[1].part_id = 4126;  // a virtual function: its card is unknown
  EXPECT_EQ(chosen(n).network.hca_count, 2);
}

TEST(Ports, OfTheHostsOwnNetworkAreDroppedButNeverTheLast) {
  Node n = node("n", {roce("mlx5_0"), roce("mlx5_1")}, {interface("eth0", "10.0.0.1"), interface("eth1", "10.1.0.1")});
  n.hcas[0].ports[0].netdevs = {"eth0"};
  n.hcas[1].ports[0].netdevs = {"eth1"};
  n.interfaces[0].default_route = true;
  EXPECT_EQ(reason_of(chosen(n), "mlx5_0:1"), "management-nic");
  n.hcas.pop_back();
  EXPECT_EQ(chosen(n).network.hcas, (Names{"mlx5_0"}));
}

TEST(Ports, FarFromAllGpusAreDroppedWhereEachHasANearOne) {
  Node n = dgx();
  n.hcas.push_back(ib("mlx5_8"));
  EXPECT_EQ(chosen(n).network.hca_count, 9);  // its place is unknown
  for (int g = 0; g < 8; ++g) n.paths.push_back({"GPU" + std::to_string(g), "mlx5_8", PathKind::sys, 0});
  EXPECT_EQ(reason_of(chosen(n), "mlx5_8:1"), "management-nic");
}

TEST(Ports, OfVirtualFunctionsGoWhereTheCardItselfIs) {
  Node n = node("n", {ib("mlx5_0", 400, "0000:19:00.0"), ib("mlx5_1", 400, "0000:19:00.1")});
  n.hcas[1].physical_function = "0000:19:00.0";
  EXPECT_EQ(chosen(n).network.hcas, (Names{"mlx5_0"}));
  n.hcas[0].ports[0].state = PortState::down;
  EXPECT_EQ(chosen(n).network.hcas, (Names{"mlx5_1"}));
}

TEST(Ports, ThatNobodyListedLeaveTheTransportUnknown) {
  Node n = node("n");
  n.hcas_complete = false;
  EXPECT_EQ(chosen(n).network.transport, Transport::unknown);
  EXPECT_EQ(chosen(n).network.hcas, std::nullopt);
  n.hcas_complete = true;
  EXPECT_EQ(chosen(n).network.transport, Transport::socket);
  EXPECT_EQ(chosen(n).network.fallback_reason, "no-rdma-device");
  n.hcas.push_back(hca("mlx5_0", port(LinkLayer::unknown)));
  EXPECT_EQ(chosen(n).network.transport, Transport::unknown);
  EXPECT_EQ(chosen(n).network.hcas, (Names{"mlx5_0"}));
}

TEST(Ports, FallBackForTheReasonOfTheMajority) {
  const auto down = [](const std::string& name) { return hca(name, port(LinkLayer::infiniband, 0, PortState::down)); };
  Node n = node("n", {down("mlx5_0"), down("mlx5_1"), ib("mlx5_2")});
  n.hcas[2].openable = false;
  EXPECT_EQ(chosen(n).network.fallback_reason, "all-ports-down");
  n.hcas.erase(n.hcas.begin());  // one each: the later step
  EXPECT_EQ(chosen(n).network.fallback_reason, "all-ports-down");
}

TEST(Ports, OfAContainerWithoutDevicesCannotBeOpened) {
  Node n = node("n", {ib("mlx5_0")});
  n.host.uverbs.emplace();
  EXPECT_EQ(chosen(n).network.fallback_reason, "rdma-device-not-openable");
  EXPECT_TRUE(finding(chosen(n).findings, "no-uverbs"));
  n.host.uverbs = Names{"uverbs0"};
  n.rdma_absent = true;  // verbs lists nothing although the devices are there
  EXPECT_EQ(chosen(n).network.fallback_reason, "provider-library-missing");
}

TEST(LinkLayers, ComeFromGidsClassesNetdevsAndNames) {
  const auto layer_of = [](Node n) { return chosen(std::move(n)).network.link_layer; };
  const auto unknown = [](const std::string& name) { return hca(name, port(LinkLayer::unknown)); };
  EXPECT_EQ(layer_of(node("n", {unknown("mlx5_0")})), LinkLayer::unknown);
  EXPECT_EQ(layer_of(node("n", {unknown("mlx5_bond_0")})), LinkLayer::ethernet);
  EXPECT_EQ(layer_of(node("n", {unknown("rocep4s0f0")})), LinkLayer::ethernet);
  EXPECT_EQ(layer_of(node("n", {unknown("mlx5_ib3")})), LinkLayer::infiniband);
  EXPECT_EQ(layer_of(node("n", {unknown("ibp26s0")})), LinkLayer::infiniband);
  EXPECT_EQ(layer_of(node("n", {unknown("mlx5_an0")})), LinkLayer::ethernet);
  Node n = node("n", {unknown("mlx5_0")});
  n.hcas[0].ports[0].lid = 12;
  EXPECT_EQ(layer_of(n), LinkLayer::infiniband);
  n = node("n", {unknown("mlx5_0")});
  give_address(n.hcas[0].ports[0], "10.0.0.1");
  EXPECT_EQ(layer_of(n), LinkLayer::ethernet);
  n = node("n", {unknown("mlx5_0")});
  n.hcas[0].ports[0].netdevs = {"ibp26s0"};
  EXPECT_EQ(layer_of(n), LinkLayer::infiniband);
  n.hcas[0].ports[0].netdevs = {"enp26s0"};
  EXPECT_EQ(layer_of(n), LinkLayer::ethernet);
}

TEST(UserSettings, OfAnExactListDecide) {
  Node n = node("n", {roce("mlx5_0", 400), roce("mlx5_1", 100), roce("mlx5_10", 100)});
  set(n, "NCCL_IB_HCA", "=mlx5_1");
  n = chosen(n);
  EXPECT_EQ(n.network.hcas, (Names{"mlx5_1"}));
  EXPECT_EQ(reason_of(n, "mlx5_0:1"), "not-in-user-list");
  EXPECT_EQ(value_of(n, "NCCL_IB_HCA"), "=mlx5_1");
  EXPECT_FALSE(finding(n.findings, "user-hca-prefix"));
}

TEST(UserSettings, OfAPrefixTakeMoreThanMeant) {
  Node n = node("n", {ib("mlx5_1"), ib("mlx5_10")});
  set(n, "NCCL_IB_HCA", "mlx5_1");
  n = chosen(n);
  EXPECT_EQ(n.network.hcas, (Names{"mlx5_1", "mlx5_10"}));
  ASSERT_TRUE(finding(n.findings, "user-hca-prefix"));
  EXPECT_EQ(finding(n.findings, "user-hca-prefix")->evidence, (Names{"mlx5_1 also takes mlx5_10"}));
}

TEST(UserSettings, ThatNameAbsentDevicesAreFound) {
  Node n = node("n", {ib("mlx5_0")});
  set(n, "NCCL_IB_HCA", "=mlx5_7");
  n = chosen(n);
  EXPECT_EQ(n.network.transport, Transport::socket);
  ASSERT_TRUE(finding(n.findings, "user-hca-unknown"));
  EXPECT_EQ(finding(n.findings, "user-hca-unknown")->severity, Severity::error);
}

TEST(UserSettings, OfAnExactListCountAsSeenWhereNobodyListed) {
  Node part = node("n");
  part.hcas_complete = false;
  set(part, "NCCL_IB_HCA", "=mlx5_0,mlx5_2:1", "nccl.conf");
  const Node n = chosen(topology::join({part}, "n"));
  EXPECT_EQ(n.network.hcas, (Names{"mlx5_0", "mlx5_2"}));
  EXPECT_EQ(n.network.transport, Transport::unknown);
  EXPECT_TRUE(n.hcas[0].named_only);
}

TEST(UserSettings, CanRefuseRdma) {
  for (const auto& [name, value] : std::map<std::string, std::string>{{"NCCL_IB_DISABLE", "1"}, {"NCCL_NET", "socket"}}) {
    Node n = node("n", {ib("mlx5_0")});
    set(n, name, value);
    n = chosen(n);
    EXPECT_EQ(n.network.transport, Transport::socket);
    EXPECT_EQ(n.network.fallback_reason, "disabled-by-user");
  }
}

TEST(UserSettings, OfTheEnvironmentGoBeforeFiles) {
  Node n;
  set(n, "NCCL_IB_TC", "41", "/etc/nccl.conf");
  set(n, "NCCL_IB_TC", "106", "environment");
  EXPECT_EQ(topology::user_setting(n, "NCCL_IB_TC"), "106");
}

TEST(UserSettings, ForceTheGidIndexAndAreChecked) {
  Node n = node("n", {roce("mlx5_0")});
  give_address(n.hcas[0].ports[0], "10.0.0.1", 7);
  set(n, "NCCL_IB_GID_INDEX", "3");
  n = chosen(n);
  EXPECT_EQ(n.network.gid_index, 3);
  EXPECT_EQ(n.network.ports[0].gid_index, 7);
  ASSERT_TRUE(finding(n.findings, "user-gid-index-wrong"));
  Node infiniband = node("n", {ib("mlx5_0")});
  set(infiniband, "NCCL_IB_GID_INDEX", "3");
  infiniband = chosen(infiniband);
  EXPECT_EQ(infiniband.network.gid_index, std::nullopt);
  EXPECT_TRUE(finding(infiniband.findings, "user-gid-index-no-effect"));
}

TEST(DeviceLists, AreReadAsNcclReadsThem) {
  using topology::DeviceList;
  EXPECT_TRUE(DeviceList::parse("").admits("mlx5_0"));
  EXPECT_TRUE(DeviceList::parse("mlx5_1").admits("mlx5_10", 1));
  EXPECT_FALSE(DeviceList::parse("=mlx5_1").admits("mlx5_10", 1));
  EXPECT_FALSE(DeviceList::parse("^mlx5_1").admits("mlx5_10"));
  EXPECT_TRUE(DeviceList::parse("^=mlx5_1").admits("mlx5_10"));
  EXPECT_TRUE(DeviceList::parse("=mlx5_0:2").admits("mlx5_0", 2));
  EXPECT_FALSE(DeviceList::parse("=mlx5_0:2").admits("mlx5_0", 1));
  EXPECT_TRUE(DeviceList::parse("=mlx5_0:-1").admits("mlx5_0", 1));
  EXPECT_TRUE(DeviceList::parse("=a:1:0,b:1:1").admits("b", 1));
  EXPECT_EQ(DeviceList::parse("a,,:3, b").entries.size(), 2u);
}

TEST(Interfaces, FollowLogRouteAndKernelOrder) {
  const auto socket_of = [](Node n) { return chosen(std::move(n)).network.socket_ifname; };
  Node n = node("n", {}, {interface("lo", "127.0.0.1", 8), interface("docker0", "172.17.0.1", 16), interface("eth0", "10.0.0.1"), interface("eth1", "10.1.0.1"), interface("eth2", "10.2.0.1")});
  EXPECT_EQ(socket_of(n), "eth0");
  n.interfaces[3].default_route = true;
  EXPECT_EQ(socket_of(n), "eth1");
  n.interfaces[4].bootstrap = true;
  EXPECT_EQ(socket_of(n), "eth2");
  set(n, "NCCL_SOCKET_IFNAME", "eth0");
  EXPECT_EQ(socket_of(n), "eth0");
}

TEST(Interfaces, ThatCannotServeAreNotTaken) {
  Node n = node("n", {}, {interface("lo", "127.0.0.1", 8), interface("veth12ab", "10.9.0.1"), interface("br-0123456789ab", "172.18.0.1", 16), interface("ib0", "10.8.0.1"),
                          interface("eth0", "169.254.1.1", 16), interface("eth1"), interface("eth2", "10.2.0.1"), interface("bond0.12", "10.3.0.1")});
  n.interfaces[6].up = false;
  n = chosen(n);
  EXPECT_EQ(n.network.socket_ifname, "bond0.12");
  EXPECT_EQ(reason_of(n, "eth2"), "interface-down");
  EXPECT_EQ(reason_of(n, "eth1"), "no-address");
  EXPECT_EQ(reason_of(n, "lo"), "loopback");
}

TEST(Interfaces, WithoutKnownAddressesAreNotGuessed) {
  EXPECT_EQ(chosen(node("n", {}, {interface("lo"), interface("eth0"), interface("eth1")})).network.socket_ifname, "");
}

TEST(Interfaces, OnlyLinkLocalOrOverlayServeIfNothingElseIsThere) {
  EXPECT_EQ(chosen(node("n", {}, {interface("lo", "127.0.0.1", 8), interface("eth0", "169.254.3.1", 16)})).network.socket_ifname, "eth0");
  EXPECT_EQ(chosen(node("n", {}, {interface("lo", "127.0.0.1", 8), interface("veth0", "10.3.0.1")})).network.socket_ifname, "veth0");
}

TEST(Interfaces, OfTheUserAreCheckedAgainstTheNode) {
  Node n = node("n", {}, {interface("eth0", "10.0.0.1"), interface("eth1", "10.1.0.1"), interface("eth10", "10.2.0.1")});
  set(n, "NCCL_SOCKET_IFNAME", "bond0");
  EXPECT_TRUE(finding(chosen(n).findings, "user-socket-ifname-unknown"));
  EXPECT_EQ(chosen(n).network.socket_ifname, "bond0");
  n.settings[0].value = "eth1";
  EXPECT_TRUE(finding(chosen(n).findings, "user-socket-ifname-prefix"));
  n.settings[0].value = "=eth1";
  n.interfaces[1].up = false;
  EXPECT_TRUE(finding(chosen(n).findings, "user-socket-ifname-down"));
  n.settings[0].value = "^eth0,eth1";  // prefixes: eth10 goes too
  EXPECT_EQ(chosen(n).network.socket_ifname, "");
}

TEST(Affinity, IsOfTheNearestChosenNics) {
  Node n = dgx();
  n.hcas[3].ports[0].state = PortState::down;
  n = chosen(n);
  ASSERT_TRUE(n.network.gpu_nic_affinity);
  const auto& affinity = *n.network.gpu_nic_affinity;
  EXPECT_EQ(affinity.at("GPU0"), (Names{"mlx5_0"}));
  EXPECT_EQ(affinity.at("GPU3"), (Names{"mlx5_0", "mlx5_1", "mlx5_2"}));
  EXPECT_EQ(n.network.gdr_by_default, true);
}

TEST(Affinity, AcrossSocketsIsNone) {
  Node n = dgx();
  for (Path& path : n.paths) path.kind = PathKind::sys;
  n = chosen(n);
  EXPECT_EQ(n.network.gpu_nic_affinity->at("GPU0"), kNone);
  EXPECT_EQ(n.network.gdr_by_default, false);
  EXPECT_TRUE(finding(n.findings, "gdr-off-by-distance"));
}

TEST(Affinity, GivesTheRateThatAGpuCanExpect) {
  EXPECT_DOUBLE_EQ(chosen(dgx()).network.gb_per_s_per_gpu, 50);
  Node n = dgx();
  n.hcas.resize(4);
  EXPECT_DOUBLE_EQ(chosen(n).network.gb_per_s_per_gpu, 50.0 / 5);  // four GPUs share four far ones, which serve their own GPU too
  n = node("n", {}, {interface("eth0", "10.0.0.1", 24, 100000)});
  n.gpus = {gpu(0), gpu(1)};
  n.gpus_complete = true;
  EXPECT_DOUBLE_EQ(chosen(n).network.gb_per_s_per_gpu, 6.25);
}

TEST(Environment, OfInfiniBandNamesPortsExactly) {
  Node n = node("n", {ib("mlx5_0"), ib("mlx5_1")}, {interface("eth0", "10.0.0.1")});
  n = chosen(n);
  EXPECT_EQ(value_of(n, "NCCL_IB_DISABLE"), "0");
  EXPECT_EQ(value_of(n, "NCCL_IB_HCA"), "=mlx5_0:1,mlx5_1:1");
  EXPECT_EQ(value_of(n, "NCCL_SOCKET_IFNAME"), "=eth0");
  EXPECT_EQ(value_of(n, "GLOO_SOCKET_IFNAME"), "eth0");
  EXPECT_EQ(value_of(n, "UCX_NET_DEVICES"), "mlx5_0:1,mlx5_1:1");
  EXPECT_EQ(value_of(n, "OMPI_MCA_btl_tcp_if_include"), "eth0");
  EXPECT_EQ(value_of(n, "NCCL_IB_GID_INDEX"), "");
  EXPECT_EQ(value_of(n, "NCCL_IB_TIMEOUT"), "");
  EXPECT_EQ(value_of(n, "NCCL_NET_GDR_LEVEL"), "");
}

TEST(Environment, SetsTheGidIndexOnlyForOldNccl) {
  Node n = node("n", {roce("mlx5_bond_0")});
  give_address(n.hcas[0].ports[0], "10.0.0.1");
  n.host.nccl_version = "2.21.5";
  EXPECT_EQ(value_of(chosen(n), "NCCL_IB_GID_INDEX"), "");
  EXPECT_EQ(value_of(chosen(n), "NCCL_IB_QPS_PER_CONNECTION"), "4");
  n.host.nccl_version = "2.18.3";
  EXPECT_EQ(value_of(chosen(n), "NCCL_IB_GID_INDEX"), "3");
}

TEST(Environment, OfSocketsForcesThemOnEveryPath) {
  const Node n = chosen(node("n", {}, {interface("eth0", "10.0.0.1", 24, 100000)}));
  EXPECT_EQ(value_of(n, "NCCL_NET"), "Socket");
  EXPECT_EQ(value_of(n, "NCCL_IB_DISABLE"), "1");
  EXPECT_EQ(value_of(n, "NCCL_IBEXT_DISABLE"), "1");
  EXPECT_EQ(value_of(n, "NCCL_SOCKET_NTHREADS"), "4");
  EXPECT_EQ(value_of(chosen(node("n", {}, {interface("eth0", "10.0.0.1", 24, 10000)})), "NCCL_SOCKET_NTHREADS"), "");
}

TEST(Environment, KeepsWhatTheUserSet) {
  Node n = node("n", {ib("mlx5_0")}, {interface("eth0", "10.0.0.1")});
  set(n, "NCCL_SOCKET_IFNAME", "eth0", "/etc/nccl.conf");
  n = chosen(n);
  EXPECT_EQ(value_of(n, "NCCL_SOCKET_IFNAME"), "eth0");
  EXPECT_TRUE(std::any_of(n.network.environment.begin(), n.network.environment.end(), [](const EnvironmentVariable& v) { return v.name == "NCCL_SOCKET_IFNAME" && v.users; }));
  EXPECT_TRUE(finding(n.findings, "nccl-conf-applies"));
}

TEST(Environment, OfAJobOnOneNodeIsEmpty) {
  Cluster cluster;
  cluster.nodes.push_back(node("n", {ib("mlx5_0")}, {interface("eth0", "10.0.0.1")}));
  cluster.node_of_rank = {0, 0};
  choose_network(cluster);
  EXPECT_TRUE(cluster.nodes[0].network.environment.empty());
}

TEST(Environment, KeepsIsolatedRailsApart) {
  Node n = node("n", {roce("rocep80s0"), roce("rocep203s0")});
  set(n, "rail:rocep80s0", "rail0|10.32.16.0/24|no", "rails.csv");
  set(n, "rail:rocep203s0", "rail1|10.32.15.0/24|no", "rails.csv");
  n.host.nccl_version = "2.30.7";
  n = chosen(n);
  EXPECT_EQ(n.network.rails_isolated, true);
  EXPECT_EQ(value_of(n, "NCCL_CROSS_NIC"), "0");
  EXPECT_EQ(value_of(n, "NCCL_IB_HCA"), "=rocep80s0:1:0,rocep203s0:1:1");
  EXPECT_EQ(n.network.ports[0].subnet, "10.32.16.0/24");
}

TEST(Fabrics, OfCloudsAreToldByTheirDevices) {
  Node aws = node("n");
  aws.hcas_complete = false;
  Hca efa = hca("rdmap16s27", port(LinkLayer::unknown));
  efa.vendor_id = 0x1d0f;
  aws.hcas.push_back(efa);
  aws.host.uverbs = Names{"uverbs0", "uverbs1", "uverbs2", "uverbs3"};
  aws = chosen(aws);
  EXPECT_EQ(aws.network.efa_count, 4);
  EXPECT_EQ(aws.network.fallback_reason, "efa-needs-plugin");
  EXPECT_TRUE(finding(aws.findings, "plugin-fabric"));

  Node google = node("n", {}, {interface("enp0s12", "10.0.0.6", 32)});
  google.interfaces[0].mac = "42:01:0a:00:00:06";
  for (int i = 1; i <= 4; ++i) {
    google.interfaces.push_back(interface("eth" + std::to_string(i), "10.0." + std::to_string(i) + ".4", 32));
    google.interfaces.back().mac = "42:01:0a:00:0" + std::to_string(i) + ":04";
  }
  EXPECT_EQ(chosen(google).network.plugin_fabric, "tcpx");
  for (int i = 5; i <= 8; ++i) {
    google.interfaces.push_back(interface("eth" + std::to_string(i), "10.0." + std::to_string(i) + ".4", 32));
    google.interfaces.back().mac = "42:01:0a:00:0" + std::to_string(i) + ":04";
  }
  EXPECT_EQ(chosen(google).network.plugin_fabric, "tcpxo");
  google.interfaces.resize(1);
  EXPECT_EQ(chosen(google).network.plugin_fabric, "");
}

TEST(Checks, OfANodeNameWhatSlowsOrBreaksIt) {
  Node n = dgx();
  n.host.peer_memory = n.host.dma_buf = false;
  n.host.memlock_bytes = 65536;
  n.host.rdma_cm = false;
  n.host.shm_bytes = 64 << 20;
  n.host.iommu = "translated";
  n.host.fabric_manager = false;
  n.gpus[0].nvlinks.push_back({NvLink::Remote::nvswitch, "", 18, 0});
  const Node bare = chosen(n);
  for (const char* code : {"gdr-off-no-peermem", "memlock-finite", "no-rdma-cm", "shm-small", "iommu-translated", "fabric-manager-off"}) EXPECT_TRUE(finding(bare.findings, code)) << code;
  n.host.virtual_machine = true;
  const Node guest = chosen(n);
  EXPECT_FALSE(finding(guest.findings, "iommu-translated"));
  n.host.dma_buf = true;
  n.host.memlock_bytes = -1;
  EXPECT_FALSE(finding(chosen(n).findings, "gdr-off-no-peermem"));
  EXPECT_FALSE(finding(chosen(n).findings, "memlock-finite"));
}

TEST(Checks, OfSeveralHcasInOneSubnetWarn) {
  Node n = node("n", {roce("mlx5_0"), roce("mlx5_1")}, {interface("eth1", "10.1.0.1"), interface("eth2", "10.1.0.2")});
  n.hcas[0].ports[0].netdevs = {"eth1"};
  n.hcas[1].ports[0].netdevs = {"eth2"};
  EXPECT_TRUE(finding(chosen(n).findings, "hcas-share-subnet"));
  n.interfaces[1].addresses[0] = {"10.1.0.2", 31};
  n.interfaces[0].addresses[0] = {"10.1.0.3", 31};
  EXPECT_FALSE(finding(chosen(n).findings, "hcas-share-subnet"));
}

TEST(Checks, KeepWhatImportersFound) {
  Node n = node("n");
  n.findings.push_back({"truncated", Severity::warning, {"n"}, "cut", {}, ""});
  Cluster cluster = chosen(std::vector<Node>{n});
  choose_network(cluster);
  EXPECT_EQ(std::count_if(cluster.nodes[0].findings.begin(), cluster.nodes[0].findings.end(), [](const Finding& f) { return f.code == "truncated"; }), 1);
  EXPECT_EQ(std::count_if(cluster.nodes[0].findings.begin(), cluster.nodes[0].findings.end(), [](const Finding& f) { return f.code == "socket-fallback"; }), 1);
}

TEST(Ports, OfAPlainNodeNeedLittleOfAnything) {
  EXPECT_EQ(chosen(Node{}).network.transport, Transport::unknown);
  Cluster empty;
  choose_network(empty);
  EXPECT_TRUE(empty.findings.empty());
}
