// Machines made by hand, as complete as a live one: what the forms show of them can be told in advance.
#pragma once
#include <fmt/format.h>

#include <string>

#include "dsinfer/cluster.hpp"

namespace dsinfer {

/// Eight H100 behind four NVSwitches, each with a ConnectX-7 under its own PCIe switch; two storage cards on Ethernet, one with a port down.
inline Node dgx_node(const std::string& name, int number = 1) {
  Node node;
  node.name = node.host.name = name;
  Host& host = node.host;
  host.id = "boot-" + name;
  host.os = "Ubuntu 22.04.5 LTS", host.kernel = "5.15.0-105-generic", host.arch = "x86_64", host.cpu_model = "Intel(R) Xeon(R) Platinum 8480C";
  host.packages = 2, host.cores = 112, host.logical_cpus = 224, host.memory_bytes = int64_t{2} << 40;
  host.numa = {{0, "0-55,112-167", int64_t{1} << 40}, {1, "56-111,168-223", int64_t{1} << 40}};
  host.driver_version = "550.90.07", host.cuda_driver_version = "12.4", host.nccl_version = "2.21.5", host.peer_memory = true;
  Network& network = node.network;
  network.transport = Transport::ib, network.link_layer = LinkLayer::infiniband;
  network.hcas.emplace(), network.gpu_nic_affinity.emplace();
  for (int i = 0; i < 8; ++i) {
    const int bus = 0x18 + 0x10 * i, numa = i / 4;
    const std::string root = fmt::format("pci0000:{:02x}", bus - 2), bridge = fmt::format("0000:{:02x}:00.0", bus - 1);
    Gpu& gpu = node.gpus.emplace_back();
    gpu.label = fmt::format("GPU{}", i), gpu.index = i, gpu.bus_id = fmt::format("0000:{:02x}:00.0", bus + 1);
    gpu.name = "NVIDIA H100 80GB HBM3", gpu.uuid = fmt::format("GPU-{}-{}", name, i), gpu.memory_bytes = int64_t{80} << 30;
    gpu.compute_major = 9, gpu.numa = numa, gpu.pcie_gb_per_s = 63, gpu.fabric_state = "completed";
    gpu.nvlinks = {{NvLink::Remote::nvswitch, "", 18, 450}};
    Hca& hca = node.hcas.emplace_back();
    hca.name = fmt::format("mlx5_{}", i), hca.bus_id = fmt::format("0000:{:02x}:00.0", bus), hca.node_type = Hca::NodeType::ca, hca.vendor_id = 0x02c9;
    hca.part_id = 4129, hca.numa = numa, hca.port_count = 1, hca.node_guid = fmt::format("{}:{:04x}", name, i);
    HcaPort& port = hca.ports.emplace_back();
    port.state = PortState::active, port.phys_state = "LinkUp", port.link_layer = LinkLayer::infiniband, port.rate_gbps = 400, port.lid = 10 * number + i;
    port.netdevs = {fmt::format("ibp{}s0", bus)};
    node.pci.push_back({bridge, 0x060400, 0x1000, 0xc030, "PCIe switch", "", root, numa, 63, "", {}});
    node.pci.push_back({hca.bus_id, 0x020700, 0x15b3, 0x1021, "", bridge, root, numa, 63, "", {}});
    node.pci.push_back({gpu.bus_id, 0x030200, 0x10de, 0x2330, "", bridge, root, numa, 63, "", {}});
    network.hcas->push_back(hca.name), network.hcas_seen.push_back(hca.name);
    network.ports.push_back({hca.name, 1, i, 400, port.netdevs[0], "", {}});
    (*network.gpu_nic_affinity)[gpu.label] = {hca.name};
    node.paths.push_back({gpu.label, hca.name, PathKind::pix, 0});
    node.links.push_back({gpu.label, "nvswitch", "nvlink", 450, true});
    node.links.push_back({gpu.label, hca.name, "pcie", 63, true});
    node.links.push_back({hca.name, "network", "ib", 50, true});
  }
  for (int i = 0; i < 2; ++i) {
    Hca& hca = node.hcas.emplace_back();
    hca.name = fmt::format("mlx5_{}", 8 + i), hca.bus_id = fmt::format("0000:{:02x}:00.0", 0xa0 + i), hca.node_type = Hca::NodeType::ca, hca.vendor_id = 0x02c9;
    hca.numa = i, hca.port_count = 1;
    HcaPort& port = hca.ports.emplace_back();
    port.state = i ? PortState::down : PortState::active, port.phys_state = i ? "Disabled" : "LinkUp", port.link_layer = LinkLayer::ethernet;
    port.rate_gbps = i ? 40 : 100, port.netdevs = {fmt::format("ens{}f0np0", i + 1)};
    network.hcas_seen.push_back(hca.name), network.hcas_excluded.push_back(hca.name);
    node.pci.push_back({hca.bus_id, 0x020000, 0x15b3, 0x101d, "", "", fmt::format("pci0000:{:02x}", 0xa0 + i), i, 31.5, "", {}});
  }
  network.ports_down = {{"mlx5_9", "Disabled"}};
  Interface lo, eth0;
  lo.name = "lo", lo.kind = "loopback", lo.up = true, lo.mtu = 65536, lo.addresses = {{"127.0.0.1", 8}};
  eth0.name = "eth0", eth0.kind = "physical", eth0.type = "ethernet", eth0.up = true, eth0.mtu = 1500, eth0.speed_mbps = 25000;
  eth0.bus_id = "0000:b1:00.0", eth0.mac = fmt::format("02:00:00:00:00:{:02x}", number), eth0.addresses = {{fmt::format("10.0.0.{}", number), 24}};
  eth0.default_route = true;
  node.interfaces = {lo, eth0};
  node.gpus_complete = node.hcas_complete = node.interfaces_complete = node.pci_complete = true;
  node.nvlink = true;
  node.sources = {"live: nvml", "live: verbs", "live: sysfs", "live: netlink"};
  network.hca_count = 8, network.socket_ifname = "eth0", network.gdr_by_default = true, network.gb_per_s_per_gpu = 48.5, network.judged = false;
  network.environment = {{"NCCL_IB_DISABLE", "0", "eight InfiniBand ports are active", false},
                         {"NCCL_IB_HCA", "=mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_3:1,mlx5_4:1,mlx5_5:1,mlx5_6:1,mlx5_7:1", "the chosen ports, exact, in PCI order", false},
                         {"NCCL_SOCKET_IFNAME", "=eth0", "carries the default route", false},
                         {"GLOO_SOCKET_IFNAME", "eth0", "exact names for Gloo", false},
                         {"NCCL_IB_TIMEOUT", "22", "/etc/nccl.conf", true}};
  network.reasons = {{"mlx5_9:1", "port-down", "DOWN/Disabled (live: verbs)", true},
                     {"mlx5_8:1", "mixed-link-layer", "Ethernet beside eight InfiniBand ports", true},
                     {"lo", "loopback", "reaches this host alone", true},
                     {"eth0", "default-route", "carries the default route", false}};
  return node;
}

/// A workstation: one GPU, no verbs device.
inline Node workstation(const std::string& name) {
  Node node;
  node.name = node.host.name = name;
  node.host.cpu_model = "AMD Ryzen 9 5950X 16-Core Processor", node.host.packages = 1, node.host.cores = 16, node.host.logical_cpus = 32;
  Gpu& gpu = node.gpus.emplace_back();
  gpu.label = "GPU0", gpu.index = 0, gpu.bus_id = "0000:0a:00.0", gpu.name = "NVIDIA GeForce RTX 4090", gpu.memory_bytes = int64_t{24} << 30;
  Interface eth;
  eth.name = "enp67s0", eth.kind = "physical", eth.up = true, eth.mtu = 1500, eth.addresses = {{"192.168.1.7", 24}, {"fe80::1", 64}}, eth.default_route = true;
  node.interfaces = {eth};
  node.gpus_complete = node.hcas_complete = node.interfaces_complete = true;
  node.nvlink = false;
  node.network.transport = Transport::socket, node.network.socket_ifname = "enp67s0", node.network.fallback_reason = "no-rdma-device", node.network.hcas.emplace();
  return node;
}

}  // namespace dsinfer
