// What is worth knowing about one node.
#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "topology/checks.hpp"
#include "topology/ports.hpp"

namespace dsinfer::topology {
namespace {

/// Collects findings about one node.
class Report {
 public:
  explicit Report(const Node& node) : node_(node) {}
  void add(Severity severity, std::string code, std::string text, std::vector<std::string> evidence, std::string advice) {
    out_.push_back({std::move(code), severity, {node_.name}, std::move(text), std::move(evidence), std::move(advice)});
  }
  std::vector<Finding> take() { return std::move(out_); }

 private:
  const Node& node_;
  std::vector<Finding> out_;
};

bool uses_rdma(const Node& node) { return node.network.transport == Transport::ib || node.network.transport == Transport::roce; }

std::string advice_for(const std::string& fallback) {
  static const std::map<std::string, std::string> advice = {
      {"all-ports-down", "check cables, switch ports and the subnet manager; `ibstat` shows each port"},
      {"no-usable-gid",
       "give the RoCE netdevs an IPv4 address (in a pod: attach the RDMA network); an IPv6-only fabric needs NCCL_IB_ADDR_FAMILY=AF_INET6"},
      {"rdma-device-not-openable", "pass /dev/infiniband into the container (docker --device /dev/infiniband, or an RDMA device plug-in)"},
      {"provider-library-missing", "install the verbs provider of the NIC (libmlx5, libefa …: package ibverbs-providers) in the image"},
      {"efa-needs-plugin", "install libfabric and aws-ofi-nccl"},
      {"software-rdma-device", "software RDMA is slower than sockets; nothing to do"},
      {"verbs-device-without-rc", "these devices cannot serve NCCL; nothing to do"},
      {"no-rdma-device", "nothing to do on a machine without RDMA; else check drivers and `ls /sys/class/infiniband`"},
      {"disabled-by-user", "unset NCCL_IB_DISABLE, NCCL_NET or correct NCCL_IB_HCA to use RDMA"}};
  const auto it = advice.find(fallback);
  return it == advice.end() ? "" : it->second;
}

void check_transport(const Node& node, Report& report) {
  const Network& network = node.network;
  const bool by_plugin = plugin_found(node);
  if (network.transport == Transport::socket && network.fallback_reason != "peers-cannot" && !by_plugin) {
    std::string detail;
    for (const Reason& reason : network.reasons) {
      if (reason.subject == "transport") detail = reason.text;
    }
    const bool plain = network.fallback_reason == "no-rdma-device" || network.fallback_reason == "disabled-by-user";
    report.add(plain ? Severity::info : Severity::warning, "socket-fallback",
               fmt::format("transport=socket reason={}: traffic between nodes goes over TCP", network.fallback_reason),
               detail.empty() ? std::vector<std::string>() : std::vector<std::string>{detail},
               advice_for(network.fallback_reason));
  }
  if (!network.plugin_fabric.empty()) {
    const bool efa = network.plugin_fabric == "efa";
    const std::string seen = network.efa_count ? fmt::format("{} EFA devices", *network.efa_count) : efa ? "by libfabric's provider" : "by its interfaces, settings or plug-in";
    report.add(by_plugin ? Severity::info : Severity::warning, "plugin-fabric",
               fmt::format("a faster fabric is here ({}), which NCCL reaches only through a network plug-in", network.plugin_fabric),
               {seen, node.host.net_plugin.empty() ? "no libnccl-net.so found" : "plug-in " + node.host.net_plugin},
               by_plugin ? "nothing: its plug-in is there, and sets what NCCL needs"
               : efa ? "install libfabric and aws-ofi-nccl; sockets otherwise"
                   : "install the provider's plug-in and source its script; sockets otherwise");
  }
  for (const Reason& reason : network.reasons) {
    if (reason.code == "slow-class-serves-gpus")
      report.add(Severity::warning, reason.code, reason.text, {}, "name the ports in NCCL_IB_HCA if the slower ones are meant");
  }
  if (!network.judged) return;
  std::vector<std::string> evidence;
  for (const Reason& reason : network.reasons) {
    if (reason.code == "slow-class" || reason.code == "management-nic") evidence.push_back(reason.subject + ": " + reason.text);
  }
  report.add(Severity::info, "choice-judged", "rules of thumb took part in the choice (a rate, a place, a name)", evidence,
             "set NCCL_IB_HCA to decide otherwise");
}

void check_gpudirect(const Node& node, Report& report) {
  if (!uses_rdma(node) || node.gpus.empty()) return;
  if (node.network.gdr_by_default == false) {
    report.add(Severity::warning, "gdr-off-by-distance",
               "no GPU has a chosen NIC near enough for GPUDirect RDMA; data goes through host memory", {},
               "move the NIC to the GPUs' PCIe switch or socket; do not force NCCL_NET_GDR_LEVEL=SYS");
  }
  if (node.host.peer_memory == false && node.host.dma_buf == false) {
    report.add(Severity::warning, "gdr-off-no-peermem",
               "neither nvidia-peermem nor DMA-BUF: GPUDirect RDMA is off, several times slower for large messages",
               {"no peer memory module", "no DMA-BUF"}, "modprobe nvidia-peermem, or use the open kernel modules on Linux 5.12 or later");
  }
}

void check_addresses(const Node& node, Report& report) {
  std::vector<std::string> local;
  std::map<std::string, std::vector<std::string>> by_subnet;
  for (const ChosenPort& port : node.network.ports) {
    const auto hca = std::find_if(node.hcas.begin(), node.hcas.end(), [&](const Hca& h) { return name_of(h) == port.hca; });
    const Interface* netdev = find_interface(node, port.netdev);
    if (node.network.transport != Transport::roce) continue;
    if (hca != node.hcas.end()) {
      for (const HcaPort& p : hca->ports) {
        const auto gid = p.number == port.port ? choose_gid(node, p) : std::nullopt;
        if (gid && gid->link_local_ipv4)
          local.push_back(fmt::format("{}:{} GID {}", port.hca, port.port, gid->index));
        else if (!gid && netdev) {
          for (const Address& a : netdev->addresses) {
            if (a.ip.starts_with("169.254.")) local.push_back(fmt::format("{}:{} {}", port.hca, port.port, a.ip));
          }
        }
      }
    }
    const bool point_to_point =
        port.subnet.ends_with("/31") || port.subnet.ends_with("/32") || port.subnet.ends_with("/127") || port.subnet.ends_with("/128");
    if (!port.subnet.empty() && !point_to_point) by_subnet[port.subnet].push_back(port.hca);
  }
  if (!local.empty()) {
    report.add(Severity::warning, "roce-address-link-local",
               "RoCE ports with IPv4 link-local addresses: they reach only what is on the same cable or switch", local,
               "normal for directly cabled machines; else give the ports routable addresses");
  }
  std::vector<std::string> shared;
  for (const auto& [subnet, hcas] : by_subnet) {
    if (hcas.size() > 1) shared.push_back(fmt::format("{}: {}", subnet, fmt::join(hcas, ", ")));
  }
  if (!shared.empty()) {
    report.add(Severity::warning, "hcas-share-subnet", "several HCAs have addresses in one subnet: all traffic may leave by one of them",
               shared, "one subnet for each rail; or arp_ignore=1, arp_announce=2, rp_filter and source routing");
  }
}

void check_limits(const Node& node, Report& report) {
  const Host& host = node.host;
  const bool verbs = uses_rdma(node);
  if (verbs && host.memlock_bytes && *host.memlock_bytes >= 0) {
    report.add(Severity::warning, "memlock-finite",
               "the limit of locked memory is finite: registering buffers may fail with \"Cannot allocate memory\"",
               {fmt::format("RLIMIT_MEMLOCK {} bytes", *host.memlock_bytes)},
               "ulimit -l unlimited; docker --ulimit memlock=-1; Kubernetes: capability IPC_LOCK");
  }
  if (host.uverbs && host.uverbs->empty() && !node.hcas.empty()) {
    report.add(Severity::error, "no-uverbs", "the kernel has HCAs, but /dev/infiniband has no uverbs device",
               {fmt::format("{} HCAs", node.hcas.size())}, advice_for("rdma-device-not-openable"));
  }
  if (verbs && host.rdma_cm == false) {
    report.add(Severity::info, "no-rdma-cm", "/dev/infiniband/rdma_cm is absent: enough for NCCL, not for UCX's rdmacm or NVSHMEM", {},
               "pass /dev/infiniband/rdma_cm as well if they are used");
  }
  constexpr int64_t kSmall = int64_t{256} << 20;  // docker's default is 64 MiB; NCCL takes some MiB for each pair of ranks
  if (host.shm_bytes > 0 && host.shm_bytes < kSmall && (node.gpus.size() > 1 || host.container == true)) {
    report.add(Severity::warning, "shm-small", "/dev/shm is small: NCCL's shared memory segments may not fit",
               {fmt::format("{} MiB", host.shm_bytes >> 20)},
               "docker --shm-size=8g or --ipc=host; Kubernetes: an emptyDir of medium Memory");
  }
}

void check_gpus(const Node& node, Report& report) {
  if (node.gpus.empty()) return;
  bool switched = false;
  std::vector<std::string> states;
  for (const Gpu& gpu : node.gpus) {
    switched = switched ||
               std::any_of(gpu.nvlinks.begin(), gpu.nvlinks.end(), [](const NvLink& l) { return l.remote == NvLink::Remote::nvswitch; });
    if (gpu.fabric_state == "not-started" || gpu.fabric_state.starts_with("failed")) states.push_back(gpu.label + ": " + gpu.fabric_state);
  }
  switched = switched || std::any_of(node.pci.begin(), node.pci.end(),
                                     [](const PciDevice& d) { return d.class_code >> 8 == 0x0680 && d.vendor == 0x10de; });
  if (!states.empty() || (switched && node.host.fabric_manager == false && node.host.virtual_machine != true)) {
    if (states.empty()) states.push_back("nvidia-fabricmanager does not run");
    report.add(Severity::error, "fabric-manager-off", "an NVSwitch machine whose NVLink fabric is not up: CUDA fails with error 802",
               states, "systemctl start nvidia-fabricmanager, of the driver's version");
  }
  if (node.host.virtual_machine == true) return;  // ACS and an IOMMU on the host side are normal for virtual machines
  std::vector<std::string> redirecting;
  std::map<std::string, const PciDevice*> devices;
  for (const PciDevice& device : node.pci) devices.emplace(device.bus_id, &device);
  std::set<std::string> seen;
  for (const PciDevice& device : node.pci) {
    if (!is_gpu_class(device.class_code, device.vendor) && !is_nic_class(device.class_code)) continue;
    std::string at = device.parent;
    for (int level = 0; level < 32 && !at.empty() && seen.insert(at).second; ++level) {
      const auto it = devices.find(at);
      if (it == devices.end()) break;
      if (it->second->acs_redirect == true) redirecting.push_back(at);
      at = it->second->parent;
    }
  }
  if (!redirecting.empty()) {
    report.add(Severity::warning, "acs-redirect", "bridges above GPUs or NICs send peer-to-peer traffic through the root complex (ACS)",
               redirecting, "switch ACS redirection off (setpci, or in the BIOS) for peer-to-peer between GPUs and NICs");
  }
  if (node.host.iommu == "translated") {
    report.add(Severity::warning, "iommu-translated", "the IOMMU translates DMA: peer-to-peer between GPUs and NICs is slower or hangs",
               {"iommu groups of type DMA"}, "boot with iommu=pt");
  }
}

void check_socket(const Node& node, Report& report) {
  const Interface* interface = find_interface(node, node.network.socket_ifname);
  if (!interface) return;
  const auto& addresses = interface->addresses;
  const bool loop =
      std::any_of(addresses.begin(), addresses.end(), [](const Address& a) { return a.ip.starts_with("127.") || a.ip == "::1"; });
  if (loop) {
    report.add(Severity::error, "socket-loopback", "the socket interface is the loopback: no other node can reach it", {interface->name},
               "set NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME, or give the node an address");
  } else if (!addresses.empty() && std::all_of(addresses.begin(), addresses.end(), [](const Address& a) { return link_local(a.ip); })) {
    report.add(Severity::warning, "socket-link-local", fmt::format("{} has only link-local addresses", interface->name),
               {interface->name + " " + addresses.front().ip}, "give it an address in the cluster's subnet");
  }
}

}  // namespace

std::vector<Finding> check_node(const Node& node) {
  Report report(node);
  check_transport(node, report);
  check_gpudirect(node, report);
  check_addresses(node, report);
  check_limits(node, report);
  check_gpus(node, report);
  check_socket(node, report);
  std::vector<Finding> out = report.take();
  for (Finding& finding : check_user_settings(node)) out.push_back(std::move(finding));
  return out;
}

}  // namespace dsinfer::topology
