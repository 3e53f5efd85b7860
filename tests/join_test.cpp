// Facts of several sources as one node, and distances between its devices.
#include <gtest/gtest.h>

#include "machine_parts.hpp"
#include "topology/join.hpp"

using namespace dsinfer;
using namespace dsinfer::parts;
using topology::distance;
using topology::join;

namespace {

Node part(const std::string& source = "") {
  Node n;
  if (!source.empty()) n.sources = {source};
  return n;
}

PciDevice pci(const std::string& bus_id, const std::string& parent = "", const std::string& root = "", uint32_t class_code = 0, int numa = -1) {
  PciDevice d;
  d.bus_id = bus_id;
  d.parent = parent;
  d.root = root;
  d.class_code = class_code;
  d.numa = numa;
  return d;
}

Gpu function(const std::string& bus_id) {
  Gpu g;
  g.bus_id = g.label = bus_id;
  return g;
}

}  // namespace

TEST(Join, BringsGpusTogetherByBusIdUuidAndNumber) {
  Node smi = part(), xml = part(), query = part();
  smi.gpus = {gpu(0), gpu(1)};
  xml.gpus = {function("0000:0f:00.0"), function("0000:2d:00.0")};
  xml.gpus[0].index = 0, xml.gpus[1].index = 1;
  query.gpus = {function("0000:2d:00.0")};
  query.gpus[0].uuid = "GPU-b";
  const Node n = join({smi, xml, query}, "n");
  ASSERT_EQ(n.gpus.size(), 2u);
  EXPECT_EQ(n.gpus[1].label, "GPU1");
  EXPECT_EQ(n.gpus[1].bus_id, "0000:2d:00.0");
  EXPECT_EQ(n.gpus[1].uuid, "GPU-b");
}

TEST(Join, PairsAMatrixWithFunctionsInPciOrder) {
  Node matrix = part(), lspci = part();
  matrix.gpus = {gpu(0, "", ""), gpu(1, "", "")};
  lspci.gpus = {function("0000:85:00.0"), function("0000:08:00.0")};
  const Node n = join({lspci, matrix}, "n");
  ASSERT_EQ(n.gpus.size(), 2u);
  EXPECT_EQ(n.gpus[0].label, "GPU0");
  EXPECT_EQ(n.gpus[0].bus_id, "0000:08:00.0");
}

TEST(Join, BelievesTheDriverWhereAContainerSeesFewerGpus) {
  Node matrix = part(), lspci = part();
  matrix.gpus = {gpu(0)};
  lspci.gpus = {function("0000:08:00.0"), function("0000:85:00.0")};
  EXPECT_EQ(join({matrix, lspci}, "n").gpus.size(), 1u);
}

TEST(Join, NamesGpusByTheirBusIdWhereNobodyNumbersThem) {
  Node xml = part();
  xml.gpus = {function("0000:2d:00.0"), function("0000:0f:00.0")};
  const Node n = join({xml}, "n");
  EXPECT_EQ(n.gpus[0].label, "0000:0f:00.0");
}

TEST(Join, RenamesTheEndsOfPaths) {
  Node matrix = part(), xml = part();
  matrix.gpus = {gpu(0)};
  matrix.paths = {{"GPU0", "mlx5_0", PathKind::pix, 0}};
  xml.gpus = {function("0000:0f:00.0")};
  xml.gpus[0].index = 0;
  xml.paths = {{"0000:0f:00.0", "mlx5_0", PathKind::sys, 0}, {"0000:0f:00.0", "mlx5_1", PathKind::pxb, 0}};
  const Node n = join({matrix, xml}, "n");
  EXPECT_EQ(n.paths.size(), 2u);
  EXPECT_EQ(distance(n, "GPU0", "mlx5_0"), PathKind::pix);  // the first source
  EXPECT_EQ(distance(n, "GPU0", "mlx5_1"), PathKind::pxb);
}

TEST(Join, BringsPortsTogetherAndKeepsStatedLinkLayers) {
  Node netdevs = part("a.txt (ibdev2netdev)"), ibstat = part("b.txt (ibstat)");
  netdevs.hcas = {hca("mlx5_0", port(LinkLayer::ethernet, 0, PortState::unknown))};
  netdevs.hcas[0].ports[0].netdevs = {"eth2"};
  ibstat.hcas = {ib("mlx5_0", 200), ib("mlx5_1", 200)};
  const Node n = join({netdevs, ibstat}, "n");
  ASSERT_EQ(n.hcas.size(), 2u);
  const auto& p = n.hcas[0].ports[0];
  EXPECT_EQ(p.link_layer, LinkLayer::infiniband);
  EXPECT_EQ(p.state, PortState::active);
  EXPECT_EQ(p.rate_gbps, 200);
  EXPECT_EQ(p.netdevs, (Names{"eth2"}));
}

