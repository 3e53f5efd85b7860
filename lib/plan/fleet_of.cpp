// A fleet from a discovered cluster: equal nodes of equal GPUs, as the least of what was found; what was assumed or left out is said.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "dsinfer/error.hpp"
#include "plan/fleet.hpp"

namespace dsinfer {
namespace {

constexpr double kNoticed = 0.02;  // a driver's memory differs this much from the table's: worth a word
// Where a transport is known and its rate is not: one port of the slowest kind that still sells.
constexpr double kAssumedIbGbps = 200, kAssumedRoceGbps = 100, kAssumedSocketGbps = 10;

struct FoundGpu {
  const Gpu* gpu = nullptr;
  const GpuKind* kind = nullptr;
  int island = 0;
};

struct FoundNode {
  const Node* node = nullptr;
  std::vector<FoundGpu> gpus;
};

// GPUs that NVLink joins, directly or through a switch, and what each can send.
class NvlinkIslands {
 public:
  explicit NvlinkIslands(const Node& node) {
    for (const Gpu& gpu : node.gpus) parent_.emplace(gpu.label, gpu.label);
    for (const Link& link : node.links) {
      if (link.kind != "nvlink" || link.a.starts_with("cpu") || link.b.starts_with("cpu")) continue;
      known_ = true;
      join(link.a, link.b);
      rate_[link.a] += link.gb_per_s;
      rate_[link.b] += link.gb_per_s;
    }
    if (!known_)  // facts without a choice: the matrix alone
      for (const Path& path : node.paths)
        if (path.kind == PathKind::nvlink && path.a != path.b) join(path.a, path.b), known_ = true;
  }

  bool known() const { return known_; }
  std::string of(const std::string& label) {
    std::string top = label;
    for (auto it = parent_.find(top); it != parent_.end() && it->second != top; it = parent_.find(top)) top = it->second;
    return top;
  }
  double rate(const std::string& label) const {
    const auto it = rate_.find(label);
    return it == rate_.end() ? 0 : it->second;
  }

 private:
  void join(const std::string& a, const std::string& b) {
    parent_.emplace(a, a);
    parent_.emplace(b, b);
    parent_[of(a)] = of(b);
  }

  std::map<std::string, std::string> parent_;
  std::map<std::string, double> rate_;
  bool known_ = false;
};

class FleetMaker {
 public:
  FleetMaker(const Catalogue& catalogue, const Cluster& cluster) : catalogue_(catalogue), cluster_(cluster) {}

  Fleet make() && {
    if (cluster_.nodes.empty()) throw Error(Error::invalid_argument, "the cluster has no nodes");
    const bool any_gpu = std::any_of(cluster_.nodes.begin(), cluster_.nodes.end(), [](const Node& node) { return !node.gpus.empty(); });
    if (any_gpu) {
      find_gpus();
      settle_kind();
      settle_inside();
    } else {
      settle_cpus();
    }
    settle_between();
    settle_environment();
    warn();
    return std::move(fleet_);
  }

 private:
  template <class... Args> void note(fmt::format_string<Args...> format, Args&&... args) { fleet_.notes.push_back(fmt::format(format, std::forward<Args>(args)...)); }

  // By the driver's name; a source that gives none (NCCL's topology file) has the device's number on the bus.
  const GpuKind* kind_of(const Node& node, const Gpu& gpu) {
    if (!gpu.name.empty() || gpu.bus_id.empty()) return catalogue_.match(gpu.name, gpu.memory_bytes);
    const auto device = std::find_if(node.pci.begin(), node.pci.end(), [&](const PciDevice& d) { return d.bus_id == gpu.bus_id; });
    if (device == node.pci.end()) return nullptr;
    const GpuKind* kind = catalogue_.match_pci(device->vendor, device->device);
    if (kind) by_bus_.insert(fmt::format("{:04x}:{:04x} is {}", device->vendor, device->device, kind->id));
    else unnamed_.insert(fmt::format("no name, PCI device {:04x}:{:04x}", device->vendor, device->device));
    return kind;
  }

