// Captured machines as trees and structured files: sysfs, XML, matrices, PCI listings, and folders of all of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "scratch_folder.hpp"
#include "topology/importers.hpp"
#include "topology/tree.hpp"

namespace dsinfer::topology {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

template <class T>
const T* named(const std::vector<T>& items, const std::string& name) {
  const auto found = std::find_if(items.begin(), items.end(), [&](const T& item) { return item.name == name; });
  return found == items.end() ? nullptr : &*found;
}
template <class T>
const T* at_bus(const std::vector<T>& items, const std::string& id) {
  const auto found = std::find_if(items.begin(), items.end(), [&](const T& item) { return item.bus_id == id; });
  return found == items.end() ? nullptr : &*found;
}

// A /sys as Linux 6 shows it: one switch with a GPU and a RoCE card (with a virtual function) below, a card at the other socket.
void write_sysfs(const ScratchFolder& f) {
  const auto device = [&](const std::string& path, const std::string& cls, const std::string& vendor, const std::string& id, const std::string& numa,
                          const std::string& speed = "32.0 GT/s PCIe", const std::string& width = "16") {
    const std::string base = "sys/devices/" + path + "/";
    f.file(base + "class", cls + "\n");
    f.file(base + "vendor", vendor + "\n");
    f.file(base + "device", id + "\n");
    f.file(base + "numa_node", numa + "\n");
    f.file(base + "max_link_speed", speed + "\n");
    f.file(base + "max_link_width", width + "\n");
    f.link("sys/bus/pci/devices/" + path.substr(path.rfind('/') + 1), "../../../devices/" + path);
  };
  const std::string root = "pci0000:14/0000:14:01.0", up = root + "/0000:15:00.0";
  device(root, "0x060400", "0x8086", "0x352a", "0");
  device(up, "0x060400", "0x1000", "0xc030", "0");
  device(up + "/0000:16:00.0", "0x060400", "0x1000", "0xc030", "0");
  device(up + "/0000:16:00.0/0000:19:00.0", "0x030200", "0x10de", "0x2330", "-1");
  device(up + "/0000:16:01.0", "0x060400", "0x1000", "0xc030", "0", "16.0 GT/s PCIe");
  device(up + "/0000:16:01.0/0000:18:00.0", "0x020000", "0x15b3", "0x1021", "0");
  device(up + "/0000:16:01.0/0000:18:00.2", "0x020000", "0x15b3", "0x101e", "0");
  device("pci0000:80/0000:80:05.0", "0x020700", "0x15b3", "0x101b", "1", "16.0 GT/s PCIe");
  device("pci0000:80/0000:80:1f.0", "0x088000", "0x8086", "0x3450", "1", "Unknown", "255");
  f.link("sys/devices/" + up + "/0000:16:01.0/0000:18:00.2/physfn", "../0000:18:00.0");
  const std::string card = "sys/devices/" + up + "/0000:16:01.0/0000:18:00.0", verbs = card + "/infiniband/mlx5_0";
  f.link("sys/class/infiniband/mlx5_0", "../../devices/" + up + "/0000:16:01.0/0000:18:00.0/infiniband/mlx5_0");
  f.link(verbs + "/device", "../../../0000:18:00.0");
  f.file(verbs + "/node_type", "1: CA\n");
  f.file(verbs + "/node_guid", "946d:ae03:0050:709a\n");
  f.file(verbs + "/sys_image_guid", "946d:ae03:0050:709a\n");
  f.file(verbs + "/hca_type", "MT4129\n");
  f.file(verbs + "/fw_ver", "28.39.1002");
  const std::string port = verbs + "/ports/1/";
  f.file(port + "state", "4: ACTIVE\n");
  f.file(port + "phys_state", "5: LinkUp\n");
  f.file(port + "rate", "400 Gb/sec (4X NDR)\n");
  f.file(port + "link_layer", "Ethernet\n");
  f.file(port + "lid", "0x0\n");
  const char* gids[] = {"fe80:0000:0000:0000:966d:aeff:fe50:709a", "fe80:0000:0000:0000:966d:aeff:fe50:709a", "0000:0000:0000:0000:0000:ffff:0a00:0006",
                        "0000:0000:0000:0000:0000:ffff:0a00:0006", "0000:0000:0000:0000:0000:0000:0000:0000"};
  for (int i = 0; i < 5; ++i) {
    f.file(port + "gids/" + std::to_string(i), std::string(gids[i]) + "\n");
    if (i < 3) f.file(port + "gid_attrs/types/" + std::to_string(i), i % 2 ? "RoCE v2\n" : "IB/RoCE v1\n");
    if (i < 3) f.file(port + "gid_attrs/ndevs/" + std::to_string(i), "ens1f0np0\n");
  }
  f.file(card + "/net/ens1f0np0/type", "1\n");
  f.file(card + "/net/ens1f0np0/flags", "0x1003\n");
  f.file(card + "/net/ens1f0np0/operstate", "up\n");
  f.file(card + "/net/ens1f0np0/mtu", "9000\n");
  f.file(card + "/net/ens1f0np0/speed", "400000\n");
  f.file(card + "/net/ens1f0np0/address", "94:6d:ae:50:70:9a\n");
  f.file(card + "/net/ens1f0np0/ifindex", "5\n");
  f.file(card + "/net/ens1f0np0/iflink", "5\n");
  f.link(card + "/net/ens1f0np0/device", "../../../0000:18:00.0");
  f.link("sys/class/net/ens1f0np0", "../../devices/" + up + "/0000:16:01.0/0000:18:00.0/net/ens1f0np0");
}

void write_virtual_interfaces(const ScratchFolder& f) {
  const auto net = [&](const std::string& name, const std::string& index, const std::string& link, const std::string& type, const std::string& flags,
                       const std::string& state, const std::string& uevent) {
    const std::string base = "sys/devices/virtual/net/" + name + "/";
    f.file(base + "type", type + "\n");
    f.file(base + "flags", flags + "\n");
    f.file(base + "operstate", state + "\n");
    f.file(base + "ifindex", index + "\n");
    f.file(base + "iflink", link + "\n");
    f.file(base + "uevent", uevent + "INTERFACE=" + name + "\n");
    f.link("sys/class/net/" + name, "../../devices/virtual/net/" + name);
  };
  net("lo", "1", "1", "772", "0x9", "unknown", "");
  f.file("sys/devices/virtual/net/lo/carrier", "1\n");
  net("bond0", "7", "7", "1", "0x1403", "up", "DEVTYPE=bond\n");
  f.file("sys/devices/virtual/net/bond0/bonding/slaves", "ens1f0np0 ens1f1np1\n");
  net("bond0.503", "8", "7", "1", "0x1003", "lowerlayerdown", "DEVTYPE=vlan\n");
  f.link("sys/devices/virtual/net/bond0.503/lower_bond0", "../bond0");
  net("veth1a2b", "12", "3", "1", "0x1002", "down", "");
  net("tun0", "13", "13", "65534", "0x1091", "unknown", "");
  f.file("sys/devices/virtual/net/tun0/tun_flags", "0x1001\n");
  net("br0", "14", "14", "1", "0x1003", "up", "DEVTYPE=bridge\n");
  f.file("sys/devices/virtual/net/br0/brif/veth1a2b/port_no", "1\n");
  net("net1", "3", "5", "1", "0x1003", "up", "DEVTYPE=macvlan\n");
  f.file("sys/class/net/bonding_masters", "bond0\n");
  f.file("proc/net/route", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
                           "bond0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
                           "bond0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n");
}

TEST(Sysfs, ReadsThePciTreeWithParentsAndLinks) {
  const ScratchFolder f;
  write_sysfs(f);
  const Node node = read_sysfs(*folder_tree(f.path()), "x");
  const PciDevice* gpu = at_bus(node.pci, "0000:19:00.0");
  ASSERT_TRUE(gpu);
  EXPECT_EQ(gpu->parent, "0000:16:00.0");
  EXPECT_EQ(gpu->root, "pci0000:14");
  EXPECT_EQ(gpu->numa, 0);  // −1 there: the bridge's
  EXPECT_NEAR(gpu->gb_per_s, 63.0, 0.1);
  const PciDevice* nic = at_bus(node.pci, "0000:18:00.0");
  ASSERT_TRUE(nic);
  EXPECT_NEAR(nic->gb_per_s, 31.5, 0.1);  // the slot is Gen4
  EXPECT_EQ(at_bus(node.pci, "0000:18:00.2")->physical_function, "0000:18:00.0");
  EXPECT_FALSE(at_bus(node.pci, "0000:80:1f.0"));  // a memory controller
  EXPECT_EQ(at_bus(node.pci, "0000:16:00.0")->acs_redirect, std::nullopt);
  ASSERT_EQ(node.gpus.size(), 1u);
  EXPECT_EQ(node.gpus[0].label, "0000:19:00.0");
  EXPECT_TRUE(node.gpus_complete && node.hcas_complete && node.pci_complete && node.interfaces_complete);
}

TEST(Sysfs, ReadsVerbsDevicesWithTheirGids) {
  const ScratchFolder f;
  write_sysfs(f);
  const Node node = read_sysfs(*folder_tree(f.path()), "x");
  ASSERT_EQ(node.hcas.size(), 1u);
  const Hca& hca = node.hcas[0];
  EXPECT_EQ(hca.bus_id, "0000:18:00.0");
  EXPECT_EQ(hca.vendor_id, 0x02c9u);
  EXPECT_EQ(hca.part_id, 4129u);
  EXPECT_EQ(hca.firmware, "28.39.1002");
  EXPECT_EQ(hca.numa, 0);
  EXPECT_EQ(hca.device_link, true);
  ASSERT_EQ(hca.ports.size(), 1u);
  const HcaPort& port = hca.ports[0];
  EXPECT_EQ(port.state, PortState::active);
  EXPECT_EQ(port.link_layer, LinkLayer::ethernet);
  EXPECT_EQ(port.rate_gbps, 400);
  EXPECT_EQ(port.lid, 0);
  EXPECT_TRUE(port.gid_table);
  ASSERT_EQ(port.gids.size(), 4u);
  EXPECT_EQ(port.gids[1].roce_version, 2);
  EXPECT_EQ(port.gids[2].address, "::ffff:10.0.0.6");
  EXPECT_TRUE(port.gids[2].readable);
  EXPECT_FALSE(port.gids[3].readable);  // no type to be read
  EXPECT_THAT(port.netdevs, ElementsAre("ens1f0np0"));
}

TEST(Sysfs, TellsInterfacesApart) {
  const ScratchFolder f;
  write_sysfs(f);
  write_virtual_interfaces(f);
  const Node node = read_sysfs(*folder_tree(f.path()), "x");
  std::vector<std::string> kinds;
  for (const Interface& i : node.interfaces) kinds.push_back(i.name + " " + i.kind);
  EXPECT_THAT(kinds, ElementsAre("lo loopback", "net1 macvlan", "ens1f0np0 physical", "bond0 bond", "bond0.503 vlan", "veth1a2b veth", "tun0 tunnel",
                                 "br0 bridge"));
  const Interface* card = named(node.interfaces, "ens1f0np0");
  EXPECT_EQ(card->bus_id, "0000:18:00.0");
  EXPECT_EQ(card->up, true);
  EXPECT_EQ(card->speed_mbps, 400000);
  EXPECT_EQ(named(node.interfaces, "lo")->up, true);
  EXPECT_EQ(named(node.interfaces, "veth1a2b")->up, false);
  EXPECT_EQ(named(node.interfaces, "bond0.503")->up, false);
  EXPECT_THAT(named(node.interfaces, "bond0.503")->lower, ElementsAre("bond0"));
  EXPECT_THAT(named(node.interfaces, "bond0")->lower, ElementsAre("ens1f0np0", "ens1f1np1"));
  EXPECT_TRUE(named(node.interfaces, "bond0")->default_route);
  EXPECT_FALSE(card->default_route);
}

TEST(Sysfs, ReadsAcsWhereItsRegistersAreReadable) {
  const ScratchFolder f;
  write_sysfs(f);
  std::string config(4096, '\0');
  const auto word = [&](size_t at, uint32_t value) { for (size_t i = 0; i < 4; ++i) config[at + i] = static_cast<char>(value >> 8 * i); };
  word(0x100, 0x14820001);  // AER, next at 0x148
  word(0x148, 0x0001000d);  // ACS, the last
  word(0x14c, 0x001d007f);  // control: redirect requests and completions
  f.file("sys/devices/pci0000:14/0000:14:01.0/0000:15:00.0/0000:16:00.0/config", config);
  word(0x14c, 0x0011007f);
  f.file("sys/devices/pci0000:14/0000:14:01.0/0000:15:00.0/0000:16:01.0/config", config);
  f.file("sys/devices/pci0000:14/0000:14:01.0/config", config.substr(0, 64));  // without privileges
  const Node node = read_sysfs(*folder_tree(f.path()), "x");
  EXPECT_EQ(at_bus(node.pci, "0000:16:00.0")->acs_redirect, true);
  EXPECT_EQ(at_bus(node.pci, "0000:16:01.0")->acs_redirect, false);
  EXPECT_EQ(at_bus(node.pci, "0000:14:01.0")->acs_redirect, std::nullopt);
}

TEST(Sysfs, KnowsWhatALoneListDoesNotSay) {
  const ScratchFolder f;
  f.file("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE");
  f.file("sys/class/infiniband/mlx5_0/ports/1/link_layer", "InfiniBand");
  f.file("sys/class/infiniband/empty0/node_type", "1: CA");
  std::filesystem::create_directories(f.path("sys/class/infiniband/empty0/ports"));
  const Node node = read_sysfs(*folder_tree(f.path()), "x");
  EXPECT_TRUE(node.hcas_complete);
  EXPECT_FALSE(node.gpus_complete);
  EXPECT_FALSE(node.pci_complete);
  EXPECT_FALSE(node.interfaces_complete);
  EXPECT_EQ(named(node.hcas, "mlx5_0")->device_link, std::nullopt);  // nobody has one here
  EXPECT_EQ(named(node.hcas, "mlx5_0")->port_count, 1);
  EXPECT_EQ(named(node.hcas, "empty0")->port_count, 0);
  EXPECT_EQ(node.host.peer_memory, std::nullopt);
  EXPECT_EQ(node.host.uverbs, std::nullopt);
}

TEST(Sysfs, FindsPciDevicesOfACopyWithoutLinks) {
  const ScratchFolder f;
  f.file("sys/devices/pci10000:00/10000:00:01.0/class", "0x060400\n");
  f.file("sys/devices/pci10000:00/10000:00:01.0/10000:01:00.0/class", "0x030200\n");
  f.file("sys/devices/pci10000:00/10000:00:01.0/10000:01:00.0/vendor", "0x10de\n");
  f.file("sys/bus/pci/devices/10000:01:00.0/class", "0x030200\n");  // cp -L made folders of links
  const Node node = read_sysfs(*folder_tree(f.path()), "x");
  ASSERT_EQ(node.gpus.size(), 1u);
  EXPECT_EQ(node.gpus[0].bus_id, "10000:01:00.0");
  EXPECT_EQ(at_bus(node.pci, "10000:01:00.0")->parent, "10000:00:01.0");
}

TEST(Sysfs, ReadsTheHostFromItsFiles) {
  const ScratchFolder f;
  f.file("etc/hostname", "node7\n");
  f.file("etc/os-release", "NAME=\"Ubuntu\"\nPRETTY_NAME=\"Ubuntu 22.04.4 LTS\"\n");
  f.file("proc/version", "Linux version 5.15.0-105-generic (buildd@lcy02) (gcc …)\n");
  f.file("proc/sys/kernel/random/boot_id", "0f3b9a64-1c3e-4c39-8a43-000000000001\n");
  f.file("proc/cpuinfo", "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Platinum 8480C\nphysical id\t: 0\ncore id\t\t: 0\nflags\t\t: fpu lm hypervisor\n\n"
                         "processor\t: 1\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 2\nphysical id\t: 1\ncore id\t\t: 0\n");
  f.file("proc/meminfo", "MemTotal:       2113407528 kB\nMemFree: 1 kB\n");
  f.file("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)\n");
  f.file("proc/driver/nvidia/gpus/0000:19:00.0/information", "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 0\nGPU UUID: \t GPU-5269b708-678a\nBus Location: \t 0000:19:00.0\n");
  f.file("sys/devices/system/node/node0/cpumap", "00000000,0000000f\n");
  f.file("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:       1056703764 kB\n");
  f.file("sys/module/nvidia_peermem/version", "570.86.15\n");
  f.file("dev/infiniband/uverbs0", "");
  f.file("dev/infiniband/uverbs10", "");
  f.file("dev/infiniband/uverbs2", "");
  f.file(".dockerenv", "");
  const Host host = read_sysfs(*folder_tree(f.path()), "x").host;
  EXPECT_EQ(host.name, "node7");
  EXPECT_EQ(host.os, "Ubuntu 22.04.4 LTS");
  EXPECT_EQ(host.kernel, "5.15.0-105-generic");
  EXPECT_EQ(host.arch, "x86_64");
  EXPECT_EQ(host.cpu_model, "Intel(R) Xeon(R) Platinum 8480C");
  EXPECT_EQ(host.packages, 2);
  EXPECT_EQ(host.cores, 2);
  EXPECT_EQ(host.logical_cpus, 3);
  EXPECT_EQ(host.memory_bytes, int64_t{2113407528} * 1024);
  ASSERT_EQ(host.numa.size(), 1u);
  EXPECT_EQ(host.numa[0].cpus, "0-3");
  EXPECT_EQ(host.driver_version, "570.86.15");
  EXPECT_EQ(host.peer_memory, true);
  EXPECT_EQ(host.virtual_machine, true);
  EXPECT_EQ(host.container, true);
  ASSERT_TRUE(host.uverbs);
  EXPECT_THAT(*host.uverbs, ElementsAre("uverbs0", "uverbs2", "uverbs10"));
  EXPECT_EQ(host.rdma_cm, false);
  const Node node = read_sysfs(*folder_tree(f.path()), "x");
  ASSERT_EQ(node.gpus.size(), 1u);
  EXPECT_EQ(node.gpus[0].name, "NVIDIA H100 80GB HBM3");
}

TEST(Sysfs, SurvivesNonsense) {
  const ScratchFolder f;
  f.file("sys/class/infiniband/\xff\xfe/ports/99999999999/state", "x");
  f.file("sys/class/infiniband/a/ports/1/rate", "-5 Gb/sec\n");
  f.file("sys/class/infiniband/a/ports/1/gids/x", "zz\n");
  f.file("sys/class/infiniband/a/ports/1/gids/99999999999999", "fe80::1\n");
  f.file("sys/class/net/a/mtu", "99999999999999999999\n");
  f.file("sys/class/net/a/speed", "-1\n");
  f.file("sys/bus/pci/devices/zz:zz.z/class", "x");
  f.file("sys/bus/pci/devices/0000:01:00.0/class", "0xffffffffffff");
  f.file("sys/devices/system/node/node999999999999/meminfo", "MemTotal: x");
  f.file("sys/devices/system/cpu/online", "0-99999999999");
  f.link("sys/class/infiniband/loop", "loop");
  const Node node = read_sysfs(*folder_tree(f.path()), "x");
  EXPECT_EQ(node.hcas.size(), 3u);
  EXPECT_EQ(named(node.hcas, "loop")->sysfs_missing, true);
  EXPECT_EQ(named(node.hcas, "a")->ports[0].rate_gbps, 0);
  EXPECT_THAT(named(node.hcas, "a")->ports[0].gids, IsEmpty());
  EXPECT_EQ(named(node.interfaces, "a")->mtu, 0);
  EXPECT_EQ(node.interfaces[0].speed_mbps, 0);
}

TEST(Sysfs, ReadsThisMachine) {
  const Node node = read_sysfs(*folder_tree("/"), "live: sysfs");
  EXPECT_FALSE(node.host.name.empty());
  EXPECT_GT(node.host.logical_cpus, 0);
  EXPECT_GT(node.host.memory_bytes, 0);
  EXPECT_TRUE(node.interfaces_complete);
}

// What the one importer that knows the text makes of it.
Node import_one(std::string_view text, const std::string& format) {
  std::vector<Imported> parts = import_parts(text, "text");
  EXPECT_EQ(parts.size(), 1u);
  if (parts.size() != 1) return {};
  EXPECT_EQ(parts[0].format, format);
  return std::move(parts[0].node);
}

TEST(NcclXml, ReadsADump) {  // NCCL 2.21
  const Node node = import_one(R"($ cat topo.xml
<system version="1">
  <cpu numaid="1" affinity="ffff0000" arch="x86_64" vendor="AuthenticAMD" familyid="175" modelid="17">
    <pci busid="0000:c4:00.0" class="0x060400" vendor="0x1000" device="0xc030" link_speed="32.0 GT/s PCIe" link_width="16">
      <pci busid="0000:C6:00.0" class="0x030200" vendor="0x10de" device="0x2330" link_speed="32.0 GT/s PCIe" link_width="16">
        <gpu dev="3" sm="90" rank="3" gdr="1">
          <nvlink target="0000:c7:00.0" count="9" tclass="0x068000"/>
          <nvlink target="fffffff:ffff:ff" count="9" tclass="0x068000"/>
          <c2c bw="1" count="1"/>
        </gpu>
      </pci>
      <pci busid="0000:c8:00.0" class="0x020700" vendor="0x15b3" device="0x1021" link_speed="16.0 GT/s PCIe" link_width="8">
        <nic>
          <net name="mlx5_4" dev="0" latency="0.000000" speed="400000" port="1" guid="0x9a70500003ae6d94" maxconn="131072" gdr="1"/>
          <net name="mlx5_5" dev="1" latency="0.000000" speed="400000" port="2" guid="0x9a70500003ae6d94" maxconn="131072" gdr="1"/>
        </nic>
      </pci>
    </pci>
    <nic><net name="eth0" dev="2" speed="25000" port="0" guid="0x0" gdr="0"/></nic>
  </cpu>
</system>
$ exit
)", "NCCL topology XML");
  ASSERT_EQ(node.gpus.size(), 1u);
  EXPECT_EQ(node.gpus[0].index, 3);
  EXPECT_EQ(node.gpus[0].label, "0000:c6:00.0");
  EXPECT_EQ(node.gpus[0].compute_major, 9);
  EXPECT_EQ(node.gpus[0].gdr, true);
  ASSERT_EQ(node.gpus[0].nvlinks.size(), 3u);
  EXPECT_EQ(node.gpus[0].nvlinks[2].remote, NvLink::Remote::cpu);  // C2C
  EXPECT_EQ(node.gpus[0].nvlinks[1].remote, NvLink::Remote::nvswitch);
  EXPECT_EQ(node.gpus[0].nvlinks[1].remote_bus_id, "");
  EXPECT_EQ(node.nvlink, true);
  const Hca* second = named(node.hcas, "mlx5_5");
  ASSERT_TRUE(second);
  EXPECT_EQ(second->ports[0].number, 1);  // printed as 2: the second port of the card, but the first of its device
  EXPECT_EQ(second->ports[0].link_layer, LinkLayer::infiniband);
  EXPECT_EQ(second->ports[0].rate_gbps, 400);
  EXPECT_EQ(second->sys_image_guid, "946d:ae03:0050:709a");
  EXPECT_EQ(second->vendor_id, 0x02c9u);
  EXPECT_EQ(named(node.interfaces, "eth0")->speed_mbps, 25000);
  EXPECT_EQ(at_bus(node.pci, "0000:c8:00.0")->parent, "0000:c4:00.0");
  EXPECT_EQ(at_bus(node.pci, "0000:c4:00.0")->root, "numa1");
  EXPECT_TRUE(node.gpus_complete && node.hcas_complete && node.pci_complete);
  EXPECT_EQ(node.host.numa[0].cpus, "16-31");
}

TEST(NcclXml, SplitsFusedPorts) {
  const Node node = import_one(R"(<system version="1"><cpu numaid="-1"><pci busid="0000:01:00.0" class="0x020000" vendor="0x15b3" device="0x1021">
    <nic><net name="mlx5_0+mlx5_1" dev="0" speed="400000" port="1"/></nic></pci></cpu></system>)", "NCCL topology XML");
  ASSERT_EQ(node.hcas.size(), 2u);
  EXPECT_EQ(node.hcas[1].name, "mlx5_1");
  EXPECT_EQ(node.hcas[1].ports[0].rate_gbps, 200);
  EXPECT_EQ(node.hcas[1].ports[0].number, 1);
}

TEST(NcclXml, TakesFromAProvidersFileWhatItsClassesTell) {
  const Node node = import_one(R"(<!-- <system> in a remark -->
<system version="1"><cpu numaid="0">
  <pci busid="ffff:ff:01.0" class="0x060400" link_speed="" link_width="0">
    <pci busid="0001:00:00.0" class="0x030200"/><pci busid="0101:00:00.0" class="0x020700"/>
    <pci busid="0000:10:1b.0" class="0x020000" vendor="0x1d0f" device="0xefa1"/><pci busid="0000:00:05.0" class="0x020000"/>
  </pci></cpu></system>)", "NCCL topology XML");
  EXPECT_EQ(node.gpus.size(), 1u);
  EXPECT_TRUE(node.gpus_complete);
  EXPECT_FALSE(node.hcas_complete);
  ASSERT_EQ(node.hcas.size(), 2u);
  EXPECT_EQ(node.hcas[0].name, "");
  EXPECT_EQ(node.hcas[0].ports[0].link_layer, LinkLayer::infiniband);
  EXPECT_EQ(node.hcas[1].node_type, Hca::NodeType::unspecified);
  EXPECT_EQ(node.nvlink, std::nullopt);
}

TEST(NcclXml, CountsNothingInASkeletonAndNoLinkToItself) {
  const Node skeleton = import_one(R"(<system version="1"><cpu numaid="0"><pci busid="0000:00:16.0"/></cpu></system>)", "NCCL topology XML");
  EXPECT_FALSE(skeleton.gpus_complete);
  EXPECT_THAT(skeleton.gpus, IsEmpty());
  const std::string gpu = R"(<system version="1"><cpu numaid="0"><pci busid="0001:00:00.0" class="0x030200"><gpu dev="0" sm="80">)";
  EXPECT_EQ(import_one(gpu + R"(<nvlink target="0001:00:00.0" count="12" tclass="0x030200"/></gpu></pci></cpu></system>)", "NCCL topology XML").nvlink,
            std::nullopt);
  EXPECT_EQ(import_one(gpu + "</gpu></pci></cpu></system>", "NCCL topology XML").nvlink, false);
}

TEST(NcclXml, KeepsWhatCameBeforeACut) {
  const Node node = import_one(R"(<system version="1"><cpu numaid="0"><pci busid="0001:00:00.0" class="0x030200"/><pci busid="0002:00:00.0" cla)",
                               "NCCL topology XML");
  EXPECT_EQ(node.gpus.size(), 1u);
  EXPECT_FALSE(node.gpus_complete);
  ASSERT_EQ(node.findings.size(), 1u);
  EXPECT_EQ(node.findings[0].code, "truncated");
}

TEST(HwlocXml, ReadsVersionTwo) {  // osdev_type counts, infos on the Machine
  const Node node = import_one(R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
  <object type="Machine" os_index="0" cpuset="0x0000000f" nodeset="0x00000003">
    <info name="HostName" value="n1"/><info name="OSRelease" value="5.15.0"/><info name="Architecture" value="x86_64"/>
    <object type="Package" os_index="1" cpuset="0x0000000c" nodeset="0x00000002">
      <info name="CPUModel" value="AMD EPYC 7V12"/>
      <object type="NUMANode" os_index="1" cpuset="0x0000000c" nodeset="0x00000002" local_memory="1000"/>
      <object type="Core" os_index="0"><object type="PU" os_index="2"/><object type="PU" os_index="3"/></object>
      <object type="Bridge" bridge_type="0-1" depth="0" bridge_pci="0000:[80-84]">
        <object type="Bridge" bridge_type="1-1" depth="1" bridge_pci="0000:[81-82]" pci_busid="0000:80:01.0" pci_type="0604 [8086:3c02] [0000:0000] 07" pci_link_speed="15.753846">
          <object type="PCIDev" pci_busid="0000:81:00.0" pci_type="0200 [15b3:1017] [15b3:0020] 00" pci_link_speed="15.753846">
            <object type="OSDev" name="ens1f0" osdev_type="2"><info name="Address" value="b8:59:9f:00:00:01"/><info name="Port" value="1"/></object>
            <object type="OSDev" name="mlx5_0" osdev_type="3">
              <info name="NodeGUID" value="b859:9f03:0000:0001"/><info name="Port1State" value="1"/><info name="Port1LID" value="0x0"/>
              <info name="Port1GID0" value="fe80:0000:0000:0000:ba59:9fff:fe00:0001"/>
            </object>
          </object>
          <object type="PCIDev" pci_busid="0000:82:00.0" pci_type="0302 [10de:20b0] [10de:134f] a1" pci_link_speed="15.753846">
            <object type="OSDev" name="nvml1" subtype="NVML" osdev_type="1"><info name="GPUModel" value="NVIDIA A100-SXM4-40GB"/><info name="NVIDIAUUID" value="GPU-1"/></object>
          </object>
        </object>
      </object>
    </object>
    <object type="Misc"/>
    <object type="OSDev" name="scif0" osdev_type="3"/>
  </object>
  <distances2hetero nbobjs="2" kind="10" name="NVLinkBandwidth"><indexes length="20">OSDev:5 OSDev:9</indexes><u64values length="9">1000000 25000 25000 1000000</u64values></distances2hetero>
</topology>)", "hwloc XML");
  EXPECT_EQ(node.host.name, "n1");
  EXPECT_EQ(node.host.cpu_model, "AMD EPYC 7V12");
  EXPECT_EQ(node.host.logical_cpus, 2);
  EXPECT_EQ(node.host.numa[0].cpus, "2-3");
  const Hca* hca = named(node.hcas, "mlx5_0");
  ASSERT_TRUE(hca);
  EXPECT_EQ(hca->numa, 1);
  EXPECT_EQ(hca->part_id, 0x1017u);
  EXPECT_EQ(hca->ports[0].state, PortState::down);
  EXPECT_EQ(hca->ports[0].link_layer, LinkLayer::ethernet);
  EXPECT_FALSE(hca->ports[0].gid_table);
  EXPECT_EQ(hca->ports[0].gids[0].address, "fe80::ba59:9fff:fe00:1");
  EXPECT_THAT(hca->ports[0].netdevs, ElementsAre("ens1f0"));
  EXPECT_EQ(named(node.hcas, "scif0")->port_count, 0);
  EXPECT_EQ(named(node.hcas, "scif0")->device_link, false);
  EXPECT_EQ(node.gpus[0].index, 1);
  EXPECT_EQ(node.gpus[0].name, "NVIDIA A100-SXM4-40GB");
  EXPECT_EQ(at_bus(node.pci, "0000:82:00.0")->parent, "0000:80:01.0");
  EXPECT_EQ(at_bus(node.pci, "0000:80:01.0")->root, "pci0000:80");
  EXPECT_EQ(node.nvlink, true);
  EXPECT_TRUE(node.gpus_complete && node.hcas_complete && node.pci_complete);
}

TEST(HwlocXml, FindsBothKindsOfPortsOnOneCard) {  // version 1, osdev_type counts
  const Node node = import_one(R"(<topology><object type="Machine" os_index="0" cpuset="0x1" nodeset="0x1" local_memory="77">
    <object type="PCIDev" pci_busid="0000:05:00.0" pci_type="0c06 [15b3:6746] [103c:3349] b0">
      <object type="OSDev" name="eth2" osdev_type="2"/><object type="OSDev" name="ib0" osdev_type="2"/><object type="OSDev" name="mlx4_0" osdev_type="3"/>
    </object></object></topology>)", "hwloc XML");
  ASSERT_EQ(node.hcas.size(), 1u);
  ASSERT_EQ(node.hcas[0].ports.size(), 2u);
  EXPECT_EQ(node.hcas[0].ports[0].link_layer, LinkLayer::infiniband);
  EXPECT_THAT(node.hcas[0].ports[0].netdevs, ElementsAre("ib0"));
  EXPECT_EQ(node.hcas[0].ports[1].link_layer, LinkLayer::ethernet);
  EXPECT_EQ(node.host.memory_bytes, 77);
}

TEST(Xml, RefusesEntitiesAndDepth) {
  std::string deep;
  for (int i = 0; i < 5000; ++i) deep += "<pci>";
  const Node node = import_one("<system><cpu>" + deep, "NCCL topology XML");
  ASSERT_FALSE(node.findings.empty());
  EXPECT_EQ(node.findings.back().code, "truncated");
  const Node entity = import_one("<system><cpu numaid=\"&lol;\"/></system>", "NCCL topology XML");
  EXPECT_FALSE(entity.gpus_complete);
  ASSERT_FALSE(entity.findings.empty());
}

}  // namespace
}  // namespace dsinfer::topology
