/// C functions of Cluster.
#include <algorithm>

#include "handles.hpp"

using namespace dsinfer;
using namespace dsinfer::capi;

namespace {

// A finding's lists as the C interface shows them; they point into the cluster beside which they are kept.
struct FindingView {
  std::vector<dsinfer_text> nodes, evidence;
};

std::vector<FindingView> views_of(const std::vector<Finding>& findings) {
  std::vector<FindingView> views;
  for (const Finding& finding : findings) {
    FindingView& view = views.emplace_back();
    for (const std::string& node : finding.nodes) view.nodes.push_back(borrow(node));
    for (const std::string& line : finding.evidence) view.evidence.push_back(borrow(line));
  }
  return views;
}

}  // namespace

struct dsinfer_cluster {
  explicit dsinfer_cluster(Cluster made) : cluster(std::move(made)), between(views_of(cluster.findings)) {
    for (const Node& node : cluster.nodes) of_nodes.push_back(views_of(node.findings));
  }
  const Cluster cluster;
  const std::vector<FindingView> between;
  std::vector<std::vector<FindingView>> of_nodes;
};

namespace {

ProbeOptions probe_options(const dsinfer_probe_options* given) {
  ProbeOptions options;
  if (!given) return options;
  const auto read = read_struct(given, offsetof(dsinfer_probe_options, reserved) + sizeof(int32_t), "options");
  if (read.root) options.root = read.root;
  if (read.nvml_library) options.nvml_library = read.nvml_library;
  if (read.verbs_library) options.verbs_library = read.verbs_library;
  if (read.nccl_library) options.nccl_library = read.nccl_library;
  options.netlink = read.no_netlink == 0;
  need_array(read.environment, read.num_environment, "environment");
  if (read.environment) options.environment.emplace();
  for (uint64_t i = 0; i < read.num_environment; ++i) options.environment->emplace_back(need_text(read.environment[i], "environment[i]"));
  return options;
}

GatherOptions gather_options(const dsinfer_gather_options* given) {
  GatherOptions options;
  if (!given) return options;
  const auto read = read_struct(given, offsetof(dsinfer_gather_options, reserved) + sizeof(int32_t), "options");
  options.probe = probe_options(read.probe);
  options.check_reach = read.no_reach == 0;
  if (read.reach_timeout < 0) throw Error(Error::invalid_argument, "reach_timeout is " + std::to_string(read.reach_timeout) + ", expected 0 or more");
  if (read.reach_timeout > 0) options.reach_timeout = std::chrono::milliseconds(read.reach_timeout);
  return options;
}

Cluster probed(const ProbeOptions& options) {
  Cluster cluster;
  cluster.nodes.push_back(probe_node(options));
  choose_network(cluster);
  return cluster;
}

Cluster chosen(Cluster cluster) {
  choose_network(cluster);
  return cluster;
}

const Node& node_at(const dsinfer_cluster& held, int32_t node) {
  if (node < 0 || static_cast<size_t>(node) >= held.cluster.nodes.size()) {
    throw Error(Error::invalid_argument, "node " + std::to_string(node) + ", expected 0 … " + std::to_string(static_cast<int64_t>(held.cluster.nodes.size()) - 1));
  }
  return held.cluster.nodes[static_cast<size_t>(node)];
}
const std::vector<Finding>& findings_of(const dsinfer_cluster& held, int32_t node) { return node == -1 ? held.cluster.findings : node_at(held, node).findings; }

int32_t count_of(const std::optional<int>& count) { return count.value_or(-1); }

template <class Make>
dsinfer_status give_cluster(dsinfer_cluster** out, const char* name, Make&& make) {
  return guard([&] { give(out, name, [&] { return new dsinfer_cluster(make()); }); });
}

}  // namespace

dsinfer_status dsinfer_cluster_probe(const dsinfer_probe_options* options, dsinfer_cluster** cluster) {
  return give_cluster(cluster, "cluster", [&] { return probed(probe_options(options)); });
}
dsinfer_status dsinfer_cluster_import(const char* path, dsinfer_cluster** cluster) {
  return give_cluster(cluster, "cluster", [&] { return import_machines(need_text(path, "path")); });
}
dsinfer_status dsinfer_cluster_import_text(dsinfer_text text, const char* name, dsinfer_cluster** cluster) {
  return give_cluster(cluster, "cluster", [&] { return import_text(view(text, "text"), name ? name : "pasted"); });
}
dsinfer_status dsinfer_cluster_gather(dsinfer_world* world, const dsinfer_gather_options* options, dsinfer_cluster** cluster) {
  return give_cluster(cluster, "cluster", [&] { return gather(need(world, "world").world(), gather_options(options)); });
}
dsinfer_status dsinfer_cluster_from_json(dsinfer_text json, dsinfer_cluster** cluster) {
  return give_cluster(cluster, "cluster", [&] { return Cluster::from_json(view(json, "json")); });
}
dsinfer_status dsinfer_cluster_choose_network(const dsinfer_cluster* cluster, dsinfer_cluster** out) {
  return give_cluster(out, "chosen", [&] { return chosen(need(cluster, "cluster").cluster); });
}
void dsinfer_cluster_destroy(dsinfer_cluster* cluster) { delete cluster; }