  void find_gpus() {
    std::set<std::string> unknown;
    for (const Node& node : cluster_.nodes) {
      FoundNode found{&node, {}};
      for (const Gpu& gpu : node.gpus) {
        if (const GpuKind* kind = kind_of(node, gpu)) found.gpus.push_back({&gpu, kind, 0});
        else if (!gpu.name.empty()) unknown.insert(gpu.name);
      }
      if (found.gpus.empty()) note("node {} is left out: it has no GPU that the catalogue knows", node.name);
      else nodes_.push_back(std::move(found));
    }
    for (const std::string& device : unnamed_) unknown.insert(device);
    if (unknown.empty() && nodes_.empty()) unknown.insert("they have neither name nor PCI device");
    if (nodes_.empty())
      throw Error(Error::plan_refused, fmt::format("no GPU of the cluster is in the catalogue: {}; add the kind to a catalogue file, with its name or pci", fmt::join(unknown, ", ")));
    if (!by_bus_.empty()) note("GPUs are named by their PCI device: {}", fmt::join(by_bus_, ", "));
    for (const std::string& name : unknown) note("GPU \"{}\" is left out: the catalogue does not know it", name);
    size_t least = nodes_.front().gpus.size(), most = least;
    for (const FoundNode& node : nodes_) least = std::min(least, node.gpus.size()), most = std::max(most, node.gpus.size());
    if (least != most) note("nodes have {} to {} GPUs: {} of each are counted", least, most, least);
    for (FoundNode& node : nodes_) node.gpus.resize(least);
    check_size(static_cast<int64_t>(nodes_.size()), static_cast<int64_t>(least));
    fleet_.nodes = static_cast<int>(nodes_.size());
    fleet_.gpus_per_node = static_cast<int>(least);
  }

  // The kind of the fleet: the least of each figure.
  void settle_kind() {
    std::set<const GpuKind*> kinds;
    GpuKind least = *nodes_.front().gpus.front().kind;
    int64_t memory = 0, table_memory = 0;
    double pcie = 0;
    for (const FoundNode& node : nodes_)
      for (const FoundGpu& found : node.gpus) {
        kinds.insert(found.kind);
        const int64_t bytes = found.gpu->memory_bytes > 0 ? found.gpu->memory_bytes : found.kind->memory_bytes;
        if (memory == 0 || bytes < memory) memory = bytes, table_memory = found.kind->memory_bytes;
        if (found.gpu->memory_bytes <= 0) memory_assumed_ = true;
        if (found.gpu->pcie_gb_per_s > 0) pcie = pcie > 0 ? std::min(pcie, found.gpu->pcie_gb_per_s) : found.gpu->pcie_gb_per_s;
        if (found.gpu->mig.value_or(false)) mig_ = true;
      }
    if (kinds.size() > 1) {
      std::set<std::string> ids;
      for (const GpuKind* kind : kinds) {
        ids.insert(kind->id);
        if (kind->bf16_tflops < least.bf16_tflops) least.curves = kind->curves;
        least.fp8_units = least.fp8_units && kind->fp8_units;
        least.compute_capability = std::min(least.compute_capability, kind->compute_capability);
        for (double GpuKind::*figure : {&GpuKind::memory_gb_per_s, &GpuKind::bf16_tflops, &GpuKind::fp8_tflops, &GpuKind::nvlink_gb_per_s, &GpuKind::pcie_gb_per_s})
          least.*figure = std::min(least.*figure, kind->*figure);
      }
      if (!least.fp8_units) least.fp8_tflops = 0;
      least.id = fmt::format("{}", fmt::join(ids, "+"));
      note("GPUs of several kinds ({}): the least of each figure counts", fmt::join(ids, ", "));
    }
    least.memory_bytes = memory;
    if (pcie > 0) least.pcie_gb_per_s = pcie;
    if (memory_assumed_) note("memory of some GPUs is unknown: the catalogue's {} MiB is assumed", memory >> 20);
    else if (std::abs(static_cast<double>(memory - table_memory)) > kNoticed * static_cast<double>(table_memory))
      note("GPUs report {} MiB, the catalogue says {} MiB for {}: the former counts", memory >> 20, table_memory >> 20, least.id);
    if (mig_) note("MIG is on: a GPU's slices are not counted apart");
    fleet_.gpu = std::move(least);
  }