TEST(Join, TakesAGidTableBeforeASingleGid) {
  Node ibstatus = part(), show_gids = part();
  ibstatus.hcas = {roce("mlx5_0")};
  ibstatus.hcas[0].ports[0].gids = {{0, "fe80::1", 0, "", true}};
  show_gids.hcas = {roce("mlx5_0")};
  give_address(show_gids.hcas[0].ports[0], "10.0.0.1");
  for (const auto& order : {std::vector<Node>{ibstatus, show_gids}, std::vector<Node>{show_gids, ibstatus}}) {
    const Node n = join(order, "n");
    EXPECT_TRUE(n.hcas[0].ports[0].gid_table);
    EXPECT_EQ(n.hcas[0].ports[0].gids.size(), 4u);
  }
}

TEST(Join, ADeviceThatOneSourceCouldNotOpenStaysClosed) {
  Node host = part(), container = part();
  host.hcas = {roce("mlx5_bond_0")};
  container.hcas = {hca("mlx5_bond_0", port(LinkLayer::unknown, 0, PortState::unknown))};
  container.hcas[0].openable = false;
  container.rdma_absent = true;
  const Node n = chosen(join({host, container}, "n"));
  EXPECT_EQ(n.network.fallback_reason, "rdma-device-not-openable");
}

TEST(Join, CountsUnnamedFunctionsOnlyWhereNoNamedDeviceCouldBeThem) {
  Node xml = part(), ibstat = part();
  xml.pci = {pci("0101:00:00.0", "", "numa0", 0x020700), pci("0102:00:00.0", "", "numa0", 0x020700)};
  EXPECT_EQ(join({xml}, "n").hcas.size(), 2u);
  const Node unnamed = chosen(join({xml}, "n"));
  EXPECT_EQ(unnamed.network.transport, Transport::ib);
  EXPECT_EQ(unnamed.network.hcas, std::nullopt);
  EXPECT_EQ(unnamed.network.hca_count, 2);
  ibstat.hcas = {ib("mlx5_0"), ib("mlx5_1")};
  EXPECT_EQ(join({xml, ibstat}, "n").hcas.size(), 2u);
}

TEST(Join, FindsThePlaceOfAnHcaInItsUdevName) {
  Node matrix = part(), lspci = part();
  matrix.hcas = {hca("rocep137s0f1", port(LinkLayer::unknown))};
  lspci.pci = {pci("0000:89:00.1", "", "", 0x020000)};
  EXPECT_EQ(join({matrix, lspci}, "n").hcas[0].bus_id, "0000:89:00.1");
}

TEST(Join, CorrectsPortNumbersThatCountFunctions) {
  Node xml = part();
  xml.hcas = {hca("mlx5_0", port(LinkLayer::ethernet, 200, PortState::unknown, 1), "0000:0c:00.0"), hca("mlx5_1", port(LinkLayer::ethernet, 200, PortState::unknown, 2), "0000:0c:00.0")};
  EXPECT_EQ(join({xml}, "n").hcas[1].ports[0].number, 1);
}

TEST(Join, KeepsTheKernelsOrderOfInterfacesAndAllTheirAddresses) {
  Node log = part(), ip = part();
  log.interfaces = {interface("eth1", "10.1.0.1", -1)};
  log.interfaces[0].bootstrap = true;
  ip.interfaces = {interface("lo", "127.0.0.1", 8), interface("eth0", "10.0.0.1"), interface("eth1", "10.1.0.1")};
  ip.interfaces[2].addresses.push_back({"fe80::1", 64});
  const Node n = join({log, ip}, "n");
  ASSERT_EQ(n.interfaces.size(), 3u);
  EXPECT_EQ(n.interfaces[2].name, "eth1");
  EXPECT_TRUE(n.interfaces[2].bootstrap);
  EXPECT_EQ(n.interfaces[2].addresses, (std::vector<Address>{{"10.1.0.1", 24}, {"fe80::1", 64}}));
}

TEST(Nvlink, IsToldByMatrixLinksAndModels) {
  Node matrix = part();
  matrix.gpus = {gpu(0), gpu(1)};
  matrix.gpus_complete = true;
  EXPECT_EQ(join({matrix}, "n").nvlink, std::nullopt);
  matrix.paths = {{"GPU0", "GPU1", PathKind::nvlink, 18}};
  EXPECT_EQ(join({matrix}, "n").nvlink, true);
  matrix.paths = {{"GPU0", "GPU1", PathKind::sys, 0}};
  EXPECT_EQ(join({matrix}, "n").nvlink, false);
  matrix.paths.clear();
  matrix.gpus[0].name = matrix.gpus[1].name = "NVIDIA GeForce RTX 4090";
  EXPECT_EQ(join({matrix}, "n").nvlink, false);
  matrix.gpus_complete = false;
  EXPECT_EQ(join({matrix}, "n").nvlink, std::nullopt);
}