dsinfer_status dsinfer_cluster_to_json(const dsinfer_cluster* cluster, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(cluster, "cluster").cluster.to_json(), buffer, capacity, needed); });
}
dsinfer_status dsinfer_cluster_text(const dsinfer_cluster* cluster, int32_t color, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(cluster, "cluster").cluster.text(color != 0), buffer, capacity, needed); });
}
dsinfer_status dsinfer_cluster_dot(const dsinfer_cluster* cluster, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(cluster, "cluster").cluster.dot(), buffer, capacity, needed); });
}
dsinfer_status dsinfer_cluster_svg(const dsinfer_cluster* cluster, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(cluster, "cluster").cluster.svg(), buffer, capacity, needed); });
}
dsinfer_status dsinfer_cluster_environment(const dsinfer_cluster* cluster, int32_t node, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(cluster, "cluster").cluster.environment(node), buffer, capacity, needed); });
}
dsinfer_status dsinfer_cluster_apply_environment(const dsinfer_cluster* cluster, int32_t node, int32_t* num_set) {
  return guard([&] {
    const int set = apply_environment(node_at(need(cluster, "cluster"), node).network);
    if (num_set) *num_set = set;
  });
}

int32_t dsinfer_cluster_num_nodes(const dsinfer_cluster* cluster) { return cluster ? static_cast<int32_t>(cluster->cluster.nodes.size()) : -1; }
dsinfer_status dsinfer_cluster_node_of_rank(const dsinfer_cluster* cluster, int32_t* nodes, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_array(need(cluster, "cluster").cluster.node_of_rank, nodes, capacity, needed); });
}
static_assert(sizeof(int) == sizeof(int32_t), "give_array copies ints");

dsinfer_status dsinfer_cluster_get_node(const dsinfer_cluster* cluster, int32_t node, dsinfer_node_info* info) {
  return guard([&] {
    const Node& n = node_at(need(cluster, "cluster"), node);
    const Network& network = n.network;
    dsinfer_node_info value = DSINFER_NODE_INFO_INIT;
    value.name = n.name.c_str();
    value.socket_ifname = network.socket_ifname.c_str();
    value.fallback_reason = network.fallback_reason.c_str();
    value.plugin_fabric = network.plugin_fabric.c_str();
    value.gb_per_s_per_gpu = network.gb_per_s_per_gpu;
    value.memory_bytes = n.host.memory_bytes;
    for (const Gpu& gpu : n.gpus) value.gpu_memory_bytes = &gpu == n.gpus.data() ? gpu.memory_bytes : std::min(value.gpu_memory_bytes, gpu.memory_bytes);
    value.gpu_count = n.gpus.empty() && !n.gpus_complete ? -1 : static_cast<int32_t>(n.gpus.size());
    value.nvlink = n.nvlink ? *n.nvlink : -1;
    value.transport = static_cast<int32_t>(network.transport);
    value.link_layer = network.link_layer == LinkLayer::unspecified ? DSINFER_LINK_LAYER_UNKNOWN : static_cast<int32_t>(network.link_layer);
    value.hca_count = count_of(network.hca_count);
    value.gid_index = count_of(network.gid_index);
    value.judged = network.judged;
    write_struct(info, value, offsetof(dsinfer_node_info, reserved) + sizeof(int32_t), "info");
  });
}
static_assert(DSINFER_TRANSPORT_SOCKET == static_cast<int>(Transport::socket) && DSINFER_TRANSPORT_IB == static_cast<int>(Transport::ib) &&
              DSINFER_LINK_LAYER_ETHERNET == static_cast<int>(LinkLayer::ethernet) && DSINFER_SEVERITY_ERROR == static_cast<int>(Severity::error));

dsinfer_status dsinfer_cluster_num_findings(const dsinfer_cluster* cluster, int32_t node, int32_t* count) {
  return guard([&] { give(count, "count", [&] { return static_cast<int32_t>(findings_of(need(cluster, "cluster"), node).size()); }); });
}
dsinfer_status dsinfer_cluster_get_finding(const dsinfer_cluster* cluster, int32_t node, int32_t index, dsinfer_finding* finding) {
  return guard([&] {
    const std::vector<Finding>& findings = findings_of(need(cluster, "cluster"), node);
    if (index < 0 || static_cast<size_t>(index) >= findings.size()) {
      throw Error(Error::invalid_argument, "index " + std::to_string(index) + ", there are " + std::to_string(findings.size()) + " findings");
    }
    const Finding& found = findings[static_cast<size_t>(index)];
    const FindingView& view = (node == -1 ? cluster->between : cluster->of_nodes[static_cast<size_t>(node)])[static_cast<size_t>(index)];
    dsinfer_finding value = DSINFER_FINDING_INIT;
    value.code = found.code.c_str(), value.text = found.text.c_str(), value.advice = found.advice.c_str();
    value.nodes = view.nodes.data(), value.num_nodes = view.nodes.size();
    value.evidence = view.evidence.data(), value.num_evidence = view.evidence.size();
    value.severity = static_cast<int32_t>(found.severity);
    write_struct(finding, value, offsetof(dsinfer_finding, reserved) + sizeof(int32_t), "finding");
  });
}
