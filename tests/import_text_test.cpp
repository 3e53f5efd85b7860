// Importers of what tools print: the formats of several versions, cut, mixed and garbled.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "topology/importers.hpp"

using namespace dsinfer;
using namespace dsinfer::topology;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

namespace {

const Importer* const kAll[] = {&kIbvDevinfo, &kIbstat, &kIbstatus, &kShowGids, &kIbdev2netdev, &kRdmaLink, &kUverbsListing, &kFiInfo,
                                &kIpAddr,     &kIpBrief, &kIpRoute,  &kIpJson,   &kIfconfig,
                                &kInterfacesCsv, &kRailsCsv, &kVersionsCsv, &kGpusCsv, &kSettings, &kNcclLog, &kNcclGraph};

// Formats that claim the text.
std::vector<std::string> claims(std::string_view text) {
  std::vector<std::string> formats;
  for (const Importer* importer : kAll) {
    if (importer->recognises(tidy_text(text))) formats.emplace_back(importer->format);
  }
  return formats;
}

Node read(const Importer& importer, std::string_view text) {
  const std::string plain = tidy_text(text);
  EXPECT_TRUE(importer.recognises(plain)) << importer.format << " does not know its own text";
  Capture capture{plain, "x.txt", {}};
  importer.read(capture);
  return capture.node;
}

std::vector<std::string> codes(const Node& node) {
  std::vector<std::string> all;
  for (const Finding& finding : node.findings) all.push_back(finding.code);
  return all;
}

std::vector<std::string> names(const Node& node) {
  std::vector<std::string> all;
  for (const Interface& interface : node.interfaces) all.push_back(interface.name);
  return all;
}
std::vector<std::string> kinds(const Node& node) {
  std::vector<std::string> all;
  for (const Interface& interface : node.interfaces) all.push_back(interface.kind);
  return all;
}

const HcaPort& first_port(const Node& node, size_t hca = 0) {
  static const HcaPort none;
  if (node.hcas.size() <= hca || node.hcas[hca].ports.empty()) {
    ADD_FAILURE() << "no port";
    return none;
  }
  return node.hcas[hca].ports[0];
}

}  // namespace

// ibv_devinfo ------------------------------------------------------------------------------------------------------------------------------

// rdma-core 39, ConnectX-6 Dx on bare metal
constexpr const char* kDevinfoVerbose =
    "hca_id:\tmlx5_0\n\ttransport:\t\t\tInfiniBand (0)\n\tfw_ver:\t\t\t\t22.35.2302\n\tnode_guid:\t\t\t946d:ae03:00c2:b690\n"
    "\tsys_image_guid:\t\t\t946d:ae03:00c2:b690\n\tvendor_id:\t\t\t0x02c9\n\tvendor_part_id:\t\t\t4125\n\thw_ver:\t\t\t\t0x0\n"
    "\tboard_id:\t\t\tMT_0000000359\n\tphys_port_cnt:\t\t\t1\n\tmax_mr_size:\t\t\t0xffffffffffffffff\n\tdevice_cap_flags:\t\t0x25361c36\n"
    "\t\t\t\t\tBAD_PKEY_CNTR\n\t\tport:\t1\n\t\t\tstate:\t\t\tPORT_ACTIVE (4)\n\t\t\tmax_mtu:\t\t4096 (5)\n\t\t\tactive_mtu:\t\t1024 (3)\n"
    "\t\t\tsm_lid:\t\t\t0\n\t\t\tport_lid:\t\t0\n\t\t\tport_lmc:\t\t0x00\n\t\t\tlink_layer:\t\tEthernet\n\t\t\tgid_tbl_len:\t\t255\n"
    "\t\t\tactive_width:\t\t4X (2)\n\t\t\tactive_speed:\t\t25.0 Gbps (32)\n\t\t\tphys_state:\t\tLINK_UP (5)\n"
    "\t\t\tGID[  0]:\t\tfe80:0000:0000:0000:966d:aeff:fec2:b690, RoCE v1\n\t\t\tGID[  1]:\t\tfe80::966d:aeff:fec2:b690, RoCE v2\n"
    "\t\t\tGID[  2]:\t\t0000:0000:0000:0000:0000:ffff:0a00:0001, RoCE v1\n\t\t\tGID[  3]:\t\t::ffff:10.0.0.1, RoCE v2\n\n";

TEST(IbvDevinfo, ReadsDevicePortAndGidTable) {
  const Node node = read(kIbvDevinfo, kDevinfoVerbose);
  ASSERT_THAT(node.hcas, SizeIs(1));
  const Hca& hca = node.hcas[0];
  EXPECT_EQ(hca.name, "mlx5_0");
  EXPECT_EQ(hca.node_type, Hca::NodeType::ca);
  EXPECT_EQ(hca.vendor_id, 0x02c9u);
  EXPECT_EQ(hca.part_id, 4125u);
  EXPECT_EQ(hca.firmware, "22.35.2302");
  EXPECT_EQ(hca.board_id, "MT_0000000359");
  EXPECT_EQ(hca.node_guid, "946d:ae03:00c2:b690");
  EXPECT_EQ(hca.port_count, 1);
  EXPECT_EQ(hca.openable, true);
  const HcaPort& port = first_port(node);
  EXPECT_EQ(port.state, PortState::active);
  EXPECT_EQ(port.phys_state, "LinkUp");
  EXPECT_EQ(port.link_layer, LinkLayer::ethernet);
  EXPECT_EQ(port.active_mtu, 1024);
  EXPECT_EQ(port.lid, 0);
  EXPECT_EQ(port.rate_gbps, 100);
  EXPECT_TRUE(port.gid_table);
  ASSERT_THAT(port.gids, SizeIs(4));
  EXPECT_EQ(port.gids[0].address, "fe80::966d:aeff:fec2:b690");
  EXPECT_EQ(port.gids[0].roce_version, 1);
  EXPECT_EQ(port.gids[3].index, 3);
  EXPECT_EQ(port.gids[3].address, "::ffff:10.0.0.1");
  EXPECT_EQ(port.gids[3].roce_version, 2);
  EXPECT_THAT(node.findings, IsEmpty());
  EXPECT_FALSE(node.hcas_complete);
}

TEST(IbvDevinfo, WithoutVerboseThereIsNoRateAndNoTable) {
  const Node node = read(kIbvDevinfo,
                         "hca_id: mlx4_0\n  transport: InfiniBand (0)\n  phys_port_cnt: 2\n    port: 1\n      state: PORT_INIT (2)\n      sm_lid: 0\n"
                         "      link_layer: IB\n    port: 2\n      state: PORT_DOWN (1)\n      link_layer: Ethernet\nhca_id: mlx4_1\n  phys_port_cnt: 0\n");
  ASSERT_THAT(node.hcas, SizeIs(2));
  ASSERT_THAT(node.hcas[0].ports, SizeIs(2));
  EXPECT_EQ(node.hcas[0].ports[0].state, PortState::init);
  EXPECT_EQ(node.hcas[0].ports[0].link_layer, LinkLayer::infiniband);
  EXPECT_EQ(node.hcas[0].ports[0].rate_gbps, 0);
  EXPECT_FALSE(node.hcas[0].ports[0].gid_table);
  EXPECT_EQ(node.hcas[0].ports[1].state, PortState::down);
  EXPECT_EQ(node.hcas[1].port_count, 0);
  EXPECT_THAT(node.findings, IsEmpty());
}

TEST(IbvDevinfo, KnowsTransportsByTheirNumber) {
  const auto type = [](const std::string& transport) { return read(kIbvDevinfo, "hca_id: a\n transport: " + transport + "\n").hcas[0].node_type; };
  EXPECT_EQ(type("InfiniBand (0)"), Hca::NodeType::ca);
  EXPECT_EQ(type("eRDMA (0)"), Hca::NodeType::ca);
  EXPECT_EQ(type("iWARP (1)"), Hca::NodeType::rnic);
  EXPECT_EQ(type("usNIC (2)"), Hca::NodeType::usnic);
  EXPECT_EQ(type("usNIC UDP (3)"), Hca::NodeType::usnic);
  EXPECT_EQ(type("unspecified (4)"), Hca::NodeType::unspecified);
  EXPECT_EQ(type("invalid transport (4)"), Hca::NodeType::unspecified);
  EXPECT_EQ(type("invalid transport (-1)"), Hca::NodeType::unknown);
}