  void settle_inside() {
    bool one_island = true, assumed = false;
    double nvlink = 0;  // least that a GPU can send
    for (size_t n = 0; n < nodes_.size(); ++n) {
      NvlinkIslands islands(*nodes_[n].node);
      const bool unknown = !islands.known() && nodes_[n].node->nvlink.value_or(true) && fleet_.gpu.nvlink_gb_per_s > 0;
      std::map<std::string, int> numbers;
      for (FoundGpu& found : nodes_[n].gpus) {
        found.island = unknown ? 0 : numbers.emplace(islands.of(found.gpu->label), static_cast<int>(numbers.size())).first->second;
        const double rate = unknown ? fleet_.gpu.nvlink_gb_per_s : islands.rate(found.gpu->label);
        if (rate > 0 && (nvlink <= 0 || rate < nvlink)) nvlink = rate;
        fleet_.gpus.push_back({static_cast<int>(n), found.gpu->label, found.island});
      }
      assumed = assumed || unknown;
      one_island = one_island && (unknown || (islands.known() && numbers.size() == 1));
      fleet_.node_names.push_back(nodes_[n].node->name);
      if (islands.known() && numbers.size() > 1 && numbers.size() < nodes_[n].gpus.size())
        note("NVLink joins the {} GPUs of node {} in {} islands", nodes_[n].gpus.size(), nodes_[n].node->name, numbers.size());
    }
    if (assumed) note("no source shows the NVLinks: {} joins all GPUs of a node as it should", fleet_.gpu.id);
    if (nvlink > 0) fleet_.gpu.nvlink_gb_per_s = nvlink;
    const bool joined = one_island && fleet_.gpus_per_node > 1 && fleet_.gpu.nvlink_gb_per_s > 0;
    if (!joined) {
      if (fleet_.gpus_per_node > 1 && fleet_.gpu.nvlink_gb_per_s > 0) note("NVLink does not join all GPUs of every node: between them PCIe counts");
      if (std::none_of(nodes_.begin(), nodes_.end(), [](const FoundNode& node) { return NvlinkIslands(*node.node).known(); })) fleet_.gpu.nvlink_gb_per_s = 0;
    }
    fleet_.inside = with_rate_of(catalogue_.link(joined ? "nvlink" : "pcie", fleet_.gpus_per_node), fleet_.gpu);
  }

  // A rank for each NUMA node: its cores and its memory are nearest to each other.
  void settle_cpus() {
    fleet_.gpu = catalogue_.gpu("cpu");
    size_t ranks = 0;
    int64_t memory = 0;
    std::set<std::string> models;
    for (const Node& node : cluster_.nodes) {
      const auto with_cores = static_cast<size_t>(std::count_if(node.host.numa.begin(), node.host.numa.end(), [](const NumaNode& numa) { return !numa.cpus.empty(); }));
      const size_t here = std::clamp<size_t>(with_cores > 0 ? with_cores : static_cast<size_t>(std::max(node.host.packages, 1)), 1, 64);
      ranks = ranks == 0 ? here : std::min(ranks, here);
      if (!node.host.cpu_model.empty()) models.insert(node.host.cpu_model);
      if (!node.gpus_complete) note("node {}: no source lists GPUs; none is counted", node.name);
    }
    for (const Node& node : cluster_.nodes) {
      int64_t whole = node.host.memory_bytes;
      if (node.host.cgroup_memory_bytes > 0) whole = whole > 0 ? std::min(whole, node.host.cgroup_memory_bytes) : node.host.cgroup_memory_bytes;
      int64_t share = whole > 0 ? whole / static_cast<int64_t>(ranks) : 0;
      for (const NumaNode& numa : node.host.numa)
        if (!numa.cpus.empty() && numa.memory_bytes > 0 && share > 0) share = std::min(share, numa.memory_bytes);
      if (share <= 0) note("memory of node {} is unknown: the catalogue's {} MiB a rank is assumed", node.name, fleet_.gpu.memory_bytes >> 20);
      else memory = memory == 0 ? share : std::min(memory, share);
    }
    if (memory > 0) fleet_.gpu.memory_bytes = memory;
    fleet_.gpu.names.assign(models.begin(), models.end());
    check_size(static_cast<int64_t>(cluster_.nodes.size()), static_cast<int64_t>(ranks));
    fleet_.nodes = static_cast<int>(cluster_.nodes.size());
    fleet_.gpus_per_node = static_cast<int>(ranks);
    note("speed of CPUs is the catalogue's: {}", fleet_.gpu.source);
    for (int n = 0; n < fleet_.nodes; ++n) {
      const Node& node = cluster_.nodes[static_cast<size_t>(n)];
      nodes_.push_back({&node, {}});
      fleet_.node_names.push_back(node.name);
      for (int i = 0; i < fleet_.gpus_per_node; ++i) fleet_.gpus.push_back({n, fmt::format("CPU{}", i), i});
    }
    fleet_.inside = with_rate_of(catalogue_.link("shared-memory", fleet_.gpus_per_node), fleet_.gpu);
  }


