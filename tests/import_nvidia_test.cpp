// The driver's listings and lspci: every layout that we know of, whole, cut and garbled.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "topology/importers.hpp"

namespace dsinfer::topology {
namespace {

using ::testing::IsEmpty;

Node import_one(std::string_view text, const std::string& format, const std::string& name = "text") {
  std::vector<Imported> parts = import_parts(text, name);
  EXPECT_EQ(parts.size(), 1u) << text;
  if (parts.size() != 1) return {};
  EXPECT_EQ(parts[0].format, format);
  return std::move(parts[0].node);
}

Path path_between(const Node& node, const std::string& a, const std::string& b) {
  for (const Path& path : node.paths) {
    if ((path.a == a && path.b == b) || (path.a == b && path.b == a)) return path;
  }
  return {};
}
const PciDevice* at_bus(const Node& node, const std::string& id) {
  const auto found = std::find_if(node.pci.begin(), node.pci.end(), [&](const PciDevice& d) { return d.bus_id == id; });
  return found == node.pci.end() ? nullptr : &*found;
}

// Driver 550: tabs, an underlined heading, NICn with a legend.
const char* const kMatrix =
    "\x1b[4mGPU0\tGPU1\tNIC0\tNIC1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\r\n"
    "GPU0\t X \tNV18\tPIX\tSYS\t0-31,64-95\t0\t\tN/A\r\n"
    "GPU1\tNV18\t X \tSYS\tPXB\t32-63,96-127\t1\t\tN/A\r\n"
    "NIC0\tPIX\tSYS\t X \tSYS\t\t\t\t\r\n"
    "NIC1\tSYS\tPXB\tSYS\t X \t\t\t\t\r\n\r\n"
    "Legend:\r\n\r\n  X    = Self\r\n  PIX  = Connection traversing at most a single PCIe bridge\r\n\r\n"
    "NIC Legend:\r\n\r\n  NIC0: mlx5_0\r\n  NIC1: mlx5_bond_0";

TEST(NvidiaTopo, ReadsAMatrixWithLegend) {
  const Node node = import_one(kMatrix, "nvidia-smi topo -m");
  ASSERT_EQ(node.gpus.size(), 2u);
  EXPECT_EQ(node.gpus[1].label, "GPU1");
  EXPECT_EQ(node.gpus[1].index, 1);
  EXPECT_EQ(node.gpus[1].numa, 1);
  ASSERT_EQ(node.hcas.size(), 2u);
  EXPECT_EQ(node.hcas[1].name, "mlx5_bond_0");
  EXPECT_EQ(path_between(node, "GPU0", "GPU1").nvlinks, 18);
  EXPECT_EQ(path_between(node, "GPU1", "mlx5_bond_0").kind, PathKind::pxb);
  EXPECT_EQ(path_between(node, "mlx5_0", "mlx5_bond_0").kind, PathKind::sys);
  EXPECT_EQ(node.paths.size(), 6u);
  EXPECT_EQ(node.nvlink, true);
  EXPECT_TRUE(node.gpus_complete);
  EXPECT_THAT(node.findings, IsEmpty());
}

TEST(NvidiaTopo, ReadsVerbsNamesAsColumnsAndTheOldWordForSockets) {  // driver 375
  const Node node = import_one("        GPU0    GPU1    mlx5_0  CPU Affinity\nGPU0     X      SOC     PHB     0-9\nGPU1    SOC      X      SOC     10-19\n"
                               "mlx5_0  PHB     SOC      X \n", "nvidia-smi topo -m");
  ASSERT_EQ(node.hcas.size(), 1u);
  EXPECT_EQ(path_between(node, "GPU0", "GPU1").kind, PathKind::sys);
  EXPECT_EQ(path_between(node, "GPU0", "mlx5_0").kind, PathKind::phb);
  EXPECT_EQ(node.nvlink, false);
  EXPECT_TRUE(node.gpus_complete);
}

TEST(NvidiaTopo, ReadsWhatLostItsTabs) {
  const Node node = import_one("GPU0GPU1NIC0CPU AffinityNUMA Affinity\nGPU0 XNV12SYS0-310\nGPU1NV12 XSYS0-310\nNIC0SYSSYS X\nNIC Legend:\n NIC0: rocep49s0\n",
                               "nvidia-smi topo -m");
  ASSERT_EQ(node.gpus.size(), 2u);
  EXPECT_EQ(path_between(node, "GPU0", "GPU1").nvlinks, 12);
  EXPECT_EQ(path_between(node, "GPU1", "rocep49s0").kind, PathKind::sys);
}

TEST(NvidiaTopo, NamesColumnsByTheDiagonalWhenTheHeadingIsGone) {
  const Node node = import_one("GPU0\t X \tPIX\tNODE\t0-31\t0\nGPU1\tPIX\t X \tNODE\t0-31\t0\nmlx5_7\tNODE\tNODE\t X \t\t\n", "nvidia-smi topo -m");
  EXPECT_EQ(node.gpus.size(), 2u);
  EXPECT_EQ(node.gpus[0].numa, 0);
  EXPECT_EQ(path_between(node, "GPU1", "mlx5_7").kind, PathKind::node);
}

TEST(NvidiaTopo, SaysThatACutMatrixIsCut) {
  const Node node = import_one("\tGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\nGPU0\t X \tNV4\tNV4\tSYS\t0-1\nGPU1\tNV4\t X ", "nvidia-smi topo -m");
  EXPECT_FALSE(node.gpus_complete);
  EXPECT_EQ(path_between(node, "GPU0", "GPU2").nvlinks, 4);
  EXPECT_FALSE(node.findings.empty());
  EXPECT_THAT(node.hcas, IsEmpty());  // NIC0 has no name
}

TEST(NvidiaTopo, LeavesOtherMatricesAlone) {  // nvidia-smi topo -p2p r
  const Node node = import_one("\tGPU0\tGPU1\t\nGPU0\tX\tOK\t\nGPU1\tOK\tX\t\n\nLegend:\n\n  X    = Self\n  OK   = Status Ok\n", "nvidia-smi topo -m");
  EXPECT_THAT(node.gpus, IsEmpty());
  EXPECT_THAT(node.paths, IsEmpty());
  EXPECT_EQ(node.nvlink, std::nullopt);
  const Node both = import_one(std::string("\tGPU0\tGPU1\nGPU0\tX\tNS\nGPU1\tNS\tX\n") + kMatrix, "nvidia-smi topo -m");
  EXPECT_EQ(both.gpus.size(), 2u);
  EXPECT_EQ(both.nvlink, true);
}

TEST(NvidiaTopo, TakesTheFirstOfTwoMachines) {
  const Node node = import_one(std::string(kMatrix) + "\n$ ssh other nvidia-smi topo -m\n\tGPU0\tGPU1\tGPU2\tCPU Affinity\nGPU0\t X \tSYS\tSYS\t0\nGPU1\tSYS\t X \tSYS\t0\n"
                               "GPU2\tSYS\tSYS\t X \t0\n", "nvidia-smi topo -m");
  EXPECT_EQ(node.gpus.size(), 2u);
  EXPECT_TRUE(node.gpus_complete);
}

TEST(NvidiaSmi, ReadsTheTable) {  // driver 550
  const Node node = import_one(R"(Mon Jan 20 10:18:26 2025
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.90.07              Driver Version: 550.90.07      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
|   0  NVIDIA A100-SXM4-80GB          On  |   00000000:07:00.0 Off |                   On |
| N/A   27C    P0             72W /  400W |       1MiB /  81920MiB |     N/A      Default |
|                                         |                        |              Enabled |
+-----------------------------------------+------------------------+----------------------+
|   1  NVIDIA A100-SXM4-80GB          On  |   00000000:0B:00.0 Off |                    0 |
| N/A   27C    P0             72W /  400W |       1MiB /  81920MiB |      0%      Default |
|                                         |                        |             Disabled |
+-----------------------------------------+------------------------+----------------------+
+-----------------------------------------------------------------------------------------+
| MIG devices:                                                                            |
| GPU  GI  CI  MIG |                   Memory-Usage |        Vol|      Shared               |
|  0    1   0   0  |              20MiB / 40192MiB  | 42      0 |  3   0    2    0    0     |
+-----------------------------------------------------------------------------------------+
| Processes:                                                                              |
|  GPU   GI   CI        PID   Type   Process name                              GPU Memory |
|    0   N/A  N/A      4242      C   /usr/bin/python3                            1024MiB |
+-----------------------------------------------------------------------------------------+)", "nvidia-smi");
  ASSERT_EQ(node.gpus.size(), 2u);
  EXPECT_EQ(node.gpus[0].label, "GPU0");
  EXPECT_EQ(node.gpus[0].bus_id, "0000:07:00.0");
  EXPECT_EQ(node.gpus[0].name, "NVIDIA A100-SXM4-80GB");
  EXPECT_EQ(node.gpus[0].memory_bytes, int64_t{81920} << 20);
  EXPECT_EQ(node.gpus[0].mig, true);
  EXPECT_EQ(node.gpus[1].mig, false);
  EXPECT_EQ(node.host.driver_version, "550.90.07");
  EXPECT_EQ(node.host.cuda_driver_version, "12.4");
  EXPECT_TRUE(node.gpus_complete);
}

TEST(NvidiaSmi, ReadsOldAndCutTables) {  // driver 418: names are cut, no MIG line
  const std::string old = R"(+-----------------------------------------------------------------------------+
| NVIDIA-SMI 418.87.00    Driver Version: 418.87.00    CUDA Version: 10.1     |
|-------------------------------+----------------------+----------------------+
|   0  Tesla V100-SXM2...  On   | 00000000:15:00.0 Off |                    0 |
| N/A   36C    P0    44W / 300W |      0MiB / 32480MiB |      0%      Default |
+-------------------------------+----------------------+----------------------+
|   1  Tesla V100-SXM2...  On   | 00000000:16:00.0 Off |                    0 |
| N/A   36C    P0)";
  const Node node = import_one(old, "nvidia-smi");
  ASSERT_EQ(node.gpus.size(), 2u);
  EXPECT_EQ(node.gpus[0].name, "Tesla V100-SXM2...");
  EXPECT_EQ(node.gpus[0].memory_bytes, int64_t{32480} << 20);
  EXPECT_FALSE(node.gpus_complete);
  EXPECT_EQ(node.findings.size(), 1u);
}

TEST(NvidiaSmi, KnowsThatThereIsNone) {
  EXPECT_TRUE(import_one("No devices were found\n", "nvidia-smi").gpus_complete);
  const Node node = import_one("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that it is installed.\n", "nvidia-smi");
  EXPECT_FALSE(node.gpus_complete);
  ASSERT_EQ(node.findings.size(), 1u);
  EXPECT_EQ(node.findings[0].code, "driver-not-working");
}

TEST(NvidiaSmi, ReadsTheLongListing) {  // driver 570
  const Node node = import_one(R"(
==============NVSMI LOG==============

Timestamp                                 : Mon Mar  3 10:00:00 2025
Driver Version                            : 570.86.15
CUDA Version                              : 12.8

Attached GPUs                             : 2
GPU 00000000:19:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    Product Architecture                  : Hopper
    MIG Mode
        Current                           : Disabled
        Pending                           : Enabled
    GPU UUID                              : GPU-5269b708-678a-b1a8-60f0-c90406537486
    GPU Virtualization Mode
        Virtualization Mode               : None
    PCI
        Bus                               : 0x19
        Bus Id                            : 00000000:19:00.0
        GPU Link Info
            PCIe Generation
                Max                       : 5
                Current                   : 5
                Device Max                : 5
            Link Width
                Max                       : 16x
                Current                   : 16x
    FB Memory Usage
        Total                             : 81559 MiB
        Reserved                          : 551 MiB
    BAR1 Memory Usage
        Total                             : 131072 MiB
    Fabric
        State                             : Completed
        Status                            : Success
GPU 00000000:3B:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    MIG Mode
        Current                           : N/A
    Fabric
        State                             : Completed
        Status                            : Initialization failed
)", "nvidia-smi -q");
  ASSERT_EQ(node.gpus.size(), 2u);
  EXPECT_EQ(node.gpus[0].label, "GPU0");
  EXPECT_EQ(node.gpus[0].mig, false);
  EXPECT_EQ(node.gpus[0].memory_bytes, int64_t{81559} << 20);
  EXPECT_NEAR(node.gpus[0].pcie_gb_per_s, 63.0, 0.1);
  EXPECT_EQ(node.gpus[0].fabric_state, "completed");
  EXPECT_EQ(node.gpus[0].uuid, "GPU-5269b708-678a-b1a8-60f0-c90406537486");
  EXPECT_EQ(node.gpus[1].mig, std::nullopt);
  EXPECT_EQ(node.gpus[1].fabric_state, "failed: Initialization failed");
  EXPECT_EQ(node.host.driver_version, "570.86.15");
  EXPECT_TRUE(node.gpus_complete);
}

TEST(NvidiaSmi, DoesNotNumberThePartsOfACutListing) {
  const Node node = import_one("Attached GPUs                             : 8\nGPU 00000000:19:00.0\n    Product Name                          : NVIDIA L40S\n", "nvidia-smi -q");
  ASSERT_EQ(node.gpus.size(), 1u);
  EXPECT_EQ(node.gpus[0].label, "0000:19:00.0");
  EXPECT_EQ(node.gpus[0].index, -1);
  EXPECT_FALSE(node.gpus_complete);
  EXPECT_EQ(node.findings.size(), 1u);
}

TEST(NvidiaSmi, ReadsLinksAndLists) {
  const Node links = import_one("GPU 0: NVIDIA H100 PCIe (UUID: GPU-1)\n\t Link 0: 26.562 GB/s\n\t Link 1: 26.562 GB/s\n\t Link 2: <inactive>\n"
                                "GPU 1: NVIDIA H100 PCIe (UUID: GPU-2)\n\t Link 0: 26.562 GB/s\n", "nvidia-smi nvlink");
  ASSERT_EQ(links.gpus.size(), 2u);
  ASSERT_EQ(links.gpus[0].nvlinks.size(), 1u);
  EXPECT_EQ(links.gpus[0].nvlinks[0].count, 2);
  EXPECT_NEAR(links.gpus[0].nvlinks[0].gb_per_s, 53.1, 0.1);
  EXPECT_EQ(links.nvlink, true);
  EXPECT_TRUE(links.gpus_complete);

  const Node none = import_one("GPU 0: Tesla T4 (UUID: GPU-1)\n\t Link 0: <inactive>\n", "nvidia-smi nvlink");
  EXPECT_EQ(none.nvlink, false);

  const Node list = import_one("GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)\n  MIG 1g.5gb Device 0: (UUID: MIG-2)\nGPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-3)\n",
                               "nvidia-smi nvlink");
  EXPECT_EQ(list.gpus.size(), 2u);
  EXPECT_EQ(list.gpus[0].mig, true);
  EXPECT_EQ(list.gpus[1].uuid, "GPU-3");
  EXPECT_EQ(list.nvlink, std::nullopt);  // -L says nothing of links
  EXPECT_EQ(import_one("GPU 0: NVIDIA L40S (UUID: GPU-1)\n", "nvidia-smi nvlink", "nvlink-status.txt").nvlink, false);

  const Node remote = import_one("GPU 0: X (UUID: GPU-1)\n Link 0: 00000000:C5:00.0\n Link 1: 00000000:C5:00.0\n Link 2: 00000000:C6:00.0\n", "nvidia-smi nvlink");
  ASSERT_EQ(remote.gpus[0].nvlinks.size(), 2u);
  EXPECT_EQ(remote.gpus[0].nvlinks[0].remote_bus_id, "0000:c5:00.0");
  EXPECT_EQ(remote.gpus[0].nvlinks[0].count, 2);
}

TEST(Lspci, ReadsPlainAndNumericListings) {
  const Node nn = import_one("0000:00:00.0 Host bridge [0600]: Intel Corporation Device [8086:09a2] (rev 04)\n"
                             "0000:18:00.0 Infiniband controller [0207]: Mellanox Technologies MT2910 Family [ConnectX-7] [15b3:1021]\n"
                             "0000:19:00.0 3D controller [0302]: NVIDIA Corporation GH100 [H100 SXM5 80GB] [10de:2330] (rev a1)\n"
                             "10000:e1:00.0 Non-Volatile memory controller [0108]: Intel Corporation NVMe [8086:0b60]", "lspci");
  EXPECT_TRUE(nn.gpus_complete && nn.pci_complete);
  EXPECT_FALSE(nn.hcas_complete);
  ASSERT_EQ(nn.gpus.size(), 1u);
  EXPECT_EQ(nn.gpus[0].name, "NVIDIA H100 SXM5 80GB");
  ASSERT_EQ(nn.hcas.size(), 1u);
  EXPECT_EQ(nn.hcas[0].vendor_id, 0x02c9u);
  EXPECT_EQ(nn.hcas[0].ports[0].link_layer, LinkLayer::infiniband);

  const Node numbers = import_one("19:00.0 0302: 10de:2330 (rev a1)\n1a:00.0 0300: 1a03:2000\n", "lspci");
  EXPECT_EQ(numbers.gpus.size(), 1u);
  EXPECT_EQ(numbers.gpus[0].bus_id, "0000:19:00.0");

  const Node some = import_one("08:00.0 3D controller: NVIDIA Corporation GV100GL [Tesla V100 SXM2 16GB] (rev a1)\n0b:00.0 VGA compatible controller: ASPEED Technology, Inc.\n",
                               "lspci");
  EXPECT_EQ(some.gpus.size(), 1u);
  EXPECT_FALSE(some.gpus_complete);
  EXPECT_TRUE(import_one("08:00.0 3D controller: NVIDIA Corporation GV100GL [Tesla V100 SXM2 16GB] (rev a1)\n", "lspci").gpus_complete);  // lspci | grep -i nvidia
}

TEST(Lspci, ReadsVerboseLines) {
  const Node node = import_one("15:01.0 PCI bridge: Broadcom / LSI PEX890xx PCIe Gen 5 Switch (rev b0) (prog-if 00 [Normal decode])\n"
                               "\tNUMA node: 0\n\tBus: primary=15, secondary=18, subordinate=19, sec-latency=0\n"
                               "\t\tLnkCap:\tPort #0, Speed 32GT/s, Width x16, ASPM not supported\n"
                               "\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-\n"
                               "18:00.0 Ethernet controller: Mellanox Technologies MT2910 Family [ConnectX-7]\n\tNUMA node: 1\n", "lspci");
  ASSERT_TRUE(at_bus(node, "0000:15:01.0"));
  EXPECT_EQ(at_bus(node, "0000:15:01.0")->acs_redirect, true);
  EXPECT_NEAR(at_bus(node, "0000:15:01.0")->gb_per_s, 63.0, 0.1);
  EXPECT_EQ(at_bus(node, "0000:18:00.0")->parent, "0000:15:01.0");
  EXPECT_EQ(at_bus(node, "0000:18:00.0")->numa, 1);
}

TEST(Lspci, ReadsTheTree) {
  const Node node = import_one(R"(-+-[0000:80]-+-00.0  Intel Corporation Device 09a2
 |           \-02.0-[81-84]----00.0-[82-84]--+-00.0-[83]----00.0  NVIDIA Corporation GH100 [H100 SXM5 80GB]
 |                                           \-01.0-[84]--+-00.0  Mellanox Technologies MT2910 Family [ConnectX-7]
 |                                                        \-00.1  Mellanox Technologies MT2910 Family [ConnectX-7]
 \-[0000:00]-+-00.0  Intel Corporation Device 09a2
             +-1f.0  Intel Corporation Device
             \-1f.6  Intel Corporation Ethernet Connection
)", "lspci -t");
  const PciDevice* gpu = at_bus(node, "0000:83:00.0");
  ASSERT_TRUE(gpu);
  EXPECT_EQ(gpu->parent, "0000:82:00.0");
  EXPECT_EQ(gpu->root, "pci0000:80");
  EXPECT_EQ(at_bus(node, "0000:82:00.0")->parent, "0000:81:00.0");
  EXPECT_EQ(at_bus(node, "0000:82:01.0")->parent, "0000:81:00.0");
  EXPECT_EQ(at_bus(node, "0000:81:00.0")->parent, "0000:80:02.0");
  EXPECT_EQ(at_bus(node, "0000:84:00.1")->parent, "0000:82:01.0");
  EXPECT_EQ(at_bus(node, "0000:80:02.0")->parent, "");
  EXPECT_EQ(at_bus(node, "0000:00:1f.6")->root, "pci0000:00");
  EXPECT_EQ(node.gpus.size(), 1u);
}

TEST(Lspci, IsNotFooledByKernelLogs) {
  EXPECT_TRUE(import_parts("[    3.1] mlx5_core 0000:18:00.0: firmware version: 28.39.1002\n0000:18:00.0: something else\n", "dmesg").empty());
  EXPECT_TRUE(import_parts("0000:18:00.0 is the address of a card: see below\n", "notes").empty());
}

TEST(Importers, EndOnMuchRubbish) {
  std::string matrix = "\tGPU0", links, pci;
  for (int i = 1; i < 3000; ++i) matrix += "\tGPU" + std::to_string(i);
  matrix += "\n";
  for (int i = 0; i < 3000; ++i) matrix += "GPU" + std::to_string(i) + "\t X \tNV4\tSYS\n";
  for (int i = 0; i < 5000; ++i) links += "GPU " + std::to_string(i) + ": A (UUID: GPU-1)\n Link 0: 25 GB/s\n";
  for (int i = 0; i < 5000; ++i) pci += std::to_string(i % 90 + 10) + ":00." + std::to_string(i % 8) + " 3D controller: NVIDIA Corporation X [Y]\n";
  EXPECT_LE(import_parts(matrix, "m").at(0).node.gpus.size(), 512u);
  EXPECT_LE(import_parts(links, "l").at(0).node.gpus.size(), 1024u);
  EXPECT_LE(import_parts(pci, "p").at(0).node.gpus.size(), 1024u);
  EXPECT_TRUE(import_parts(std::string(1 << 18, '<'), "x").empty());
  EXPECT_TRUE(import_parts(std::string(1 << 18, '|'), "x").empty());
  std::string open;
  while (open.size() < 1 << 18) open += "<system><cpu>";
  EXPECT_EQ(import_parts(open, "x").size(), 1u);
}

}  // namespace
}  // namespace dsinfer::topology