TEST(IbvDevinfo, NoDevicesIsAnAnswer) {
  const Node node = read(kIbvDevinfo, "$ ibv_devinfo\nNo IB devices found\n");
  EXPECT_TRUE(node.hcas_complete);
  EXPECT_TRUE(node.rdma_absent);
  EXPECT_THAT(node.hcas, IsEmpty());
}

TEST(IbvDevinfo, AnExcerptIsNoTruncation) {
  const Node node = read(kIbvDevinfo, "hca_id: erdma_0\n  transport: eRDMA (0)\n  phys_port_cnt: 1\n  ...\n");
  EXPECT_THAT(node.findings, IsEmpty());
  EXPECT_THAT(codes(read(kIbvDevinfo, "hca_id: erdma_0\n  phys_port_cnt: 1\n")), ElementsAre("truncated"));
}

TEST(IbvDevinfo, ATableCutInsideIsNoTable) {
  const std::string head = "hca_id: a\n port: 1\n  state: PORT_ACTIVE (4)\n  GID[  0]: fe80::1, RoCE v1\n";
  EXPECT_TRUE(first_port(read(kIbvDevinfo, head)).gid_table);
  EXPECT_FALSE(first_port(read(kIbvDevinfo, head + "  ...\n")).gid_table);
  EXPECT_FALSE(first_port(read(kIbvDevinfo, head + "  ...\n  GID[  5]: ::ffff:10.0.0.1, RoCE v2\n")).gid_table);
  EXPECT_TRUE(first_port(read(kIbvDevinfo, head + "  GID[  3]: ::ffff:10.0.0.1, RoCE v2\n  ...\n")).gid_table);
}

TEST(IbvDevinfo, UnknownSpeedsByTheirCode) {
  const Node node = read(kIbvDevinfo, "hca_id: a\n port: 1\n  state: PORT_ACTIVE (4)\n  active_width: 4X (2)\n  active_speed: invalid speed (128)\n");
  EXPECT_EQ(first_port(node).rate_gbps, 400);
  EXPECT_EQ(first_port(read(kIbvDevinfo, "hca_id: a\n port: 1\n  state: PORT_ACTIVE (4)\n  active_width: invalid width (77)\n  active_speed: 10.0 Gbps (4)\n")).rate_gbps, 0);
}

TEST(IbvDevinfo, GarbledLinesAreLeftOutAndSaid) {
  const Node node = read(kIbvDevinfo, "hca_id: a\n vendor_id: 0xzz\n port: 1\n  state: PORT_AC\n  port_lid: 99999999999999999999\n  GID[ x]: fe80::1\n  GID[  1]: nonsense\n");
  EXPECT_THAT(codes(node), ElementsAre("garbled", "garbled", "garbled", "garbled", "garbled"));
  EXPECT_EQ(first_port(node).state, PortState::unknown);
  EXPECT_EQ(first_port(node).lid, -1);
}

TEST(IbvDevinfo, ReadsTheListOfIbvDevices) {
  const Node node = read(kIbvDevinfo, "    device          \t   node GUID\n    ------          \t----------------\n    mlx5_0          \t98039b0300c5c3e0\n    rxe0 \t0000000000000000\n$ \n");
  ASSERT_THAT(node.hcas, SizeIs(2));
  EXPECT_EQ(node.hcas[0].node_guid, "9803:9b03:00c5:c3e0");
  EXPECT_EQ(node.hcas[1].node_guid, "");
}

TEST(IbvDevinfo, ReadsTheShortList) {  // ibv_devinfo -l
  EXPECT_THAT(read(kIbvDevinfo, "2 HCAs found:\n\tmlx5_0\n\tmlx5_1\n\n").hcas, SizeIs(2));
  EXPECT_TRUE(read(kIbvDevinfo, "0 HCAs found:\n").rdma_absent);
  EXPECT_FALSE(kIbvDevinfo.recognises("No IB devices found is what it printed, though 2 HCAs found: a, b\n"));
}

// ibstat, ibstatus -------------------------------------------------------------------------------------------------------------------------

TEST(Ibstat, ReadsDevicesAndTheErrorAtTheEnd) {
  const Node node = read(kIbstat,
                         "CA 'mlx5_0'\n\tCA type: MT4129\n\tNumber of ports: 1\n\tFirmware version: 28.39.1002\n\tHardware version: 0\n"
                         "\tNode GUID: 0x946dae0300cde72c\n\tSystem image GUID: 0x946dae0300cde72c\n\tPort 1:\n\t\tState: Active\n"
                         "\t\tPhysical state: LinkUp\n\t\tRate: 400\n\t\tBase lid: 75\n\t\tLMC: 0\n\t\tSM lid: 334\n\t\tCapability mask: 0xa751e848\n"
                         "\t\tPort GUID: 0x946dae0300cde72c\n\t\tLink layer: InfiniBand\n"
                         "ibpanic: [1400444] main: stat of IB device 'mlx5_8' failed: No such file or directory\n");
  ASSERT_THAT(node.hcas, SizeIs(2));
  EXPECT_EQ(node.hcas[0].part_id, 4129u);
  EXPECT_EQ(node.hcas[0].node_guid, "946d:ae03:00cd:e72c");
  EXPECT_EQ(node.hcas[0].port_count, 1);
  const HcaPort& port = first_port(node);
  EXPECT_EQ(port.state, PortState::active);
  EXPECT_EQ(port.phys_state, "LinkUp");
  EXPECT_EQ(port.rate_gbps, 400);
  EXPECT_EQ(port.lid, 75);
  EXPECT_EQ(port.sm_lid, 334);
  EXPECT_EQ(port.link_layer, LinkLayer::infiniband);
  EXPECT_EQ(node.hcas[1].name, "mlx5_8");
  EXPECT_TRUE(node.hcas[1].sysfs_missing);
  EXPECT_THAT(codes(node), ElementsAre("sysfs-missing"));
}

TEST(Ibstat, ReadsOnePortAlone) {  // ibstat mlx5_0 1
  const Node node = read(kIbstat, "CA: 'mlx5_0'\nPort 1:\nState: Initializing\nPhysical state: LinkUp\nRate: 40 (FDR10)\nBase lid: 65535\nLink layer: IB\n");
  EXPECT_EQ(first_port(node).state, PortState::init);
  EXPECT_EQ(first_port(node).rate_gbps, 40);
  EXPECT_EQ(first_port(node).link_layer, LinkLayer::infiniband);
}

TEST(Ibstat, SaysWhenTheTextEndsInsideARecord) {
  EXPECT_THAT(codes(read(kIbstat, "CA 'a'\n\tNumber of ports: 2\n\tPort 1:\n\t\tState: Active\n")), ElementsAre("truncated"));
  EXPECT_THAT(codes(read(kIbstat, "CA 'a'\n\tPort 1:\n\t\tState: Act")), ElementsAre("garbled", "truncated"));
}

TEST(Ibstatus, ReadsPortsButNoTable) {
  const Node node = read(kIbstatus,
                         "Infiniband device 'mlx5_bond_0' port 1 status:\n\tdefault gid:\t fe80:0000:0000:0000:0e42:a1ff:fe9a:6766\n\tbase lid:\t 0x0\n"
                         "\tsm lid:\t\t 0x33bf\n\tstate:\t\t 4: ACTIVE\n\tphys state:\t 5: LinkUp\n\trate:\t\t 25 Gb/sec (1X EDR)\n\tlink_layer:\t Ethernet\n\n"
                         "Infiniband device 'mlx5_1' port 2 status:\n\tdefault gid:\t 0000:0000:0000:0000:0000:0000:0000:0000\n\tstate:\t\t 1: DOWN\n\tphys state:\t 3: Disabled\n");
  ASSERT_THAT(node.hcas, SizeIs(2));
  const HcaPort& port = first_port(node);
  EXPECT_EQ(port.state, PortState::active);
  EXPECT_EQ(port.rate_gbps, 25);
  EXPECT_EQ(port.sm_lid, 0x33bf);
  ASSERT_THAT(port.gids, SizeIs(1));
  EXPECT_FALSE(port.gid_table);
  EXPECT_EQ(first_port(node, 1).number, 2);
  EXPECT_EQ(first_port(node, 1).phys_state, "Disabled");
  EXPECT_THAT(first_port(node, 1).gids, IsEmpty());
}

// show_gids, ibdev2netdev, rdma, /dev/infiniband, fi_info ------------------------------------------------------------------------------------

