// Importers of what tools print: the formats of several versions, cut, mixed and garbled.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "topology/importers.hpp"

using namespace dsinfer;
using namespace dsinfer::topology;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

namespace {

const Importer* const kAll[] = {&kIbvDevinfo, &kIbstat, &kIbstatus, &kShowGids, &kIbdev2netdev, &kRdmaLink, &kUverbsListing, &kFiInfo};

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

// All ---------------------------------------------------------------------------------------------------------------------------------------

TEST(ImportText, EveryFormatIsKnownByItselfAlone) {
  EXPECT_THAT(claims(kDevinfoVerbose), ElementsAre("ibv_devinfo"));
  EXPECT_THAT(claims("CA 'mlx5_0'\n\tCA type: MT4129\n"), ElementsAre("ibstat"));
  EXPECT_THAT(claims("Infiniband device 'mlx5_0' port 1 status:\n\tstate: 4: ACTIVE\n"), ElementsAre("ibstatus"));
  EXPECT_THAT(claims("link mlx5_0/1 state ACTIVE physical_state LINK_UP netdev ens1f0\n"), ElementsAre("rdma link"));
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