TEST(Nvlink, OfOneGpuOrOfAGpuToItselfIsNone) {
  Node one = part();
  one.gpus = {function("0000:01:00.0")};
  one.gpus[0].nvlinks = {{NvLink::Remote::nvswitch, "", 18, 0}};
  one.gpus_complete = true;
  EXPECT_EQ(join({one}, "n").nvlink, false);
  one.gpus.push_back(function("0000:02:00.0"));
  EXPECT_EQ(join({one}, "n").nvlink, true);
  one.gpus[0].nvlinks = {{NvLink::Remote::gpu, "0000:01:00.0", 12, 0}};
  EXPECT_EQ(join({one}, "n").nvlink, std::nullopt);
}

TEST(Distance, InNcclsFilesGoesByParents) {
  Node n = part();
  n.pci = {pci("0000:01:00.0", "", "numa0"), pci("0000:02:00.0", "0000:01:00.0", "numa0"), pci("0000:03:00.0", "0000:01:00.0", "numa0"), pci("0000:0f:00.0", "0000:02:00.0", "numa0"),
           pci("0000:0c:00.0", "0000:02:00.0", "numa0"), pci("0000:1c:00.0", "0000:03:00.0", "numa0"), pci("0000:2c:00.0", "", "numa0"), pci("0000:3c:00.0", "", "numa1")};
  EXPECT_EQ(distance(n, "0000:0f:00.0", "0000:0c:00.0"), PathKind::pix);
  EXPECT_EQ(distance(n, "0000:0f:00.0", "0000:1c:00.0"), PathKind::pxb);
  EXPECT_EQ(distance(n, "0000:0f:00.0", "0000:2c:00.0"), PathKind::phb);
  EXPECT_EQ(distance(n, "0000:0f:00.0", "0000:3c:00.0"), PathKind::sys);
  EXPECT_EQ(distance(n, "0000:0f:00.0", "0000:0f:00.0"), PathKind::self);
  EXPECT_EQ(distance(n, "0000:0f:00.0", "mlx5_0"), PathKind::unknown);
}

TEST(Distance, InSysfsGoesByBridgesRootsAndNuma) {
  Node n = part();
  const std::string a = "pci0000:00", b = "pci0000:40", c = "pci0000:80";
  n.pci = {pci("0000:00:01.0", "", a), pci("0000:01:00.0", "0000:00:01.0", a), pci("0000:02:00.0", "0000:01:00.0", a), pci("0000:02:01.0", "0000:01:00.0", a),
           pci("0000:03:00.0", "0000:02:00.0", a), pci("0000:04:00.0", "0000:02:01.0", a), pci("0000:00:02.0", "", a), pci("0000:05:00.0", "0000:00:02.0", a, 0, 0),
           pci("0000:40:01.0", "", b, 0, 0), pci("0000:41:00.0", "0000:40:01.0", b), pci("0000:80:01.0", "", c, 0, 1), pci("0000:81:00.0", "0000:80:01.0", c)};
  EXPECT_EQ(distance(n, "0000:03:00.0", "0000:04:00.0"), PathKind::pix);  // two ports of one switch
  EXPECT_EQ(distance(n, "0000:03:00.0", "0000:05:00.0"), PathKind::phb);
  EXPECT_EQ(distance(n, "0000:05:00.0", "0000:41:00.0"), PathKind::node);
  EXPECT_EQ(distance(n, "0000:05:00.0", "0000:81:00.0"), PathKind::sys);
  EXPECT_EQ(distance(n, "0000:03:00.0", "0000:41:00.0"), PathKind::node);  // -1 is node 0
}

TEST(Distance, EndsInATreeThatBitesItsTail) {
  Node n = part();
  n.pci = {pci("0000:01:00.0", "0000:02:00.0"), pci("0000:02:00.0", "0000:01:00.0"), pci("0000:03:00.0", "0000:03:00.0")};
  EXPECT_NE(distance(n, "0000:01:00.0", "0000:02:00.0"), PathKind::self);
  EXPECT_NE(distance(n, "0000:01:00.0", "0000:03:00.0"), PathKind::self);
}

TEST(Links, OfASwitchAreNotCountedForEachPair) {
  Node n = node("n");
  for (int i = 0; i < 4; ++i) n.gpus.push_back(gpu(i));
  n.gpus_complete = true;
  for (int a = 0; a < 4; ++a) {
    for (int b = a + 1; b < 4; ++b) n.paths.push_back({"GPU" + std::to_string(a), "GPU" + std::to_string(b), PathKind::nvlink, 18});
  }
  const Node switched = chosen(n);
  EXPECT_EQ(std::count_if(switched.links.begin(), switched.links.end(), [](const Link& l) { return l.kind == "nvlink" && l.b == "nvswitch" && l.gb_per_s == 450 && !l.stated; }), 4);
  for (Path& path : n.paths) path.nvlinks = 6;  // four H100 NVL on a bridge
  const Node direct = chosen(n);
  EXPECT_EQ(std::count_if(direct.links.begin(), direct.links.end(), [](const Link& l) { return l.kind == "nvlink" && l.b != "nvswitch" && l.gb_per_s == 150; }), 6);
}