TEST(ShowGids, ReadsRowsWithAndWithoutColumns) {
  const Node node = read(kShowGids,
                         "DEV\tPORT\tINDEX\tGID\t\t\t\t\tIPv4  \t\tVER\tDEV\n---\t----\t-----\t---\t\t\t\t\t------------  \t---\t---\n"
                         "mlx5_0\t1\t4\tfe80:0000:0000:0000:a4ed:ccff:fe8b:1994\t\t\tv1\tnet1\n"
                         "mlx5_0\t1\t7\t0000:0000:0000:0000:0000:ffff:0a98:000c\t10.152.0.12  \tv2\tnet1\n"
                         "mlx5_1 1 0 0000:0000:0000:0000:0000:ffff:0a98:000d\nmlx5_1 1 1 0000:0000:0000:0000:0000:ffff:0a98:000d 10.152.0.13 RoCE v2 eth1\n"
                         "n_gids_found=4\n");
  ASSERT_THAT(node.hcas, SizeIs(2));
  const HcaPort& port = first_port(node);
  EXPECT_TRUE(port.gid_table);
  ASSERT_THAT(port.gids, SizeIs(2));
  EXPECT_EQ(port.gids[1].index, 7);
  EXPECT_EQ(port.gids[1].address, "::ffff:10.152.0.12");
  EXPECT_EQ(port.gids[1].roce_version, 2);
  EXPECT_EQ(port.gids[1].netdev, "net1");
  EXPECT_THAT(port.netdevs, ElementsAre("net1"));
  EXPECT_EQ(first_port(node, 1).gids[0].roce_version, 0);
  EXPECT_EQ(first_port(node, 1).gids[1].roce_version, 2);
  EXPECT_EQ(first_port(node, 1).gids[1].netdev, "eth1");
}

TEST(Ibdev2netdev, ReadsShortAndLongForm) {
  const Node node = read(kIbdev2netdev,
                         "mlx5_0 port 1 ==> ibp26s0 (Down)\n"
                         "0000:05:00.0 mlx5_1 (MT4115 - MCX456A-ECAT) ConnectX-4 VPI adapter card, dual-port QSFP28 fw 12.28.2006 port 1 (ACTIVE) ==> ens1f0 (Up)\n"
                         "mlx5_2 port 1 ==>\n");
  ASSERT_THAT(node.hcas, SizeIs(3));
  EXPECT_THAT(first_port(node).netdevs, ElementsAre("ibp26s0"));
  EXPECT_EQ(first_port(node).netdev_up, false);
  EXPECT_EQ(first_port(node).state, PortState::unknown);
  EXPECT_EQ(first_port(node).link_layer, LinkLayer::unknown);
  EXPECT_EQ(node.hcas[1].bus_id, "0000:05:00.0");
  EXPECT_EQ(node.hcas[1].part_id, 4115u);
  EXPECT_EQ(node.hcas[1].firmware, "12.28.2006");
  EXPECT_EQ(first_port(node, 1).state, PortState::active);
  EXPECT_EQ(first_port(node, 1).netdev_up, true);
  EXPECT_THAT(codes(node), ElementsAre("truncated"));
}

TEST(RdmaLink, ReadsNewAndOldForm) {
  const Node node = read(kRdmaLink,
                         "link mlx5_0/1 state ACTIVE physical_state LINK_UP netdev ens1f0 \n"
                         "link mlx5_1/1 subnet_prefix fe80:0000:0000:0000 lid 13399 sm_lid 49151 lmc 0 state ACTIVE physical_state LINK_UP \n"
                         "2/1: mlx5_2/1: state DOWN physical_state DISABLED netdev ens1f1 \n"
                         "0: mlx5_0: node_type ca fw 28.39.1002 node_guid 946d:ae03:00cd:e72c sys_image_guid 946d:ae03:00cd:e72c \n");
  ASSERT_THAT(node.hcas, SizeIs(3));
  EXPECT_THAT(first_port(node).netdevs, ElementsAre("ens1f0"));
  EXPECT_EQ(first_port(node).phys_state, "LinkUp");
  EXPECT_EQ(first_port(node).link_layer, LinkLayer::unknown);
  EXPECT_EQ(node.hcas[0].node_type, Hca::NodeType::ca);
  EXPECT_EQ(node.hcas[0].node_guid, "946d:ae03:00cd:e72c");
  EXPECT_EQ(first_port(node, 1).link_layer, LinkLayer::infiniband);
  EXPECT_EQ(first_port(node, 1).lid, 13399);
  EXPECT_EQ(first_port(node, 2).state, PortState::down);
  EXPECT_EQ(first_port(node, 2).phys_state, "Disabled");
}

TEST(UverbsListing, ReadsShortAndLongListings) {
  EXPECT_THAT(*read(kUverbsListing, "uverbs10\nuverbs2\nuverbs0\n").host.uverbs, ElementsAre("uverbs0", "uverbs2", "uverbs10"));
  const Node node = read(kUverbsListing,
                         "total 0\ncrw------- 1 root root 231,  64 Nov  1 10:00 issm0\ncrw-rw-rw- 1 root root  10, 121 Nov  1 10:00 rdma_cm\n"
                         "crw-rw-rw- 1 root root 231, 192 Nov  1 10:00 uverbs0\n");
  EXPECT_THAT(*node.host.uverbs, ElementsAre("uverbs0"));
  EXPECT_EQ(node.host.rdma_cm, true);
  EXPECT_EQ(read(kUverbsListing, "issm0 rdma_cm  umad0  uverbs0").host.rdma_cm, true);
  EXPECT_EQ(read(kUverbsListing, "/dev/infiniband/uverbs0 /dev/infiniband/uverbs1").host.uverbs->size(), 2u);
  EXPECT_EQ(read(kUverbsListing, "/dev/infiniband\n\xe2\x94\x9c\xe2\x94\x80\xe2\x94\x80 uverbs0\n|-- uverbs1\n").host.uverbs->size(), 2u);
  EXPECT_FALSE(kUverbsListing.recognises("lrwxrwxrwx 1 root root 0 Nov  1 10:00 uverbs0 -> ../../devices/pci0000:00/infiniband_verbs/uverbs0\n"));
  EXPECT_EQ(read(kUverbsListing, "abi_version\nuverbs0\nuverbs1\n").host.uverbs, std::nullopt);
  EXPECT_THAT(*read(kUverbsListing, "ls: cannot access '/dev/infiniband': No such file or directory\n").host.uverbs, IsEmpty());
}

TEST(FiInfo, ReadsProvidersAndEfaDevices) {
  const Node node = read(kFiInfo,
                         "provider: efa\n    fabric: efa-direct\n    domain: rdmap16s27-rdm\n    version: 122.0\n    type: FI_EP_RDM\n"
                         "provider: tcp;ofi_rxm\n    fabric: 10.0.0.0/24\n    domain: eth0\n");
  EXPECT_THAT(node.host.fabric_providers, ElementsAre("efa", "tcp"));
  ASSERT_THAT(node.hcas, SizeIs(1));
  EXPECT_EQ(node.hcas[0].name, "rdmap16s27");
  EXPECT_EQ(node.hcas[0].node_type, Hca::NodeType::unspecified);
  EXPECT_EQ(node.hcas[0].vendor_id, 0x1d0fu);
}

// ip, ifconfig: captured with iproute2 6.1 and net-tools 2.10 in a network namespace ----------------------------------------------------------

constexpr const char* kIpDetails = R"(1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00 promiscuity 0  allmulti 0 minmtu 0 maxmtu 0
    inet 127.0.0.1/8 scope host lo
    inet6 ::1/128 scope host 
2: veth1@veth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue master br0 state UP group default qlen 1000
    link/ether 52:1d:02:07:95:ad brd ff:ff:ff:ff:ff:ff promiscuity 1  allmulti 1 minmtu 68 maxmtu 65535 
    veth 
    bridge_slave state forwarding
    inet6 fe80::501d:2ff:fe07:95ad/64 scope link tentative 
3: veth0@veth1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP group default qlen 1000
    link/ether 0e:df:9f:02:13:d0 brd ff:ff:ff:ff:ff:ff promiscuity 1  allmulti 0 minmtu 68 maxmtu 65535 
    veth
    inet 10.0.0.5/24 scope global veth0
    inet 10.0.0.6/24 scope global secondary veth0:1
    inet6 fe80::cdf:9fff:fe02:13d0/64 scope link tentative 
4: br0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP group default qlen 1000
    link/ether 52:1d:02:07:95:ad brd ff:ff:ff:ff:ff:ff promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 
    bridge forward_delay 1500
    inet6 fe80::501d:2ff:fe07:95ad/64 scope link tentative 
