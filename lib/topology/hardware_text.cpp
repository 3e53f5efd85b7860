#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "topology/distance.hpp"
#include "topology/node_text.hpp"
#include "topology/wording.hpp"

namespace dsinfer::topology {
namespace {

// Joins what is known with " · ".
std::string joined(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) {
    if (!part.empty()) out += (out.empty() ? "" : " · ") + part;
  }
  return out;
}

std::string plain(std::string_view text) { return styled(text, Style::plain); }
std::string dim(std::string_view text) { return styled(text, Style::dim); }
std::string numa_text(int numa) { return numa < 0 ? "" : fmt::format("NUMA {}", numa); }

// ---- host ----

std::string cpu_text(const Host& host) {
  std::vector<std::string> parts;
  if (!host.cpu_model.empty()) parts.push_back((host.packages > 1 ? fmt::format("{} × ", host.packages) : "") + plain(host.cpu_model));
  if (host.cpu_model.empty() && host.packages > 0) parts.push_back(count_text(static_cast<size_t>(host.packages), "package", "packages"));
  if (host.cores > 0) parts.push_back(count_text(static_cast<size_t>(host.cores), "core", "cores"));
  if (host.logical_cpus > 0) parts.push_back(count_text(static_cast<size_t>(host.logical_cpus), "thread", "threads"));
  if (host.memory_bytes > 0) parts.push_back(bytes_text(host.memory_bytes) + " memory");
  if (host.cgroup_cpus > 0) parts.push_back(styled(fmt::format("control group grants {} CPUs", number_text(host.cgroup_cpus)), Style::warning));
  if (host.cgroup_memory_bytes > 0) parts.push_back(styled("control group grants " + bytes_text(host.cgroup_memory_bytes), Style::warning));
  return parts.empty() ? dim("unknown") : joined(parts);
}

void write_host(Page& page, const Node& node) {
  const Host& host = node.host;
  std::vector<std::string> about = {plain(host.os), host.kernel.empty() ? "" : "Linux " + plain(host.kernel), plain(host.arch)};
  if (host.virtual_machine == true) about.push_back("virtual machine");
  if (host.container == true) about.push_back("container");
  if (!host.name.empty() && host.name != node.name) about.insert(about.begin(), "host " + plain(host.name));
  page.heading(styled(node.name.empty() ? "(no name)" : clipped(node.name, 60), Style::strong) + "  " + joined(about));
  page.section("CPU", cpu_text(host));
  if (host.numa.size() < 2) return;
  std::vector<std::vector<std::string>> rows;
  for (const NumaNode& numa : host.numa) {
    rows.push_back({numa_text(numa.id), numa.memory_bytes > 0 ? bytes_text(numa.memory_bytes) : "", numa.cpus.empty() ? "" : "CPUs " + plain(numa.cpus)});
  }
  page.table(rows);
}

// ---- GPUs ----

// All links that lead to switches together, likewise to the CPU, to other GPUs.
std::string nvlink_text(const Gpu& gpu) {
  struct Sum {
    int links = 0;
    double gb_per_s = 0;
    size_t peers = 0;
  };
  std::map<NvLink::Remote, Sum> sums;
  for (const NvLink& link : gpu.nvlinks) {
    Sum& sum = sums[link.remote];
    sum.links += link.count, sum.gb_per_s += link.gb_per_s, ++sum.peers;
  }
  std::vector<std::string> parts;
  for (const auto& [remote, sum] : sums) {
    std::string to;
    if (remote == NvLink::Remote::nvswitch) to = " to NVSwitch";
    if (remote == NvLink::Remote::cpu) to = " to the CPU";
    if (remote == NvLink::Remote::gpu) to = " to " + count_text(sum.peers, "GPU", "GPUs");
    parts.push_back(fmt::format("NVLink ×{}{}{}", sum.links, to, sum.gb_per_s > 0 ? fmt::format(" ({} GB/s)", number_text(sum.gb_per_s)) : ""));
  }
  return joined(parts);
}

std::string gpu_kind(const Gpu& gpu) {
  const std::string memory = gpu.memory_bytes > 0 ? fmt::format(", {}", bytes_text(gpu.memory_bytes)) : "";
  const std::string compute = gpu.compute_major > 0 ? fmt::format(", compute capability {}.{}", gpu.compute_major, gpu.compute_minor) : "";
  return (gpu.name.empty() ? "GPU of unknown model" + compute : plain(gpu.name)) + memory;
}

// "8 × NVIDIA H100 80GB HBM3, 80 GiB"; several kinds with "+".
std::string gpu_kinds(const Node& node) {
  std::vector<std::pair<std::string, int>> kinds;
  for (const Gpu& gpu : node.gpus) {
    const std::string kind = gpu_kind(gpu);
    const auto same = std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.first == kind; });
    if (same == kinds.end()) kinds.emplace_back(kind, 1); else ++same->second;
  }
  std::string out;
  for (const auto& [kind, count] : kinds) out += (out.empty() ? "" : " + ") + fmt::format("{} × {}", count, kind);
  return out;
}

