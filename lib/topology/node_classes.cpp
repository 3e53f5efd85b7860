#include "topology/node_classes.hpp"

#include <algorithm>
#include <set>

#include "topology/importers.hpp"
#include "topology/wording.hpp"

namespace dsinfer::topology {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// Machines of one order differ by some megabytes in what the kernel left them.
void round_memory(int64_t& bytes) { bytes = (bytes + kGiB / 2) / kGiB; }

bool comes_and_goes(const Interface& interface) {
  return interface.kind == "veth" || interface.kind == "tunnel" || interface.kind == "macvlan" || interface.kind == "bridge";
}

void forget_identity(Host& host) {
  host.name = host.id = "";
  round_memory(host.memory_bytes), round_memory(host.shm_bytes);
  for (NumaNode& numa : host.numa) round_memory(numa.memory_bytes);
}

void forget_identity(HcaPort& port) {
  port.lid = port.sm_lid = -1;
  port.gids.clear();
}

// Names that differ from one start to the next: a launcher's variables, and a host id that has to be other on each node.
bool is_identity(const EnvironmentVariable& variable) { return set_by_launcher(variable.name) || (variable.users && variable.name == "NCCL_HOSTID"); }

// What was decided stays; why, in words that may hold names and addresses, goes.
void forget_identity(Network& network, const std::set<std::string>& passing) {
  std::erase_if(network.environment, is_identity);
  for (ChosenPort& port : network.ports) port.subnet = "";
  for (EnvironmentVariable& variable : network.environment) variable.reason = "";
  for (Reason& reason : network.reasons) reason.text = "";
  std::erase_if(network.reasons, [&](const Reason& reason) {
    return passing.count(reason.subject) > 0 || reason.subject.starts_with("veth") || reason.subject.starts_with("cali") || reason.subject.starts_with("br-");
  });
}

Node without_identity(Node node) {
  node.name = "";
  node.sources.clear(), node.settings.clear();
  forget_identity(node.host);
  for (Gpu& gpu : node.gpus) gpu.uuid = "";
  for (Hca& hca : node.hcas) {
    hca.node_guid = hca.sys_image_guid = "";
    for (HcaPort& port : hca.ports) forget_identity(port);
  }
  std::set<std::string> passing;
  for (const Interface& interface : node.interfaces) {
    if (comes_and_goes(interface)) passing.insert(interface.name);
  }
  std::erase_if(node.interfaces, comes_and_goes);
  for (Interface& interface : node.interfaces) interface.mac = "", interface.addresses.clear();
  forget_identity(node.network, passing);
  for (Finding& finding : node.findings) finding = {finding.code, finding.severity, {}, "", {}, ""};
  return node;
}

}  // namespace

std::vector<NodeClass> node_classes(const Cluster& cluster) {
  std::vector<NodeClass> classes;
  std::vector<Node> kinds;
  for (size_t i = 0; i < cluster.nodes.size(); ++i) {
    Node kind = without_identity(cluster.nodes[i]);
    const auto same = std::find(kinds.begin(), kinds.end(), kind);
    if (same == kinds.end()) {
      kinds.push_back(std::move(kind));
      classes.push_back({{static_cast<int>(i)}});
    } else {
      classes[static_cast<size_t>(same - kinds.begin())].members.push_back(static_cast<int>(i));
    }
  }
  return classes;
}

std::string names_of(const Cluster& cluster, const std::vector<int>& members, size_t most) {
  std::vector<std::string> names;
  for (const int member : members) names.push_back(clipped(cluster.nodes[static_cast<size_t>(member)].name, 40));
  return list_text(names, most);
}

}  // namespace dsinfer::topology
