// What must agree between the hosts of a cluster: settings, GPUs, versions, memory that NICs can reach, firmware.
#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "topology/comparison.hpp"
#include "topology/ports.hpp"

namespace dsinfer::topology {
namespace {

// Settings that may differ: they name devices of the node, or only change what is logged.
bool may_differ(const std::string& name) {
  static const std::set<std::string> names = {"NCCL_IB_HCA",    "NCCL_SOCKET_IFNAME", "NCCL_IB_GID_INDEX",
                                              "NCCL_HOSTID",    "NCCL_TOPO_FILE",     "NCCL_TOPO_DUMP_FILE",
                                              "NCCL_CONF_FILE", "NCCL_COMM_ID",       "NCCL_NET_PLUGIN"};
  return names.contains(name) || name.starts_with("NCCL_DEBUG") || !name.starts_with("NCCL_");
}

bool must_agree(const std::string& name) {
  static const std::set<std::string> names = {"NCCL_ALGO",           "NCCL_PROTO",       "NCCL_BUFFSIZE",  "NCCL_LL_BUFFSIZE",
                                              "NCCL_LL128_BUFFSIZE", "NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE"};
  return names.contains(name) || name.ends_with("NCHANNELS") || name.ends_with("CTAS");
}

}  // namespace

void compare_settings(Comparison& c) {
  std::set<std::string> names;
  for (const Node& node : c.cluster.nodes) {
    for (const Setting& setting : node.settings) {
      if (!may_differ(setting.name)) names.insert(setting.name);
    }
  }
  const auto asked = [](const Node& node) {  // its settings are known, if only to be none
    return !node.settings.empty() ||
           std::any_of(node.sources.begin(), node.sources.end(), [](const std::string& s) { return s.starts_with("live:"); });
  };
  for (const bool hard : {true, false}) {
    std::set<std::string> nodes;
    std::vector<std::string> evidence;
    for (const std::string& name : names) {
      if (must_agree(name) != hard) continue;
      Classes classes;
      for (const Node& node : c.cluster.nodes) {
        if (asked(node)) classes.add(user_setting(node, name).value_or("unset"), node.name);
      }
      if (!classes.differ()) continue;
      for (const std::string& node : classes.odd_ones()) nodes.insert(node);
      for (std::string& line : classes.evidence(name + " =", 4)) evidence.push_back(std::move(line));
    }
    if (nodes.empty()) continue;
    c.add(hard ? Severity::error : Severity::warning, "environment-differs", {nodes.begin(), nodes.end()},
          hard ? "NCCL settings that must be equal differ: wrong sizes, \"message truncated\" or a hang"
               : "NCCL settings differ between nodes",
          evidence, "set them alike on all nodes, in the launcher or in the same nccl.conf");
  }
}

namespace {

std::string gpu_model(const Node& node) {
  std::set<std::string> models;
  int most = 0;
  for (const Gpu& gpu : node.gpus) {
    const std::string memory = gpu.memory_bytes > 0 ? fmt::format(" {} GiB", (gpu.memory_bytes + (int64_t{1} << 29)) >> 30) : "";
    if (!gpu.name.empty()) models.insert(gpu.name + memory);
  }
  for (const Path& path : node.paths) most = std::max(most, path.nvlinks);
  if (models.empty() && most == 0) return "";
  const std::string nvlinks = most > 0 ? fmt::format("{}NV{}", models.empty() ? "" : ", ", most) : "";
  return fmt::format("{}{}", fmt::join(models, " + "), nvlinks);
}

std::string firmware(const Node& node, const OwnChoice& own) {
  std::set<std::string> versions;
  for (const ChosenPort& port : own.ports) {
    for (const Hca& hca : node.hcas) {
      if (name_of(hca) == port.hca && !hca.firmware.empty())
        versions.insert(hca.board_id.empty() ? hca.firmware : hca.board_id + " " + hca.firmware);
    }
  }
  return fmt::format("{}", fmt::join(versions, ", "));
}

std::string gpudirect(const Host& host) {
  if (host.peer_memory == true || host.dma_buf == true) return "peer memory or DMA-BUF";
  return host.peer_memory == false && host.dma_buf != true ? "neither peer memory nor DMA-BUF" : "";
}

}  // namespace

void compare_hosts(Comparison& c) {
  const auto& nodes = c.cluster.nodes;
  c.compare([&](size_t i) { return nodes[i].host.nccl_version.empty() ? "" : "NCCL " + nodes[i].host.nccl_version; }, Severity::error,
            "nccl-version-differs", "nodes load different versions of NCCL: it stops, or messages are truncated",
            "install one version; LD_LIBRARY_PATH decides which is loaded");
  c.compare(
      [&](size_t i) -> std::string {
        const Host& host = nodes[i].host;
        if (host.driver_version.empty() && host.cuda_driver_version.empty()) return "";
        return "driver " + (host.driver_version.empty() ? "unknown" : host.driver_version) +
               (host.cuda_driver_version.empty() ? "" : ", CUDA " + host.cuda_driver_version);
      },
      Severity::warning, "driver-version-differs", "nodes have different NVIDIA drivers: ranks may differ in what they can do",
      "one driver on all nodes");
  c.compare([&](size_t i) { return nodes[i].gpus_complete ? fmt::format("{} GPUs", nodes[i].gpus.size()) : ""; }, Severity::warning,
            "gpu-count-differs", "nodes have different numbers of GPUs: plans that need equal nodes do not fit",
            "use equal nodes, or a plan made for these");
  c.compare([&](size_t i) { return gpu_model(nodes[i]); }, Severity::warning, "gpu-model-differs",
            "nodes have different GPUs or NVLinks: the slowest sets the pace", "plan for the smallest memory");
  c.compare([&](size_t i) { return gpudirect(nodes[i].host); }, Severity::warning, "peermem-differs",
            "GPUDirect RDMA works on some nodes only: all run at the slow side's speed", "modprobe nvidia-peermem on the nodes named here");
  c.compare([&](size_t i) { return firmware(nodes[i], c.own[i]); }, Severity::info, "firmware-differs", "HCAs have different firmware",
            "update when convenient");
  std::map<std::string, std::vector<const Node*>> ids;
  for (const Node& node : nodes) {
    if (!node.host.id.empty()) ids[node.host.id].push_back(&node);
  }
  for (const auto& [id, same] : ids) {
    if (same.size() < 2) continue;
    std::vector<std::string> names;
    std::set<std::string> hosts;
    for (const Node* node : same) names.push_back(node->name), hosts.insert(node->host.name);
    const bool told_apart = hosts.size() == same.size() && !hosts.contains("");  // NCCL hashes host name and boot id together
    c.add(told_apart ? Severity::warning : Severity::error, "host-id-equal", names,
          told_apart ? "these nodes have one host id: containers of one machine, or a cloned boot id; only their host names tell them apart"
                     : "these nodes have one host id: ranks would believe that they share memory",
          {"host id " + id}, "set NCCL_HOSTID to different values on them");
  }
}

}  // namespace dsinfer::topology