std::string nvlink_of_node(const Node& node) {
  if (node.nvlink == true) return styled("NVLink", Style::good);
  return node.nvlink == false ? "no NVLink" : dim("NVLink unknown");
}

std::string nearest_nics(const Node& node, const Distances& distances, const Gpu& gpu) {
  if (!node.network.gpu_nic_affinity) return "";
  const auto near = node.network.gpu_nic_affinity->find(gpu.label);
  if (near == node.network.gpu_nic_affinity->end()) return "";
  if (near->second.empty()) return styled("no NIC on its socket", Style::warning);
  std::string kind;  // where all of them are equally far
  for (const std::string& nic : near->second) {
    const std::string this_kind(word(distances.between(gpu.label, nic)));
    if (kind.empty()) kind = this_kind;
    if (kind != this_kind) kind = "?";
  }
  return "→ " + plain(list_text(near->second, 4)) + (kind.empty() || kind == "?" ? "" : dim(" " + kind));
}

void write_gpus(Page& page, const Node& node) {
  const Host& host = node.host;
  if (node.gpus.empty()) return page.section("GPUs", node.gpus_complete ? "none" : dim("unknown: no source lists them"));
  std::vector<std::string> about = {gpu_kinds(node), nvlink_of_node(node)};
  if (!host.driver_version.empty()) about.push_back("driver " + plain(host.driver_version));
  if (!host.cuda_driver_version.empty()) about.push_back("CUDA " + plain(host.cuda_driver_version));
  page.section("GPUs", joined(about));
  const Distances distances(node);
  std::vector<std::vector<std::string>> rows;
  for (const Gpu& gpu : node.gpus) {
    std::vector<std::string> notes = {nvlink_text(gpu), gpu.mig == true ? styled("MIG", Style::warning) : ""};
    if (!gpu.fabric_state.empty() && gpu.fabric_state != "completed") notes.push_back(styled("fabric " + gpu.fabric_state, Style::bad));
    rows.push_back({plain(gpu.label), gpu.bus_id == gpu.label ? "" : dim(gpu.bus_id), numa_text(gpu.numa), joined(notes), nearest_nics(node, distances, gpu)});
  }
  page.table(rows);
}

// ---- HCAs ----

std::string state_text(const Hca& hca, const HcaPort* port) {
  if (hca.sysfs_missing) return styled("gone from sysfs", Style::bad);
  if (hca.openable == false) return styled("cannot be opened", Style::bad);
  if (!port) return dim(hca.port_count == 0 ? "no ports" : "ports unknown");
  if (port->state == PortState::unknown) return dim("state unknown");
  const std::string state(word(port->state));
  if (port->state == PortState::active) return styled(state, Style::good);
  return styled(state + (port->phys_state.empty() ? "" : "/" + port->phys_state), Style::bad);
}

std::string rate_text(const Hca& hca, const HcaPort* port) {
  if (!port || port->state == PortState::down) return "";
  if (port->rate_gbps > 0) return number_text(port->rate_gbps) + " Gb/s";
  return hca.named_only ? dim("named by the user alone") : "";
}

std::vector<std::string> port_row(const Node& node, const Hca& hca, const HcaPort* port) {
  const int number = port ? port->number : 1;
  const std::string name = hca.name.empty() ? hca.bus_id : hca.name;
  const Reason* dropped = drop_reason(node.network, name, number);
  const bool chosen = is_chosen(node.network, hca, number);
  const std::string title = name + (port ? fmt::format(":{}", number) : "");
  const std::string mark = chosen ? styled("●", Style::good) : dropped ? dim("○") : " ";
  std::string where = hca.name.empty() || hca.bus_id.empty() ? "" : dim(hca.bus_id) + "  ";
  where += numa_text(hca.numa);
  return {mark + " " + (dropped ? dim(title) : plain(title)), state_text(hca, port), rate_text(hca, port), port ? std::string(word(port->link_layer)) : "",
          port ? plain(list_text(port->netdevs, 2)) : "", dropped ? styled(dropped->code, Style::warning) : where};
}