5: mv0@veth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP group default qlen 1000
    link/ether 8a:7a:06:1d:6f:e6 brd ff:ff:ff:ff:ff:ff promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 
    macvlan mode vepa bcqueuelen 1000 usedbcqueuelen 1000
    inet6 fe80::887a:6ff:fe1d:6fe6/64 scope link tentative 
6: vx0: <BROADCAST,MULTICAST> mtu 1450 qdisc noop state DOWN group default qlen 1000
    link/ether b6:09:e0:dd:cc:30 brd ff:ff:ff:ff:ff:ff promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 
    vxlan id 4 dev veth0 srcport 0 0 dstport 4789 ttl auto ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx
7: tap0: <BROADCAST,MULTICAST> mtu 1500 qdisc noop state DOWN group default qlen 1000
    link/ether de:00:12:ce:8d:04 brd ff:ff:ff:ff:ff:ff promiscuity 0  allmulti 0 minmtu 68 maxmtu 65521 
    tun type tap pi off vnet_hdr off persist on
)";
constexpr const char* kIpJsonText = R"([{"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"mtu":65536,"operstate":"UNKNOWN","link_type":"loopback","address":"00:00:00:00:00:00","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8},{"family":"inet6","local":"::1","prefixlen":128}]},{"link":"veth0","ifname":"veth1","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"master":"br0","operstate":"UP","link_type":"ether","address":"52:1d:02:07:95:ad","linkinfo":{"info_kind":"veth","info_slave_kind":"bridge"},"addr_info":[{"family":"inet6","local":"fe80::501d:2ff:fe07:95ad","prefixlen":64}]},{"link":"veth1","ifname":"veth0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"operstate":"UP","link_type":"ether","address":"0e:df:9f:02:13:d0","linkinfo":{"info_kind":"veth"},"addr_info":[{"family":"inet","local":"10.0.0.5","prefixlen":24},{"family":"inet","local":"10.0.0.6","prefixlen":24},{"family":"inet6","local":"fe80::cdf:9fff:fe02:13d0","prefixlen":64}]},{"ifname":"br0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"operstate":"UP","link_type":"ether","address":"52:1d:02:07:95:ad","linkinfo":{"info_kind":"bridge"},"addr_info":[{"family":"inet6","local":"fe80::501d:2ff:fe07:95ad","prefixlen":64}]},{"link":"veth0","ifname":"mv0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"operstate":"UP","link_type":"ether","address":"8a:7a:06:1d:6f:e6","linkinfo":{"info_kind":"macvlan"},"addr_info":[{"family":"inet6","local":"fe80::887a:6ff:fe1d:6fe6","prefixlen":64}]},{"ifname":"vx0","flags":["BROADCAST","MULTICAST"],"mtu":1450,"operstate":"DOWN","link_type":"ether","address":"b6:09:e0:dd:cc:30","linkinfo":{"info_kind":"vxlan"},"addr_info":[]},{"ifname":"tap0","flags":["BROADCAST","MULTICAST"],"mtu":1500,"operstate":"DOWN","link_type":"ether","address":"de:00:12:ce:8d:04","linkinfo":{"info_kind":"tun"},"addr_info":[]}])";
constexpr const char* kIfconfigText = R"(br0: flags=4163<UP,BROADCAST,RUNNING,MULTICAST>  mtu 1500
        inet6 fe80::501d:2ff:fe07:95ad  prefixlen 64  scopeid 0x20<link>
        ether 52:1d:02:07:95:ad  txqueuelen 1000  (Ethernet)

lo: flags=73<UP,LOOPBACK,RUNNING>  mtu 65536
        inet 127.0.0.1  netmask 255.0.0.0
        inet6 ::1  prefixlen 128  scopeid 0x10<host>
        loop  txqueuelen 1000  (Local Loopback)

mv0: flags=4163<UP,BROADCAST,RUNNING,MULTICAST>  mtu 1500
        inet6 fe80::887a:6ff:fe1d:6fe6  prefixlen 64  scopeid 0x20<link>
        ether 8a:7a:06:1d:6f:e6  txqueuelen 1000  (Ethernet)

tap0: flags=4098<BROADCAST,MULTICAST>  mtu 1500
        ether de:00:12:ce:8d:04  txqueuelen 1000  (Ethernet)

veth0: flags=4163<UP,BROADCAST,RUNNING,MULTICAST>  mtu 1500
        inet 10.0.0.5  netmask 255.255.255.0  broadcast 0.0.0.0
        inet6 fe80::cdf:9fff:fe02:13d0  prefixlen 64  scopeid 0x20<link>
        ether 0e:df:9f:02:13:d0  txqueuelen 1000  (Ethernet)

veth0:1: flags=4163<UP,BROADCAST,RUNNING,MULTICAST>  mtu 1500
        inet 10.0.0.6  netmask 255.255.255.0  broadcast 0.0.0.0
        ether 0e:df:9f:02:13:d0  txqueuelen 1000  (Ethernet)

veth1: flags=4163<UP,BROADCAST,RUNNING,MULTICAST>  mtu 1500
        inet6 fe80::501d:2ff:fe07:95ad  prefixlen 64  scopeid 0x20<link>
        ether 52:1d:02:07:95:ad  txqueuelen 1000  (Ethernet)

vx0: flags=4098<BROADCAST,MULTICAST>  mtu 1450
        ether b6:09:e0:dd:cc:30  txqueuelen 1000  (Ethernet)

)";
constexpr const char* kIpBriefText = R"(lo               UNKNOWN        127.0.0.1/8 ::1/128 
veth1@veth0      UP             fe80::501d:2ff:fe07:95ad/64 
veth0@veth1      UP             10.0.0.5/24 10.0.0.6/24 fe80::cdf:9fff:fe02:13d0/64 
br0              UP             fe80::501d:2ff:fe07:95ad/64 
mv0@veth0        UP             fe80::887a:6ff:fe1d:6fe6/64 
vx0              DOWN           
tap0             DOWN           
)";

TEST(IpAddr, ReadsNamesFlagsKindsAndAddresses) {
  const Node node = read(kIpAddr, kIpDetails);
  ASSERT_THAT(names(node), ElementsAre("lo", "veth1", "veth0", "br0", "mv0", "vx0", "tap0"));
  EXPECT_EQ(kinds(node), (std::vector<std::string>{"loopback", "veth", "veth", "bridge", "macvlan", "tunnel", "tunnel"}));
  const auto& all = node.interfaces;
  EXPECT_EQ(all[0].type, "loopback");
  EXPECT_EQ(all[0].mtu, 65536);
  EXPECT_EQ(all[0].up, true);
  EXPECT_EQ(all[1].master, "br0");
  EXPECT_EQ(all[1].type, "ethernet");
  EXPECT_THAT(all[3].lower, ElementsAre("veth1"));
  EXPECT_THAT(all[4].lower, ElementsAre("veth0"));
  EXPECT_THAT(all[1].lower, IsEmpty());
  EXPECT_EQ(all[5].up, false);
  EXPECT_EQ(all[2].mac, "0e:df:9f:02:13:d0");
  EXPECT_EQ(all[2].addresses, (std::vector<Address>{{"10.0.0.5", 24}, {"10.0.0.6", 24}, {"fe80::cdf:9fff:fe02:13d0", 64}}));
  EXPECT_FALSE(node.interfaces_complete);
  EXPECT_THAT(node.findings, IsEmpty());
}

TEST(IpAddr, JsonAndTextAndIfconfigAgree) {
  Node text = read(kIpAddr, kIpDetails), json = read(kIpJson, kIpJsonText), brief = read(kIpBrief, kIpBriefText), old = read(kIfconfig, kIfconfigText);
  EXPECT_TRUE(json.interfaces_complete);
  EXPECT_EQ(text.interfaces, json.interfaces);
  ASSERT_EQ(names(text), names(brief));
  for (size_t i = 0; i < text.interfaces.size(); ++i) {
    EXPECT_EQ(text.interfaces[i].addresses, brief.interfaces[i].addresses);
    EXPECT_EQ(text.interfaces[i].lower.empty(), brief.interfaces[i].lower.empty() && text.interfaces[i].name != "br0") << text.interfaces[i].name;
    EXPECT_EQ(text.interfaces[i].up, brief.interfaces[i].up);
    const auto same = std::find_if(old.interfaces.begin(), old.interfaces.end(), [&](const Interface& o) { return o.name == text.interfaces[i].name; });
    ASSERT_NE(same, old.interfaces.end());
    EXPECT_EQ(same->up, text.interfaces[i].up);
    EXPECT_EQ(same->mtu, text.interfaces[i].mtu);
    EXPECT_EQ(same->type, text.interfaces[i].type);
    EXPECT_THAT(same->addresses, testing::UnorderedElementsAreArray(text.interfaces[i].addresses));
  }
}