  static double gbps_of(const Network& network) {
    return std::accumulate(network.ports.begin(), network.ports.end(), 0.0, [](double sum, const ChosenPort& port) { return sum + port.rate_gbps; });
  }

  // The slowest node's way out. Nodes must agree on a transport, else sockets carry all.
  void settle_between() {
    const Transport first = nodes_.front().node->network.transport;
    Transport transport = first;
    for (const FoundNode& found : nodes_)
      if (found.node->network.transport != first) transport = Transport::socket;
    if (transport != first) note("nodes differ in transport: sockets carry what goes between them");
    if (transport == Transport::unknown) {
      transport = Transport::socket;
      note("the transport between nodes is unknown: sockets are assumed");
    }
    const bool agreed = transport == first;
    double rate = 0;
    int nics = 0;
    bool all_known = true;
    for (const FoundNode& found : nodes_) {
      const Network& network = found.node->network;
      double here = agreed ? network.gb_per_s_per_gpu : 0;
      if (here <= 0 && agreed) here = gbps_of(network) / 8 / fleet_.gpus_per_node;
      if (here <= 0 && transport == Transport::socket) here = socket_rate(*found.node);
      all_known = all_known && here > 0;
      if (here > 0) rate = rate > 0 ? std::min(rate, here) : here;
      const int nics_here = network.hca_count.value_or(static_cast<int>(network.ports.size()));
      nics = &found == &nodes_.front() ? nics_here : std::min(nics, nics_here);
    }
    const char* word = transport == Transport::ib ? "ib" : transport == Transport::roce ? "roce" : "socket";
    const double assumed = transport == Transport::ib ? kAssumedIbGbps : transport == Transport::roce ? kAssumedRoceGbps : kAssumedSocketGbps;
    fleet_.between = catalogue_.link(fmt::format("{}{}x1", word, assumed), fleet_.gpus_per_node);
    fleet_.between.id = word;
    if (!all_known) {
      if (rate > 0) fleet_.between.gb_per_s = std::min(rate, fleet_.between.gb_per_s);
      note("the rate between nodes is unknown: one port of {} Gb/s a node is assumed", assumed);
    } else {
      fleet_.between.gb_per_s = rate;
      fleet_.between.source = "rate of the chosen ports, shared by a node's GPUs; latency assumed";
    }
    fleet_.between.nics = std::max(nics, 1);
    fleet_.nics_per_node = transport == Transport::socket ? 1 : nics;
  }

  double socket_rate(const Node& node) const {
    for (const Interface& interface : node.interfaces)
      if (interface.name == node.network.socket_ifname && interface.speed_mbps > 0) return static_cast<double>(interface.speed_mbps) / 8e3 / fleet_.gpus_per_node;
    return 0;
  }

  void settle_environment() {
    bool differ = false;
    for (const FoundNode& found : nodes_) {
      std::map<std::string, std::string> mine;
      for (const EnvironmentVariable& variable : found.node->network.environment) {
        mine[variable.name] = variable.value;
        if (&found == &nodes_.front() && !variable.reason.empty()) fleet_.environment_reasons[variable.name] = variable.reason;
      }
      if (&found == &nodes_.front()) fleet_.environment = std::move(mine);
      else differ = differ || mine != fleet_.environment;
    }
    if (differ) note("the network's environment differs between nodes: shown is that of {}", fleet_.node_names.front());
  }

  // What discovery holds to be wrong stays visible in the answer.
  void warn() {
    const auto add = [&](const Finding& finding) { if (finding.severity == Severity::error) note("{}: {}", finding.code, finding.text); };
    for (const Finding& finding : cluster_.findings) add(finding);
    for (const FoundNode& found : nodes_)
      for (const Finding& finding : found.node->findings) add(finding);
  }

  const Catalogue& catalogue_;
  const Cluster& cluster_;
  std::vector<FoundNode> nodes_;
  std::set<std::string> by_bus_, unnamed_;
  bool memory_assumed_ = false, mig_ = false;
  Fleet fleet_;
};

}  // namespace

Fleet fleet_of(const Catalogue& catalogue, const Cluster& cluster) { return FleetMaker(catalogue, cluster).make(); }

}  // namespace dsinfer