void write_hcas(Page& page, const Node& node) {
  if (node.hcas.empty()) {
    return page.section("HCAs", node.hcas_complete || node.rdma_absent ? "none" : dim("unknown: no source would show them"));
  }
  size_t ports = 0;
  for (const Hca& hca : node.hcas) ports += std::max<size_t>(1, hca.ports.size());
  page.section("HCAs", count_text(node.hcas.size(), "device", "devices") + (ports == node.hcas.size() ? "" : fmt::format(", {} ports", ports)) +
                           dim("   ● used  ○ not"));
  constexpr size_t kMostAlike = 8;  // of 64 virtual functions that went for one reason some say enough
  std::map<std::string, size_t> dropped;
  std::vector<std::vector<std::string>> rows;
  for (const Hca& hca : node.hcas) {
    for (size_t i = 0; i < std::max<size_t>(1, hca.ports.size()); ++i) {
      const HcaPort* port = i < hca.ports.size() ? &hca.ports[i] : nullptr;
      const Reason* reason = drop_reason(node.network, hca.name.empty() ? hca.bus_id : hca.name, port ? port->number : 1);
      if (!reason || ++dropped[reason->code] <= kMostAlike) rows.push_back(port_row(node, hca, port));
    }
  }
  page.table(rows);
  for (const auto& [why, count] : dropped) {
    if (count > kMostAlike) page.row(dim(fmt::format("  … and {} more, ", count - kMostAlike)) + styled(why, Style::warning));
  }
}

// ---- interfaces ----

std::vector<std::string> interface_row(const Node& node, const Interface& interface) {
  std::vector<std::string> addresses, notes;
  for (const Address& address : interface.addresses) {
    addresses.push_back(address.prefix_len < 0 ? address.ip : fmt::format("{}/{}", address.ip, address.prefix_len));
  }
  if (interface.default_route) notes.push_back("default route");
  if (interface.bootstrap) notes.push_back("bootstrap in a log");
  if (interface.out_of_band) notes.push_back("out of band");
  if (!interface.master.empty()) notes.push_back("member of " + plain(interface.master));
  if (!interface.lower.empty()) notes.push_back("over " + plain(list_text(interface.lower, 4)));
  const bool chosen = interface.name == node.network.socket_ifname && !interface.name.empty();
  const std::string up = interface.up == true ? styled("up", Style::good) : interface.up == false ? styled("down", Style::bad) : dim("?");
  const std::string speed = interface.speed_mbps > 0 ? number_text(static_cast<double>(interface.speed_mbps) / 1000) + " Gb/s" : "";
  return {(chosen ? styled("●", Style::good) : " ") + " " + plain(interface.name), up, plain(interface.kind), speed,
          interface.mtu > 0 ? fmt::format("MTU {}", interface.mtu) : "", plain(list_text(addresses, 3)), dim(joined(notes))};
}

void write_interfaces(Page& page, const Node& node) {
  if (node.interfaces.empty()) return page.section("Interfaces", node.interfaces_complete ? "none" : dim("unknown: no source lists them"));
  constexpr size_t kMost = 16;  // a Kubernetes host has hundreds of veths; those that matter stand in front or are chosen
  std::vector<std::vector<std::string>> rows;
  size_t left_out = 0;
  for (const Interface& interface : node.interfaces) {
    if (interface.kind == "loopback") continue;
    const bool matters = interface.name == node.network.socket_ifname || interface.default_route || interface.kind == "physical" || interface.kind == "bond";
    if (rows.size() < kMost || (matters && rows.size() < 4 * kMost)) {
      rows.push_back(interface_row(node, interface));
    } else {
      ++left_out;
    }
  }
  page.section("Interfaces", rows.empty() ? "loopback alone" : "");
  page.table(rows);
  if (left_out) page.row(dim(fmt::format("  … and {} more", left_out)));
}

}  // namespace

void write_hardware(Page& page, const Node& node) {
  write_host(page, node);
  write_gpus(page, node);
  write_hcas(page, node);
  write_interfaces(page, node);
}

}  // namespace dsinfer::topology
