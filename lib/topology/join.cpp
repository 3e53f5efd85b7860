// What several sources say of one machine, as one Node. A device is the same where its bus id, GUID or name says so; the first source that
// states a fact is believed, after those that only conclude it.
#include "topology/join.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "topology/choice.hpp"
#include "topology/joining.hpp"

namespace dsinfer::topology {
namespace {

// These tools name a netdev or a class, from which the importer concludes the link layer or the state of a port.
bool concludes(const Node& part) {
  return std::any_of(part.sources.begin(), part.sources.end(), [](const std::string& source) {
    return source.find("(ibdev2netdev") != source.npos || source.find("(hwloc") != source.npos;
  });
}

void join_host(Host& into, const Host& from) {
  for (auto field :
       {&Host::name, &Host::id, &Host::os, &Host::kernel, &Host::arch, &Host::cpu_model, &Host::iommu, &Host::driver_version,
        &Host::cuda_driver_version, &Host::nccl_version, &Host::nccl_path, &Host::nccl_hash, &Host::net_plugin, &Host::verbs_library}) {
    fill(into.*field, from.*field);
  }
  for (auto field : {&Host::packages, &Host::cores, &Host::logical_cpus}) fill(into.*field, from.*field);
  for (auto field : {&Host::memory_bytes, &Host::shm_bytes, &Host::cgroup_memory_bytes}) fill(into.*field, from.*field);
  fill(into.cgroup_cpus, from.cgroup_cpus);
  for (auto field : {&Host::virtual_machine, &Host::container, &Host::rdma_cm, &Host::peer_memory, &Host::dma_buf, &Host::fabric_manager}) {
    fill(into.*field, from.*field);
  }
  fill(into.memlock_bytes, from.memlock_bytes);
  fill(into.uverbs, from.uverbs);
  fill(into.numa, from.numa);
  for (const std::string& provider : from.fabric_providers) add_once(into.fabric_providers, provider);
}

void join_interface(Interface& into, const Interface& from) {
  for (auto field : {&Interface::kind, &Interface::type, &Interface::mac, &Interface::bus_id, &Interface::master})
    fill(into.*field, from.*field);
  fill(into.up, from.up);
  fill(into.mtu, from.mtu);
  fill(into.speed_mbps, from.speed_mbps);
  fill(into.lower, from.lower);
  for (const Address& address : from.addresses) {
    const auto same = std::find_if(into.addresses.begin(), into.addresses.end(), [&](const Address& a) { return a.ip == address.ip; });
    if (same == into.addresses.end())
      into.addresses.push_back(address);
    else
      fill(same->prefix_len, address.prefix_len, -1);
  }
  for (auto field : {&Interface::default_route, &Interface::bootstrap, &Interface::out_of_band}) into.*field = into.*field || from.*field;
}

// The kernel's order is that of the longest listing; a log or a table names some interfaces only.
std::vector<Interface> join_interfaces(const std::vector<Node>& parts) {
  std::vector<const Node*> order;
  for (const Node& part : parts) order.push_back(&part);
  std::stable_sort(order.begin(), order.end(), [](const Node* a, const Node* b) {
    if (a->interfaces_complete != b->interfaces_complete) return a->interfaces_complete;
    return a->interfaces.size() > b->interfaces.size();
  });
  std::vector<Interface> out;
  std::map<std::string, size_t> place;
  for (const Node* part : order) {
    for (const Interface& interface : part->interfaces) {
      if (place.emplace(interface.name, out.size()).second) out.emplace_back().name = interface.name;
    }
  }
  for (const Node& part : parts) {
    for (const Interface& interface : part.interfaces) join_interface(out[place[interface.name]], interface);
  }
  return out;
}

void join_pci_device(PciDevice& into, const PciDevice& from) {
  fill(into.class_code, from.class_code);
  fill(into.vendor, from.vendor);
  fill(into.device, from.device);
  fill(into.description, from.description);
  fill(into.physical_function, from.physical_function);
  fill(into.acs_redirect, from.acs_redirect);
  fill(into.gb_per_s, from.gb_per_s);
  fill(into.numa, from.numa, -1);
  // A bridge above says more than none: in virtual machines sysfs is flat and the provider's file has the switches.
  if (into.root.empty() && into.parent.empty()) into.root = from.root;
  if (into.parent.empty() && !from.parent.empty()) {
    into.parent = from.parent;
    into.root = from.root;
  }
}

std::vector<PciDevice> join_pci(const std::vector<Node>& parts) {
  std::vector<PciDevice> out;
  std::map<std::string, size_t> place;
  for (const Node& part : parts) {
    for (const PciDevice& device : part.pci) {
      const auto [it, fresh] = place.emplace(device.bus_id, out.size());
      if (fresh)
        out.push_back(device);
      else
        join_pci_device(out[it->second], device);
    }
  }
  return out;
}

void join_settings(std::vector<Setting>& into, const std::vector<Setting>& from) {
  for (const Setting& setting : from) {
    if (std::find(into.begin(), into.end(), setting) == into.end()) into.push_back(setting);
  }
}

// A topology file of PCI elements alone: NCCL's own dump would have GPUs and nets in it. A provider ships it for NCCL_TOPO_FILE.
bool provided(const Node& part) {
  const bool nccl =
      std::any_of(part.sources.begin(), part.sources.end(), [](const std::string& s) { return s.find("(NCCL topology XML") != s.npos; });
  const bool dumped = std::any_of(part.gpus.begin(), part.gpus.end(), [](const Gpu& gpu) { return gpu.index >= 0; }) || part.hcas_complete;
  return nccl && part.pci_complete && !part.gpus.empty() && !dumped;
}

void join_paths(Node& node, const std::vector<Node>& parts, const std::vector<Names>& names) {
  std::set<std::pair<std::string, std::string>> known;
  for (size_t i = 0; i < parts.size(); ++i) {
    for (Path path : parts[i].paths) {
      for (std::string* end : {&path.a, &path.b}) {
        if (const auto it = names[i].find(*end); it != names[i].end()) *end = it->second;
      }
      if (path.kind != PathKind::unknown && known.insert(std::minmax(path.a, path.b)).second) node.paths.push_back(path);
    }
  }
}

// Devices that the user's exact list names and no source shows: what the user lists is there, unless a complete source says otherwise.
void add_listed(Node& node) {
  const auto value = user_setting(node, "NCCL_IB_HCA");
  if (!value || node.hcas_complete || node.rdma_absent) return;
  const DeviceList list = DeviceList::parse(*value);
  if (list.exclude || !list.exact) return;
  std::set<std::string> known;
  for (const Hca& hca : node.hcas) known.insert(hca.name);
  for (const auto& entry : list.entries) {
    if (!known.insert(entry.name).second) continue;
    Hca& hca = node.hcas.emplace_back();
    hca.name = entry.name;
    hca.named_only = true;
    if (entry.port > 0) hca.ports.emplace_back().number = entry.port;
  }
}

// PCI functions that can be nothing but HCAs. Where a verbs device has no known bus id they may be the same, so they count only without
// such.
void add_functions(Node& node) {
  if (node.hcas_complete || node.rdma_absent) return;
  std::set<std::string> known;
  for (const Hca& hca : node.hcas) {
    if (hca.bus_id.empty()) return;
    known.insert(hca.bus_id);
  }
  for (const PciDevice& device : node.pci) {
    const bool infiniband = device.class_code >> 8 == 0x0207;
    if (!(infiniband || is_efa(device.vendor, device.device)) || known.contains(device.bus_id)) continue;
    Hca& hca = node.hcas.emplace_back();
    hca.bus_id = device.bus_id;
    hca.numa = device.numa;
    hca.physical_function = device.physical_function;
    if (!infiniband) hca.vendor_id = device.vendor;
    hca.ports.emplace_back().link_layer = infiniband ? LinkLayer::infiniband : LinkLayer::unspecified;
  }
}

}  // namespace

Node join(std::vector<Node> parts, const std::string& name) {
  Node node;
  for (const Node& part : parts) {
    join_host(node.host, part.host);
    join_settings(node.settings, part.settings);
    for (const std::string& source : part.sources) add_once(node.sources, source);
    for (auto flag : {&Node::gpus_complete, &Node::hcas_complete, &Node::rdma_absent, &Node::interfaces_complete, &Node::pci_complete}) {
      node.*flag = node.*flag || part.*flag;
    }
    node.network.topo_file = node.network.topo_file || part.network.topo_file || provided(part);  // said by the source, not chosen
    fill(node.network.rails_isolated, part.network.rails_isolated);
    node.findings.insert(node.findings.end(), part.findings.begin(), part.findings.end());
  }
  node.name = name.empty() ? node.host.name : name;
  node.interfaces = join_interfaces(parts);
  node.pci = join_pci(parts);

  std::vector<Names> names(parts.size());
  join_gpus(node, parts, names);
  std::vector<size_t> order;
  for (size_t i = 0; i < parts.size(); ++i) order.push_back(i);
  std::stable_partition(order.begin(), order.end(), [&](size_t i) { return !concludes(parts[i]); });
  join_hcas(node, parts, order, names);
  add_listed(node);
  add_functions(node);
  join_paths(node, parts, names);
  node.nvlink = judge_nvlink(node, parts);
  return node;
}

}  // namespace dsinfer::topology
