// A sysfs tree as a Node: the live machine's (/) or a captured one's.
#include "topology/sysfs.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "topology/importers.hpp"

namespace dsinfer::topology {
namespace {

// A folder of the tree that was gathered from a running system, not only the one list that somebody needed.
bool gathered_root(const Tree& tree) {
  return tree.exists("sys/devices/system") || (tree.exists("sys/bus/pci/devices") && tree.exists("sys/class/net"));
}

void add_gpus(Node& node) {
  for (const PciDevice& device : node.pci) {
    if (!is_gpu_class(device.class_code, device.vendor)) continue;
    Gpu gpu;
    gpu.label = gpu.bus_id = device.bus_id;
    gpu.numa = device.numa;
    gpu.pcie_gb_per_s = device.gb_per_s;
    node.gpus.push_back(std::move(gpu));
  }
}

const PciDevice* find(const std::vector<PciDevice>& pci, const std::string& id) {
  const auto found = std::lower_bound(pci.begin(), pci.end(), id, [](const PciDevice& d, const std::string& b) { return d.bus_id < b; });
  return found != pci.end() && found->bus_id == id ? &*found : nullptr;
}

void note(Node& node, const Tree& tree, const std::string& name) {
  const auto add = [&](const std::string& code, const std::string& text, std::string evidence, const std::string& advice) {
    node.findings.push_back({code, Severity::info, {}, text, {std::move(evidence)}, advice});
  };
  for (const char* folder : {"sys/class/infiniband", "sys/bus/pci/devices", "sys/class/net"}) {
    if (tree.unreadable(folder)) add("unreadable", std::string(folder) + " cannot be read", name, "Run with the rights to read it.");
  }
  if (!tree.damage().empty()) add("truncated", name + ": " + tree.damage(), name, "Capture it again, whole.");
}

}  // namespace

// Servers have hundreds of functions for their memory controllers and ports; what counts here are accelerators, NICs and what is above them.
void keep_what_matters(Node& node) {
  std::map<std::string_view, const PciDevice*> devices;
  for (const PciDevice& d : node.pci) devices[d.bus_id] = &d;
  std::set<std::string> kept;
  const auto keep = [&](std::string id) {
    while (!id.empty() && kept.insert(id).second) {
      const auto found = devices.find(id);
      id = found != devices.end() ? found->second->parent : "";
    }
  };
  for (const PciDevice& d : node.pci) {
    const uint32_t base = d.class_code >> 16, sub = d.class_code >> 8;
    const bool accelerator = base == 0x03 || base == 0x0b || base == 0x12 || base == 0x40;
    if (d.class_code == 0 || base == 0x02 || accelerator || sub == 0x0604 || sub == 0x0680 || sub == 0x0c06) keep(d.bus_id);
  }
  for (const Hca& hca : node.hcas) keep(hca.bus_id);
  for (const Interface& interface : node.interfaces) keep(interface.bus_id);
  std::erase_if(node.pci, [&](const PciDevice& d) { return !kept.count(d.bus_id); });
}

Node read_sysfs(const Tree& tree, const std::string& name) {
  Node node;
  node.sources.push_back(name);
  node.pci = read_pci(tree);
  std::sort(node.pci.begin(), node.pci.end(), [](const PciDevice& a, const PciDevice& b) { return a.bus_id < b.bus_id; });
  node.hcas = read_verbs_devices(tree);
  for (Hca& hca : node.hcas) {
    const PciDevice* device = find(node.pci, hca.bus_id);
    if (hca.numa < 0 && device) hca.numa = device->numa;
    if (hca.physical_function.empty() && device) hca.physical_function = device->physical_function;
  }
  node.interfaces = read_interfaces(tree);
  add_gpus(node);
  read_host(tree, node.host);
  read_processors(tree, node.host);
  read_character_devices(tree, node.host);
  read_nvidia(tree, node);
  node.host.iommu = read_iommu(tree, node.pci);
  keep_what_matters(node);

  // What was gathered whole and shows nothing has nothing, also where the PCI part was not gathered. A lone class/infiniband speaks of HCAs only.
  const bool whole = gathered_root(tree) && tree.damage().empty();
  const auto listed = [&](const char* folder) { return tree.exists(folder) && !tree.unreadable(folder); };
  node.pci_complete = listed("sys/bus/pci/devices") && tree.damage().empty();
  node.gpus_complete = whole || node.pci_complete;
  node.hcas_complete = tree.damage().empty() && !tree.unreadable("sys/class/infiniband") && (whole || tree.exists("sys/class/infiniband"));
  node.interfaces_complete = listed("sys/class/net");
  note(node, tree, name);
  return node;
}

}  // namespace dsinfer::topology