TEST(IpAddr, ReadsVlansBondsAndInfiniBand) {
  const Node node = read(kIpAddr,
                         "4: ib0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 2044 qdisc mq state UP group default qlen 256\n"
                         "    link/infiniband 80:00:10:fe:fe:80:00:00:00:00:00:00:b8:59:9f:03:00:c9:23:9c brd 00:ff\n    inet 192.168.0.4/24 scope global ib0\n"
                         "5: eth2: <BROADCAST,MULTICAST,SLAVE,UP,LOWER_UP> mtu 9000 qdisc mq master bond0 state UP mode DEFAULT group default qlen 1000\n"
                         "    link/ether 0c:42:a1:9a:67:66 brd ff:ff:ff:ff:ff:ff promiscuity 0 minmtu 68 maxmtu 9978 \n    bond_slave state ACTIVE mii_status UP numtxqueues 63 parentbus pci parentdev 0000:8b:00.0 \n"
                         "    altname enp139s0f0np0\n"
                         "6: bond0: <BROADCAST,MULTICAST,MASTER,UP,LOWER_UP> mtu 9000 qdisc noqueue state UP group default qlen 1000\n    link/ether 0c:42:a1:9a:67:66 brd ff:ff:ff:ff:ff:ff promiscuity 0\n"
                         "    bond mode 802.3ad miimon 100\n"
                         "7: bond0.503@bond0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 9000 qdisc noqueue state UP\n    link/ether 0c:42:a1:9a:67:66 brd ff:ff:ff:ff:ff:ff promiscuity 0\n"
                         "    vlan protocol 802.1Q id 503 <REORDER_HDR>\n    inet 172.16.163.31/24 scope global bond0.503\n"
                         "8: eth3: <NO-CARRIER,BROADCAST,MULTICAST,UP> mtu 1500 qdisc mq state DOWN group default qlen 1000\n"
                         "9: net1@if12: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP\n    inet 10.152.0.12/22 scope global net1\n");
  const auto& all = node.interfaces;
  ASSERT_THAT(names(node), ElementsAre("ib0", "eth2", "bond0", "bond0.503", "eth3", "net1"));
  EXPECT_EQ(all[0].type, "infiniband");
  EXPECT_EQ(all[1].kind, "physical");
  EXPECT_EQ(all[1].bus_id, "0000:8b:00.0");
  EXPECT_EQ(all[1].master, "bond0");
  EXPECT_EQ(all[2].kind, "bond");
  EXPECT_THAT(all[2].lower, ElementsAre("eth2"));
  EXPECT_EQ(all[3].kind, "vlan");
  EXPECT_THAT(all[3].lower, ElementsAre("bond0"));
  EXPECT_EQ(all[4].up, false);
  EXPECT_THAT(all[5].lower, IsEmpty());
  EXPECT_EQ(all[5].kind, "");
}

TEST(IpAddr, ReadsOneLineForm) {
  const Node node = read(kIpAddr,
                         "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever\n"
                         "2: eth0    inet 10.0.0.5/24 brd 10.0.0.255 scope global eth0\\       valid_lft forever preferred_lft forever\n2: eth0    inet6 fe80::1/64 scope link \n");
  ASSERT_THAT(names(node), ElementsAre("lo", "eth0"));
  EXPECT_EQ(node.interfaces[1].addresses, (std::vector<Address>{{"10.0.0.5", 24}, {"fe80::1", 64}}));
  const Node link = read(kIpAddr, "2: eth0: <BROADCAST,UP,LOWER_UP> mtu 1500 state UP mode DEFAULT\\    link/ether 52:1d:02:07:95:ad brd ff:ff:ff:ff:ff:ff\n");
  EXPECT_EQ(link.interfaces[0].mac, "52:1d:02:07:95:ad");
}

