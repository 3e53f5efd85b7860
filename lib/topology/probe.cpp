#include <algorithm>
#include <charconv>

#include "core/outcome.hpp"
#include "topology/importers.hpp"
#include "topology/join.hpp"
#include "topology/probes.hpp"

namespace dsinfer {
namespace {

using namespace topology;

// "6.8.0-45-generic" → {6, 8}
std::pair<int, int> version_of(std::string_view text) {
  std::pair<int, int> version{0, 0};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version.first);
  if (error == std::errc() && end < text.data() + text.size() && *end == '.') std::from_chars(end + 1, text.data() + text.size(), version.second);
  return version;
}

// GPUDirect by DMA-BUF wants a kernel from 5.12, a CUDA driver from 11.7 and the open kernel modules.
void judge_dma_buf(const Tree& machine, Host& host) {
  const auto module = machine.read("proc/driver/nvidia/version");
  if (!module || host.dma_buf) return;
  const auto kernel = version_of(host.kernel), cuda = version_of(host.cuda_driver_version);
  if (kernel.first == 0 || cuda.first == 0) return;
  host.dma_buf = kernel >= std::pair{5, 12} && cuda >= std::pair{11, 7} && module->find("Open Kernel Module") != module->npos;
}

// What libibverbs and sysfs say of the same devices: one that libibverbs leaves out cannot be used. Where it leaves out all, the choice tells
// missing device files from a missing provider library.
void compare_hcas(const Node& verbs, Node& node) {
  const auto listed = [&](const std::string& name) {
    return std::any_of(verbs.hcas.begin(), verbs.hcas.end(), [&](const Hca& hca) { return hca.name == name; });
  };
  const bool refused = std::any_of(node.findings.begin(), node.findings.end(), [](const Finding& f) { return f.code == "uverbs-refused"; });
  if (verbs.hcas.empty() && !refused) {
    node.rdma_absent = !node.hcas.empty();
    return;
  }
  std::vector<std::string> missing;
  for (Hca& hca : node.hcas) {
    if (hca.name.empty() || listed(hca.name)) continue;
    hca.openable = false;
    missing.push_back(hca.name + " (sysfs)");
  }
  if (missing.empty() || refused) return;
  node.findings.push_back({"device-not-openable", Severity::warning, {}, "libibverbs leaves out HCAs that the kernel has", std::move(missing),
                           "pass their /dev/infiniband/uverbs files into the container; see that their provider library is installed"});
}

// NCCL opens HCAs through libibverbs alone: without it they are there and of no use, and it falls to sockets without a word.
void note_missing_verbs([[maybe_unused]] const ProbeOptions& options, [[maybe_unused]] Node& node) {
#ifdef DSINFER_VERBS  // a build without the header cannot tell
  if (node.hcas.empty()) return;
  node.rdma_absent = true;
  node.findings.push_back({"verbs-library-missing", Severity::warning, {}, "the kernel has HCAs, but " + options.verbs_library + " cannot be used",
                           {node.hcas.front().name + " (sysfs)"}, "install libibverbs1 and ibverbs-providers (in the container too)"});
#endif
}

// GPUs that the kernel's driver has, without the library that speaks for them.
void compare_gpus(const Tree& machine, const Node& nvml, Node& node) {
  if (!nvml.sources.empty() || !nvml.findings.empty() || !machine.exists("proc/driver/nvidia/version")) return;
  node.findings.push_back({"nvml-missing", Severity::warning, {}, "the NVIDIA driver is loaded but its library NVML is not to be found",
                           {"/proc/driver/nvidia/version"}, "in a container ask for the driver's tools: NVIDIA_DRIVER_CAPABILITIES=compute,utility; else install the driver's libraries"});
}

}  // namespace

void topology::keep_given_gpus(const Node& nvml, Node& tree) {
  if (!nvml.gpus_complete || nvml.gpus.empty()) return;
  const auto hidden = [&](const Gpu& gpu) {
    return std::none_of(nvml.gpus.begin(), nvml.gpus.end(), [&](const Gpu& given) { return given.bus_id == gpu.bus_id; });
  };
  std::vector<std::string> evidence;
  for (const Gpu& gpu : tree.gpus) {
    if (hidden(gpu)) evidence.push_back(gpu.bus_id + " (sysfs)");
  }
  if (evidence.empty()) return;
  std::erase_if(tree.gpus, hidden);
  tree.gpus_complete = false;
  tree.findings.push_back({"gpus-not-given", Severity::info, {}, "the machine has GPUs that this container or virtual machine was not given", std::move(evidence),
                           "nothing, if that is meant; else start the container with all GPUs"});
}

Node probe_node(const ProbeOptions& options) {
  const auto machine = folder_tree(options.root);
  Node tree = read_sysfs(*machine, options.root);
  Cluster cluster;
  if (options.root != "/") {
    cluster.nodes.push_back(join({probe_process(options), std::move(tree)}, ""));
  } else {
    if (tree.host.name.empty()) tree.host.name = clean_text(host_name());
    tree.sources = {"live: sysfs"};
    const Node nvml = probe_nvml(options.nvml_library), verbs = probe_verbs(options.verbs_library);
    keep_given_gpus(nvml, tree);
    // The kernel's order of interfaces and the driver's numbers of GPUs come first, then what this process may do.
    std::vector<Node> parts;
    if (options.netlink) parts.push_back(probe_netlink());
    parts.push_back(nvml);
    parts.push_back(probe_process(options));
    parts.push_back(std::move(tree));
    parts.push_back(verbs);
    Node node = join(std::move(parts), "");
    if (!verbs.sources.empty()) compare_hcas(verbs, node);
    else if (!options.verbs_library.empty()) note_missing_verbs(options, node);
    compare_gpus(*machine, nvml, node);
    judge_dma_buf(*machine, node.host);
    cluster.nodes.push_back(std::move(node));
  }
  Node& node = cluster.nodes.front();
  if (node.host.name.empty()) node.host.name = clean_text(host_name());
  node.name = node.host.name;
  for (Finding& finding : node.findings) {
    if (finding.nodes.empty()) finding.nodes.push_back(node.name);
  }
  choose_network(cluster);
  return std::move(cluster.nodes.front());
}

}  // namespace dsinfer