TEST(IpAddr, SaysWhatIsGarbledOrCut) {
  EXPECT_THAT(codes(read(kIpAddr, "1: lo: <LOOPBACK,UP> mtu 65536\n    inet 300.0.0.1/8\n2: eth0: <BROADC")), ElementsAre("garbled", "truncated"));
  EXPECT_EQ(read(kIpAddr, "1: lo: <LOOPBACK,UP> mtu 99999999999999999999\n").interfaces[0].mtu, 0);
  EXPECT_THAT(codes(read(kIpJson, R"([{"ifname":"lo","flags":["UP"]},{"ifname":"eth0","fla)")), ElementsAre("truncated"));
  EXPECT_FALSE(read(kIpJson, R"([{"ifname":"lo","flags":["UP"]},{"ifname":"eth0","flags":[]},{"ifn)").interfaces_complete);
  EXPECT_THAT(codes(read(kIpJson, R"([{"ifname":"lo",,}])")), ElementsAre("garbled"));
}

TEST(IpBrief, ReadsAddressesOfPeersAndInfiniBand) {
  const Node node = read(kIpBrief,
                         "lo               UNKNOWN        127.0.0.1/8 ::1/128 \ntun0             UNKNOWN        10.9.0.1 peer 10.9.0.2/32 \n"
                         "eth0             UP             10.0.0.5/24 metric 100 fe80::1/64 \ndocker0 DOWN\n");
  ASSERT_THAT(names(node), ElementsAre("lo", "tun0", "eth0", "docker0"));
  EXPECT_EQ(node.interfaces[1].addresses, (std::vector<Address>{{"10.9.0.1", 32}}));
  EXPECT_THAT(node.interfaces[2].addresses, SizeIs(2));
  EXPECT_EQ(node.interfaces[3].up, false);
  EXPECT_THAT(node.findings, IsEmpty());
  const Node link = read(kIpBrief, "ib0 UP 80:00:10:fe:fe:80:00:00:00:00:00:00:b8:59:9f:03:00:c9:23:9c <BROADCAST,MULTICAST,UP,LOWER_UP>\neth1 DOWN 52:1d:02:07:95:ad <NO-CARRIER,BROADCAST,UP>\n");
  EXPECT_EQ(link.interfaces[0].type, "infiniband");
  EXPECT_EQ(link.interfaces[1].up, false);
}

TEST(IpRoute, TheLowestMetricHoldsTheDefaultRoute) {
  const auto holder = [](std::string_view text, const Importer& importer = kIpRoute) {
    for (const Interface& interface : read(importer, text).interfaces) {
      if (interface.default_route) return interface.name;
    }
    return std::string();
  };
  EXPECT_EQ(holder("default via 203.0.113.1 dev wlP9s9 proto dhcp src 203.0.113.10 metric 600 \n"), "wlP9s9");
  EXPECT_EQ(holder("default via 10.0.0.1 dev a metric 600\ndefault via 10.1.0.1 dev b proto dhcp metric 100\n"), "b");
  EXPECT_EQ(holder("default via 10.0.0.1 dev a metric 600\ndefault via 10.1.0.1 dev b\n"), "b");
  EXPECT_EQ(holder("default via fe80::1 dev a proto ra metric 100\ndefault via 10.1.0.1 dev b metric 200\n"), "b");
  EXPECT_EQ(holder("default proto static metric 100 \n\tnexthop via 10.0.0.1 dev a weight 1 \n\tnexthop via 10.1.0.1 dev b weight 1\n"), "a");
  EXPECT_EQ(holder("default via 10.0.0.1 dev a table 100\ndefault dev ppp0 scope link\n"), "ppp0");
  EXPECT_EQ(holder("Kernel IP routing table\nDestination     Gateway         Genmask         Flags Metric Ref    Use Iface\n"
                   "0.0.0.0         10.0.0.1        0.0.0.0         UG    100    0        0 veth0\n10.0.0.0        0.0.0.0         255.255.255.0   U     0      0        0 x\n"),
            "veth0");
  EXPECT_EQ(holder(R"([{"dst":"default","gateway":"10.0.0.1","dev":"a","metric":100,"flags":[]},{"dst":"default","dev":"b","flags":[]}])", kIpJson), "b");
  const Node node = read(kIpRoute, "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.5 \n172.17.0.0/16 dev docker0 proto kernel scope link src 172.17.0.1 linkdown \n");
  ASSERT_THAT(names(node), ElementsAre("eth0", "docker0"));
  EXPECT_EQ(node.interfaces[0].addresses, (std::vector<Address>{{"10.0.0.5", 24}}));
  EXPECT_EQ(node.interfaces[1].up, false);
}

TEST(Ifconfig, ReadsTheOldForm) {  // net-tools 1.60
  const Node node = read(kIfconfig,
                         "eth0      Link encap:Ethernet  HWaddr 00:1B:21:5D:7A:11  \n          inet addr:10.0.0.5  Bcast:10.0.3.255  Mask:255.255.252.0\n"
                         "          inet6 addr: fe80::21b:21ff:fe5d:7a11/64 Scope:Link\n          UP BROADCAST RUNNING MULTICAST  MTU:9000  Metric:1\n"
                         "          RX packets:1 errors:0\n\neth0:1    Link encap:Ethernet  HWaddr 00:1B:21:5D:7A:11  \n          inet addr:10.0.9.5  Mask:255.255.255.0\n"
                         "ib0       Link encap:InfiniBand  HWaddr 80:00:00:48:FE:80  \n          UP BROADCAST MULTICAST  MTU:2044  Metric:1\n"
                         "lo        Link encap:Local Loopback  \n          inet addr:127.0.0.1  Mask:255.0.0.0\n          UP LOOPBACK RUNNING  MTU:65536  Metric:1\n");
  ASSERT_THAT(names(node), ElementsAre("eth0", "ib0", "lo"));
  EXPECT_EQ(node.interfaces[0].addresses, (std::vector<Address>{{"10.0.0.5", 22}, {"fe80::21b:21ff:fe5d:7a11", 64}, {"10.0.9.5", 24}}));
  EXPECT_EQ(node.interfaces[0].mtu, 9000);
  EXPECT_EQ(node.interfaces[0].mac, "00:1b:21:5d:7a:11");
  EXPECT_EQ(node.interfaces[1].up, false);
  EXPECT_EQ(node.interfaces[1].type, "infiniband");
  EXPECT_EQ(node.interfaces[2].kind, "loopback");
}

// Tables -----------------------------------------------------------------------------------------------------------------------------------------

TEST(InterfacesCsv, ReadsAddressesAndStates) {
  const Node node = read(kInterfacesCsv, "name,ipv4,prefix_unknown,state\nlo,127.0.0.1,8,UNKNOWN\nenp67s0,192.168.157.54,,UP\nenp68s0,nonsense,,DOWN\n");
  ASSERT_THAT(names(node), ElementsAre("lo", "enp67s0", "enp68s0"));
  EXPECT_EQ(node.interfaces[0].kind, "loopback");
  EXPECT_EQ(node.interfaces[0].addresses, (std::vector<Address>{{"127.0.0.1", 8}}));
  EXPECT_EQ(node.interfaces[1].addresses, (std::vector<Address>{{"192.168.157.54", -1}}));
  EXPECT_EQ(node.interfaces[1].up, true);
  EXPECT_EQ(node.interfaces[2].up, false);
  EXPECT_THAT(codes(node), ElementsAre("garbled"));
}

TEST(RailsCsv, KeepsRoleSubnetAndRouting) {
  const Node node = read(kRailsCsv,
                         "hca,netdev,subnet,role,routed_to_other_rails\nrocep80s0,ens2005np0,10.32.16.0/24,rail0,no\n"
                         "rocep203s0,ens5008np0,10.32.15.0/24,rail1,no\r\nrocep167s0f0,ens80f0np0,10.32.12.0/24,out-of-band,\nx,y,no subnet,rail2,\n");
  ASSERT_THAT(node.hcas, SizeIs(4));
  EXPECT_THAT(first_port(node).netdevs, ElementsAre("ens2005np0"));
  const auto facts = rail_facts(node);
  ASSERT_THAT(facts, SizeIs(3));
  EXPECT_EQ(facts[0].hca, "rocep80s0");
  EXPECT_EQ(facts[0].role, "rail0");
  EXPECT_EQ(facts[0].subnet, "10.32.16.0/24");
  EXPECT_EQ(facts[0].routed, false);
  EXPECT_EQ(facts[2].role, "out-of-band");
  EXPECT_EQ(facts[2].routed, std::nullopt);
  ASSERT_THAT(names(node), ElementsAre("ens2005np0", "ens5008np0", "ens80f0np0"));
  EXPECT_FALSE(node.interfaces[0].out_of_band);
  EXPECT_TRUE(node.interfaces[2].out_of_band);
  EXPECT_THAT(codes(node), ElementsAre("garbled"));
}

TEST(VersionsCsv, GivesOneNodeALine) {
  const std::string text = "node,kernel,nvidia_driver,cuda_driver\ns114,6.11.0-26-generic,570.133.20,12.8\ns116,6.11.0-19-generic,550.144.03,12.4\n";
  const auto nodes = read_versions_csv(text, "versions.csv");
  ASSERT_THAT(nodes, SizeIs(2));
  EXPECT_EQ(nodes[1].name, "s116");
  EXPECT_EQ(nodes[1].host.kernel, "6.11.0-19-generic");
  EXPECT_EQ(nodes[1].host.driver_version, "550.144.03");
  EXPECT_EQ(nodes[1].host.cuda_driver_version, "12.4");
  EXPECT_EQ(read(kVersionsCsv, text).host, Host());
  EXPECT_EQ(read(kVersionsCsv, "node,nvidia_driver\na,550.1\n").host.driver_version, "550.1");
}

TEST(GpusCsv, ReadsAnySubsetOfColumns) {
  const Node a = read(kGpusCsv, "index,name,memory_total_mib,compute_cap,driver_version\n0,NVIDIA A100-SXM4-80GB,81920,8.0,580.105.08\n1,NVIDIA A100-SXM4-80GB,81920,8.0,580.105.08\n");
  ASSERT_THAT(a.gpus, SizeIs(2));
  EXPECT_TRUE(a.gpus_complete);
  EXPECT_EQ(a.gpus[1].label, "GPU1");
  EXPECT_EQ(a.gpus[1].memory_bytes, 81920ll << 20);
  EXPECT_EQ(a.gpus[1].compute_major, 8);
  EXPECT_EQ(a.host.driver_version, "580.105.08");
  const Node b = read(kGpusCsv,
                      "index, name, uuid, pci.bus_id, memory.total [MiB], mig.mode.current, pcie.link.gen.max, pcie.link.width.max\n"
                      "0, NVIDIA H100 80GB HBM3, GPU-8d3a, 00000000:19:00.0, 81559 MiB, Disabled, 5, 16\n1, NVIDIA GB10, GPU-1, 0000000F:01:00.0, [N/A], [N/A], 9, x\n");
  ASSERT_THAT(b.gpus, SizeIs(2));
  EXPECT_EQ(b.gpus[0].bus_id, "0000:19:00.0");
  EXPECT_EQ(b.gpus[0].memory_bytes, 81559ll << 20);
  EXPECT_EQ(b.gpus[0].mig, false);
  EXPECT_NEAR(b.gpus[0].pcie_gb_per_s, 63, 0.1);
  EXPECT_EQ(b.gpus[1].bus_id, "000f:01:00.0");
  EXPECT_EQ(b.gpus[1].memory_bytes, 0);
  EXPECT_EQ(b.gpus[1].mig, std::nullopt);
}

TEST(GpusCsv, ReadsLinesWithoutAHeading) {
  const Node node = read(kGpusCsv, "0, NVIDIA H100 80GB HBM3, 00000000:19:00.0, 81559 MiB, 9.0, 570.133.20\n3, NVIDIA H100 80GB HBM3, 00000000:3B:00.0, 81559 MiB, 9.0, 570.133.20\n");
  ASSERT_THAT(node.gpus, SizeIs(2));
  EXPECT_EQ(node.gpus[1].label, "GPU3");
  EXPECT_EQ(node.gpus[1].bus_id, "0000:3b:00.0");
  EXPECT_EQ(node.gpus[1].compute_major, 9);
  EXPECT_EQ(node.host.driver_version, "570.133.20");
  EXPECT_THAT(codes(read(kGpusCsv, "index,name,uuid\n0,NVIDIA A2,GPU-1\n1,NVID")), ElementsAre("truncated"));
}

// Settings ---------------------------------------------------------------------------------------------------------------------------------------

std::map<std::string, std::string> settings_of(const Node& node) {
  std::map<std::string, std::string> all;
  for (const Setting& setting : node.settings) all[setting.name] = setting.value;
  return all;
}
using Values = std::map<std::string, std::string>;

TEST(Settings, ReadsConfAndKeepsTheSecondEqualSign) {
  const Node node = read(kSettings, "NCCL_DEBUG=WARN\n# NCCL_IB_TC=1\nNCCL_IB_HCA==mlx5_0,mlx5_2\nNCCL_NET_PLUGIN={{hpcx_path}}\nPATH=/usr/bin\nNCCL_IB_SL = 3\nNCCL_DEBUG=INFO\n");
  EXPECT_EQ(settings_of(node), (Values{{"NCCL_DEBUG", "WARN"}, {"NCCL_IB_HCA", "=mlx5_0,mlx5_2"}}));
  EXPECT_EQ(node.settings[0].origin, "x.txt");
  EXPECT_THAT(codes(node), ElementsAre("unexpanded-template", "garbled", "set-twice"));
}

TEST(Settings, ReadsWhatShellsLaunchersAndManifestsSay) {
  EXPECT_EQ(settings_of(read(kSettings, "export NCCL_IB_HCA='mlx5_0:1' NCCL_IB_TC=106  # lossless\nexport NCCL_IB_TC=41; UCX_TLS=rc\nexport GLOO_SOCKET_IFNAME=\"eth0\"\n")),
            (Values{{"NCCL_IB_HCA", "mlx5_0:1"}, {"NCCL_IB_TC", "41"}, {"UCX_TLS", "rc"}, {"GLOO_SOCKET_IFNAME", "eth0"}}));
  EXPECT_EQ(settings_of(read(kSettings, "docker run --rm -e NCCL_SOCKET_IFNAME=eth0 --env=NCCL_DEBUG=INFO -eUCX_NET_DEVICES=mlx5_0:1 --gpus all image \\\n")),
            (Values{{"NCCL_SOCKET_IFNAME", "eth0"}, {"NCCL_DEBUG", "INFO"}, {"UCX_NET_DEVICES", "mlx5_0:1"}}));
  EXPECT_EQ(settings_of(read(kSettings, "mpirun -np 2 -x NCCL_DEBUG=INFO -x NCCL_IB_GID_INDEX=3 ./all_reduce_perf\n")), (Values{{"NCCL_DEBUG", "INFO"}, {"NCCL_IB_GID_INDEX", "3"}}));
  EXPECT_EQ(settings_of(read(kSettings, "NCCL_DEBUG=INFO NCCL_NET=Socket ./all_reduce_perf -b 8\n")), (Values{{"NCCL_DEBUG", "INFO"}, {"NCCL_NET", "Socket"}}));
  EXPECT_EQ(settings_of(read(kSettings, "  env:\n  - name: NCCL_IB_HCA\n    value: \"mlx5\"\n  - name: HOME\n    value: x\n")), (Values{{"NCCL_IB_HCA", "mlx5"}}));
  EXPECT_EQ(settings_of(read(kSettings, "environment:\n  NCCL_DEBUG: \"INFO\"\n  - UCX_TLS=tcp\n")), (Values{{"NCCL_DEBUG", "INFO"}, {"UCX_TLS", "tcp"}}));
  EXPECT_EQ(settings_of(read(kSettings, "root@n1:~# export NCCL_IB_TC=41\n$ NCCL_NET=IB ./a\n+ export UCX_TLS=tcp\n")), (Values{{"NCCL_IB_TC", "41"}, {"NCCL_NET", "IB"}, {"UCX_TLS", "tcp"}}));
  EXPECT_EQ(settings_of(read(kSettings, "ENV NCCL_DEBUG INFO\nsetenv NCCL_IB_TC 41\n")), (Values{{"NCCL_DEBUG", "INFO"}, {"NCCL_IB_TC", "41"}}));
  EXPECT_THAT(codes(read(kSettings, "export NCCL_SOCKET_IFNAME=${IFACE}\nNCCL_IB_HCA=$HCA\nNCCL_NET=<net>\n")),
              ElementsAre("unexpanded-template", "unexpanded-template", "unexpanded-template"));
}

TEST(Settings, ReadsTheLimitOfLockedMemory) {
  EXPECT_EQ(read(kSettings, "core file size (blocks, -c) 0\nmax locked memory       (kbytes, -l) unlimited\n").host.memlock_bytes, -1);
  EXPECT_EQ(read(kSettings, "max locked memory           (kbytes, -l) 65536\n").host.memlock_bytes, 64 << 20);
  EXPECT_EQ(read(kSettings, "Max locked memory         8388608              unlimited            bytes     \n").host.memlock_bytes, 8 << 20);
}

TEST(Settings, ProseAndLogsAreNoSettings) {
  EXPECT_FALSE(kSettings.recognises("Setting NCCL_IB_HCA=mlx5 did not help.\n"));
  EXPECT_FALSE(kSettings.recognises("n1:1:2 [0] NCCL INFO NCCL_IB_HCA set by environment to mlx5\n"));
  EXPECT_FALSE(kSettings.recognises("ulimit -l: unlimited\nNCCL version code: 23007\n"));
}

// NCCL's log -------------------------------------------------------------------------------------------------------------------------------------

TEST(NcclLog, ShowsInterfacesPortsAndVersions) {
  const Node node = read(kNcclLog,
                         "n1:4567:4567 [0] NCCL INFO Bootstrap : Using vlan503:172.16.163.31<0>\nn1:4567:4567 [0] NCCL INFO NET/Plugin: No plugin found (libnccl-net.so)\n"
                         "NCCL version 2.21.5+cuda12.4\n[2025-03-11 11:09:55] n1:4567:4600 [0] NCCL INFO cudaDriverVersion 12080\n"
                         "n1:4567:4600 [0] NCCL INFO NCCL_IB_TIMEOUT set by environment to 22.\n"
                         "n1:4567:4600 [0] NCCL INFO NET/IB : Using [0]mlx5_bond_0:1/RoCE [1]mlx5_2:1/IB/SHARP [RO]; OOB vlan503:172.16.163.31<0>\n"
                         "n1:4567:4600 [0] NCCL INFO NET/IB: [3] mlx5_3:uverbs3:1/IB provider=Mlx5 speed=400000 context=0x7f pciPath=/sys/devices/pci0000:15/0000:1b:00.0 ar=1\n"
                         "n1:4567:4600 [0] NCCL INFO Using network IB\n");
  EXPECT_EQ(node.host.name, "n1");
  EXPECT_EQ(node.host.nccl_version, "2.21.5");
  EXPECT_EQ(node.host.cuda_driver_version, "12.8");
  ASSERT_THAT(names(node), ElementsAre("vlan503"));
  EXPECT_TRUE(node.interfaces[0].bootstrap);
  EXPECT_EQ(node.interfaces[0].addresses, (std::vector<Address>{{"172.16.163.31", -1}}));
  ASSERT_THAT(node.hcas, SizeIs(3));
  EXPECT_EQ(first_port(node).link_layer, LinkLayer::ethernet);
  EXPECT_EQ(first_port(node, 1).link_layer, LinkLayer::infiniband);
  EXPECT_EQ(first_port(node, 1).state, PortState::active);
  EXPECT_EQ(first_port(node, 2).rate_gbps, 400);
  EXPECT_EQ(node.hcas[2].bus_id, "0000:1b:00.0");
  EXPECT_EQ(settings_of(node), (Values{{"NCCL_IB_TIMEOUT", "22"}}));
  EXPECT_FALSE(node.rdma_absent);
  EXPECT_EQ(node.host.net_plugin, "");
}

TEST(NcclLog, ShowsWhatIsAbsentOrCannotBeOpened) {
  const Node node = read(kNcclLog,
                         "misc/ibvwrap.cc:212 NCCL WARN Call to ibv_open_device failed\ntransport/net_ib.cc:148 NCCL WARN NET/IB : Unable to open device mlx5_bond_0\n"
                         "NCCL INFO NET/IB : No device found.\nNCCL INFO NET/Socket : Using [0]bond0:200.1.93.2<0> [1]eth1:fe80::1%eth1<0>\nNCCL INFO Using network Socket\n");
  EXPECT_TRUE(node.rdma_absent);
  EXPECT_TRUE(node.hcas_complete);
  ASSERT_THAT(node.hcas, SizeIs(1));
  EXPECT_EQ(node.hcas[0].openable, false);
  ASSERT_THAT(names(node), ElementsAre("bond0", "eth1"));
  EXPECT_FALSE(node.interfaces[0].bootstrap);
  EXPECT_EQ(node.interfaces[1].addresses, (std::vector<Address>{{"fe80::1", -1}}));
  EXPECT_FALSE(read(kNcclLog, "NCCL INFO NCCL_IB_HCA set by environment to mlx5_9\nNCCL INFO NET/IB : No device found.\n").hcas_complete);
}

TEST(NcclLog, KnowsPluginsAndProviders) {
  EXPECT_EQ(read(kNcclLog, "n1:1:1 [0] NCCL INFO NET/Plugin: Loaded net plugin FasTrak (v7)\n").host.net_plugin, "FasTrak");
  const Node efa = read(kNcclLog, "n1:1:1 [0] NCCL INFO NET/OFI Initializing aws-ofi-nccl 1.7.4-aws\nn1:1:1 [0] NCCL INFO NET/OFI Selected Provider is efa (found 4 nics)\n");
  EXPECT_EQ(efa.host.net_plugin, "AWS Libfabric");
  EXPECT_THAT(efa.host.fabric_providers, ElementsAre("efa"));
}

TEST(NcclLog, FailuresBecomeFindingsWithAdvice) {
  const auto code = [](std::string_view message) { return codes(read(kNcclLog, "n1:1:2 [3] transport/net_ib.cc:1295 NCCL WARN " + std::string(message) + "\n")); };
  EXPECT_THAT(code("NET/IB : Got completion from peer 10.0.0.2<45678> with status=12 opcode=0 len=0 vendor err 129 (Recv)"), ElementsAre("ib-retry-exceeded"));
  EXPECT_THAT(code("NET/IB : Got completion from peer 10.0.0.2<45678> with error 12, opcode 0, len 0, vendor err 129"), ElementsAre("ib-retry-exceeded"));
  EXPECT_THAT(code("Mismatched NCCL version detected : rank 0 version 22105 rank 8 version 21903"), ElementsAre("nccl-version-differs"));
  EXPECT_THAT(code("Detected mixed local Net device counts across ranks"), ElementsAre("hca-count-differs"));
  EXPECT_THAT(code("Call to ibv_modify_qp failed with error No such device"), ElementsAre("gid-index-wrong"));
  EXPECT_THAT(code("Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory"), ElementsAre("memlock-too-small"));
  EXPECT_THAT(code("Call to connect returned Connection refused, retrying"), ElementsAre("socket-unreachable"));
  const Node many = read(kNcclLog, [] {
    std::string log;
    for (int i = 0; i < 1000; ++i) log += "n1:1:2 [3] NCCL WARN Call to connect returned Connection refused, retrying\n";
    return log;
  }());
  EXPECT_THAT(many.findings, SizeIs(8));
  EXPECT_FALSE(many.findings[0].advice.empty());
  EXPECT_THAT(many.findings[0].evidence[0], HasSubstr("x.txt: n1:1:2"));
}

TEST(NcclLog, KeepsHostsApart) {
  const std::string log =
      "NCCL version 2.21.5+cuda12.4\n[default0]:n1:10:10 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.1<0>\n[1,8]<stdout>:n2:20:20 [0] NCCL INFO Bootstrap : Using eth9:10.0.0.2<0>\n"
      "2025-01-01 10:00:00 n1:10:12 [1] init.cc:99 NCCL WARN something\n";
  EXPECT_THAT(nccl_log_hosts(log), ElementsAre("n1", "n2"));
  const auto parts = split_nccl_log(log);
  ASSERT_THAT(parts, SizeIs(2));
  EXPECT_THAT(parts[0].second, HasSubstr("NCCL version"));
  EXPECT_THAT(parts[0].second, HasSubstr("something"));
  EXPECT_THAT(parts[1].second, testing::Not(HasSubstr("n1")));
  const Node node = read(kNcclLog, log);
  EXPECT_THAT(names(node), ElementsAre("eth0"));
  EXPECT_THAT(codes(node), ElementsAre("several-hosts"));
  EXPECT_THAT(nccl_log_hosts("NCCL INFO cudaDriverVersion 12080\n"), IsEmpty());
}

TEST(NcclGraph, APartProvesNvlinkButNotItsAbsence) {
  EXPECT_EQ(read(kNcclGraph, "+ PCI[24.0] - PCI/82000 (10b5879610b58796)\n  + PCI[24.0] - GPU/84000 (4)\n    + NVL[370.8] - NVS/0\n").nvlink, true);
  const std::string part = "CPU/0 (1/1/2)\n+ PCI[24.0] - GPU/84000 (0)\n+ PCI[24.0] - GPU/85000 (1)\n";
  EXPECT_EQ(read(kNcclGraph, part).nvlink, std::nullopt);
  EXPECT_EQ(read(kNcclGraph, "=== System : maxBw 24.0 totalBw 24.0 ===\n" + part + "==========================================\n").nvlink, false);
  EXPECT_THAT(read(kNcclGraph, part).gpus, IsEmpty());
  EXPECT_EQ(read(kNcclGraph, "n1:1:2 [0] NCCL INFO Pattern 4, crossNic 0, nChannels 12, bw 20.0/20.0, type NVL/PIX, sameChannels 1\n").nvlink, true);
}

// All ---------------------------------------------------------------------------------------------------------------------------------------

TEST(ImportText, EveryFormatIsKnownByItselfAlone) {
  EXPECT_THAT(claims(kDevinfoVerbose), ElementsAre("ibv_devinfo"));
  EXPECT_THAT(claims("CA 'mlx5_0'\n\tCA type: MT4129\n"), ElementsAre("ibstat"));
  EXPECT_THAT(claims("Infiniband device 'mlx5_0' port 1 status:\n\tstate: 4: ACTIVE\n"), ElementsAre("ibstatus"));
  EXPECT_THAT(claims("link mlx5_0/1 state ACTIVE physical_state LINK_UP netdev ens1f0\n"), ElementsAre("rdma link"));
  EXPECT_THAT(claims(kIpDetails), ElementsAre("ip addr"));
  EXPECT_THAT(claims(kIpBriefText), ElementsAre("ip -br"));
  EXPECT_THAT(claims(kIpJsonText), ElementsAre("ip -j"));
  EXPECT_THAT(claims(kIfconfigText), ElementsAre("ifconfig"));
  EXPECT_THAT(claims("default via 10.0.0.1 dev eth0\n"), ElementsAre("ip route"));
  EXPECT_THAT(claims("name,ipv4\nlo,127.0.0.1\n"), ElementsAre("interfaces.csv"));
  EXPECT_THAT(claims("hca,netdev,subnet\na,b,\n"), ElementsAre("rails.csv"));
  EXPECT_THAT(claims("node,driver_version\na,1\n"), ElementsAre("versions.csv"));
  EXPECT_THAT(claims("index,name,memory.total [MiB]\n0,NVIDIA A2,1\n"), ElementsAre("GPU query"));
  EXPECT_THAT(claims("NCCL_DEBUG=INFO\n"), ElementsAre("settings"));
  EXPECT_THAT(claims("n1:1:2 [0] NCCL INFO NCCL_DEBUG set by environment to INFO\n"), ElementsAre("NCCL log"));
  EXPECT_THAT(claims("              + PCI[24.0] - GPU/84000 (4)\n"), ElementsAre("NCCL graph"));
  EXPECT_THAT(claims("uverbs0\nuverbs1\n"), ElementsAre("/dev/infiniband"));
  EXPECT_THAT(claims("Nothing that anybody knows. It has hca_id in it, and uverbs0 too.\n"), IsEmpty());
  EXPECT_THAT(claims(""), IsEmpty());
}

TEST(ImportText, OnePasteOfSeveralToolsIsReadByEach) {
  const std::string paste = std::string("root@n1:~# ibv_devinfo -v\n") + kDevinfoVerbose +
                            "root@n1:~# ibstat\nCA 'mlx5_1'\n\tCA type: MT4129\n\tNumber of ports: 1\n\tPort 1:\n\t\tState: Down\nroot@n1:~# ibstatus\n"
                            "Infiniband device 'mlx5_2' port 1 status:\n\tstate:\t 4: ACTIVE\n\trate:\t 200 Gb/sec (4X HDR)\nroot@n1:~# \n";
  const Node devinfo = read(kIbvDevinfo, paste), stat = read(kIbstat, paste), status = read(kIbstatus, paste);
  ASSERT_THAT(devinfo.hcas, SizeIs(1));
  EXPECT_EQ(first_port(devinfo).rate_gbps, 100);
  EXPECT_EQ(first_port(devinfo).state, PortState::active);
  ASSERT_THAT(stat.hcas, SizeIs(1));
  EXPECT_EQ(first_port(stat).state, PortState::down);
  EXPECT_EQ(first_port(stat).rate_gbps, 0);
  ASSERT_THAT(status.hcas, SizeIs(1));
  EXPECT_EQ(status.hcas[0].name, "mlx5_2");
}
