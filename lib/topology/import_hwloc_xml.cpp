// hwloc's XML export (lstopo x.xml), versions 1 to 3: processors, memory, the PCI tree, and the operating system's devices on it.
#include <algorithm>
#include <charconv>
#include <set>

#include "topology/cpu_list.hpp"
#include "topology/lines.hpp"
#include "topology/sysfs.hpp"
#include "topology/xml.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMaxDevices = 16384, kMaxNamed = 1024, kMaxPorts = 256;

std::string info(const XmlElement& element, std::string_view name) {
  for (const XmlElement& child : element.children) {
    if (child.name == "info" && child.get("name") == name) return clean_text(child.get("value"));
  }
  return "";
}

int64_t bytes_of(std::string_view text) {
  const auto value = integer_of(text);
  return value && *value > 0 ? *value : 0;
}

// "0207 [15b3:1013] [15b3:0013] 00": class without its lowest byte, vendor, device.
void read_pci_type(std::string_view type, PciDevice& device) {
  const auto hex = [&](size_t at) {
    uint32_t value = 0;
    if (at + 4 <= type.size()) std::from_chars(type.data() + at, type.data() + at + 4, value, 16);
    return value;
  };
  device.class_code = hex(0) << 8;
  const size_t bracket = type.find('[');
  if (bracket == type.npos) return;
  device.vendor = hex(bracket + 1);
  device.device = hex(bracket + 6);
}

// What an OS device is. Its number is an index up to version 2, a set of bits in version 3.
enum class Kind { other, gpu, network, openfabrics };
Kind kind_of(const XmlElement& element, bool bits) {
  const auto type = integer_of(element.get("osdev_type"));
  if (!type) return Kind::other;
  if (bits) return (*type & 32) != 0 ? Kind::openfabrics : (*type & 16) != 0 ? Kind::network : (*type & 12) != 0 ? Kind::gpu : Kind::other;
  return *type == 3 ? Kind::openfabrics : *type == 2 ? Kind::network : *type == 1 || *type == 5 ? Kind::gpu : Kind::other;
}

// Where an object hangs.
struct Place {
  const PciDevice* pci = nullptr;  // the nearest function above
  std::string root;                // host bridge above
  int numa = -1;                   // of the nearest object with processors
};

class Reader {
 public:
  Reader(Capture& capture, Remarks& remarks) : node_(capture.node), remarks_(remarks) {}

  void read(const XmlElement& topology) {
    bits_ = topology.get("version").starts_with("3");
    read_host(topology);
    for (const XmlElement& element : topology.children) {
      if (element.name == "object") read_host(element), read_object(element, Place());
      if (element.name.starts_with("distances2") && element.get("name") == "NVLinkBandwidth") read_nvlinks(element);
    }
    if (node_.host.memory_bytes == 0) {
      for (const NumaNode& numa : node_.host.numa) node_.host.memory_bytes += numa.memory_bytes;
    }
    for (size_t i = 0; i < node_.hcas.size(); ++i) settle_ports(node_.hcas[i], infiniband_class_[i]);
    const bool linked = std::any_of(node_.hcas.begin(), node_.hcas.end(), [](const Hca& h) { return h.device_link == true; });
    for (Hca& hca : node_.hcas) {
      if (linked && !hca.device_link) hca.device_link = false;
    }
  }

 private:
  void read_host(const XmlElement& element) {  // infos of the topology in version 3, of the Machine before
    const auto take = [&](std::string& field, std::string_view name) { if (field.empty()) field = info(element, name); };
    take(node_.host.name, "HostName");
    take(node_.host.kernel, "OSRelease");
    take(node_.host.arch, "Architecture");
    take(node_.host.cpu_model, "CPUModel");
  }

  void read_object(const XmlElement& element, Place place) {
    const std::string_view type = element.get("type");
    if (type == "PU") ++node_.host.logical_cpus;
    if (type == "Core") ++node_.host.cores;
    if (type == "Package" || type == "Socket") {
      ++node_.host.packages;
      if (node_.host.cpu_model.empty()) node_.host.cpu_model = info(element, "CPUModel");
    }
    if (type == "NUMANode" || type == "Node") read_numa(element);
    if ((type == "Machine" || type == "System") && element.has("local_memory")) node_.host.memory_bytes = bytes_of(element.get("local_memory"));
    if (element.has("nodeset")) place.numa = only_bit(element.get("nodeset"));
    PciDevice device;  // lives while its children are read
    if (type == "Bridge" && !element.has("pci_busid")) place.root = host_bridge(element);
    if ((type == "Bridge" || type == "PCIDev") && element.has("pci_busid")) {
      device = read_pci(element, place);
      place.pci = &device;
    }
    if (type == "OSDev") {
      read_os_device(element, place);
    } else if (type == "PCIDev" && element.has("pci_busid")) {  // without one it is no function that things could hang on
      read_function(element, place);
    }
    for (const XmlElement& child : element.children) {
      if (child.name == "object") read_object(child, place);
    }
  }

  void read_numa(const XmlElement& element) {
    const auto index = integer_of(element.get("os_index"));
    if (!index || *index < 0 || *index > 65535 || node_.host.numa.size() >= 4096) return;
    NumaNode numa;
    numa.id = static_cast<int>(*index);
    numa.cpus = cpu_list_of_mask(element.get("cpuset"));
    numa.memory_bytes = bytes_of(element.get("local_memory"));
    node_.host.numa.push_back(std::move(numa));
  }

  // "0x00000004" → 2: the objects are near one NUMA node only if the set has one bit.
  static int only_bit(std::string_view nodeset) {
    const std::string list = cpu_list_of_mask(nodeset);
    const auto value = integer_of(list);
    return value ? static_cast<int>(*value) : -1;
  }

  static std::string host_bridge(const XmlElement& element) {  // bridge_pci="0000:[80-84]"
    const std::string range = clean_text(element.get("bridge_pci"));
    const size_t bracket = range.find(":[");
    return bracket == range.npos ? "" : "pci" + range.substr(0, bracket + 1) + range.substr(bracket + 2, 2);
  }

  PciDevice read_pci(const XmlElement& element, const Place& place) {
    PciDevice d;
    d.bus_id = bus_id_of(element.get("pci_busid"));
    if (d.bus_id.empty()) remarks_.garbled("pci_busid=\"" + std::string(element.get("pci_busid")) + "\"");
    read_pci_type(element.get("pci_type"), d);
    const std::string vendor = info(element, "PCIVendor"), name = info(element, "PCIDevice");
    d.description = vendor.empty() || name.empty() ? vendor + name : vendor + " " + name;
    d.parent = place.pci ? place.pci->bus_id : "";
    d.root = place.root;
    d.numa = place.numa;
    d.gb_per_s = rate_of(element.get("pci_link_speed"));
    if (!d.bus_id.empty() && node_.pci.size() < kMaxDevices && seen_.insert(d.bus_id).second) node_.pci.push_back(d);
    return d;
  }

  // A PCI function with all that hangs on it: the netdevs tell what its verbs devices' ports are.
  void read_function(const XmlElement& element, const Place& place) {
    const PciDevice& pci = *place.pci;
    if (is_gpu_class(pci.class_code, pci.vendor) && !pci.bus_id.empty() && node_.gpus.size() < kMaxNamed) {
      Gpu gpu;
      gpu.label = gpu.bus_id = pci.bus_id;
      gpu.name = info(element, "PCIDevice");
      gpu.numa = pci.numa;
      gpu.pcie_gb_per_s = pci.gb_per_s;
      node_.gpus.push_back(std::move(gpu));
    }
  }

  void read_os_device(const XmlElement& element, const Place& place) {
    const std::string name = clean_text(element.get("name"));
    if (name.empty()) return;
    switch (kind_of(element, bits_)) {
      case Kind::network: return read_interface(element, name, place);
      case Kind::openfabrics: return read_hca(element, name, place);
      case Kind::gpu: return read_gpu(element, name, place);
      default: return;
    }
  }

  void read_gpu(const XmlElement& element, const std::string& name, const Place& place) {
    if (!name.starts_with("nvml") || !place.pci) return;  // CUDA numbers GPUs its own way, NVML as nvidia-smi
    const auto gpu = std::find_if(node_.gpus.begin(), node_.gpus.end(), [&](const Gpu& g) { return g.bus_id == place.pci->bus_id; });
    if (gpu == node_.gpus.end()) return;
    const auto index = integer_of(std::string_view(name).substr(4));
    if (index && *index >= 0 && *index < 65536) gpu->index = static_cast<int>(*index);
    if (const std::string model = info(element, "GPUModel"); !model.empty()) gpu->name = model;
    gpu->uuid = info(element, "NVIDIAUUID");
  }

  void read_interface(const XmlElement& element, const std::string& name, const Place& place) {
    if (node_.interfaces.size() >= kMaxNamed) return;
    Interface interface;
    interface.name = name;
    interface.mac = info(element, "Address");
    if (place.pci) interface.bus_id = place.pci->bus_id, interface.kind = "physical";
    if (interface.mac.size() == 59) interface.type = "infiniband";  // IPoIB addresses have 20 bytes
    else if (interface.mac.size() == 17) interface.type = "ethernet";
    const auto port = integer_of(info(element, "Port"));
    if (port && *port > 0 && *port <= 255) netdev_port_[name] = static_cast<int>(*port);
    node_.interfaces.push_back(std::move(interface));
  }

  void read_hca(const XmlElement& element, const std::string& name, const Place& place) {
    if (node_.hcas.size() >= kMaxNamed) return;
    Hca hca;
    hca.name = name;
    hca.node_guid = guid_of(info(element, "NodeGUID"));
    hca.sys_image_guid = guid_of(info(element, "SysImageGUID"));
    hca.numa = place.numa;
    if (place.pci) {
      hca.bus_id = place.pci->bus_id;
      hca.vendor_id = place.pci->vendor == 0x15b3 ? 0x02c9 : place.pci->vendor;
      hca.part_id = place.pci->device;
      hca.device_link = true;
      if (hca.vendor_id == 0x1137) hca.node_type = Hca::NodeType::usnic;
      if (is_efa(place.pci->vendor, place.pci->device)) hca.node_type = Hca::NodeType::unspecified;
    }
    read_ports(element, hca);
    if (hca.ports.empty() && element.children.empty() && !place.pci) hca.port_count = 0;  // hwloc tells every port that there is: "scif0"
    if (!hca.ports.empty()) hca.port_count = static_cast<int>(hca.ports.size());
    infiniband_class_.push_back(place.pci && place.pci->class_code >> 8 == 0x0207);
    node_.hcas.push_back(std::move(hca));
  }

  // Infos "Port1State", "Port1LID", "Port1GID0".
  static void read_ports(const XmlElement& element, Hca& hca) {
    for (const XmlElement& child : element.children) {
      const std::string_view key = child.get("name");
      if (child.name != "info" || !key.starts_with("Port")) continue;
      const auto number = leading_integer(key.substr(4));
      if (!number || *number < 1 || *number > 255 || hca.ports.size() >= kMaxPorts) continue;
      HcaPort* port = Devices::port(hca, *number);
      if (!port) continue;
      const std::string_view field = key.substr(std::min(key.find_first_not_of("0123456789", 4), key.size())), value = child.get("value");
      if (field == "State") port->state = state_of(value);
      const auto lid = integer_of(value);
      if (field == "LID" && lid && *lid >= 0 && *lid <= 65535) port->lid = static_cast<int>(*lid);
      const auto index = field.starts_with("GID") ? integer_of(field.substr(3)) : std::nullopt;
      const std::string address = index ? address_of(value) : "";
      if (index && *index >= 0 && *index < 4096 && !address.empty() && port->gids.size() < 4096) {
        Gid gid;
        gid.index = static_cast<int>(*index);
        gid.address = address;
        port->gids.push_back(std::move(gid));
      }
    }
  }

  static PortState state_of(std::string_view number) {
    constexpr PortState kStates[] = {PortState::unknown, PortState::down, PortState::init, PortState::armed, PortState::active, PortState::active};
    const auto value = integer_of(number);
    return value && *value >= 0 && *value <= 5 ? kStates[*value] : port_state_of(number).value_or(PortState::unknown);
  }

  // The XML has no link layer: InfiniBand by class, LID or an "ib*" netdev of the function, else Ethernet. Netdevs of both kinds: ports of both kinds.
  void settle_ports(Hca& hca, bool infiniband_class) {
    std::vector<const Interface*> netdevs;
    for (const Interface& interface : node_.interfaces) {
      if (!hca.bus_id.empty() && interface.bus_id == hca.bus_id) netdevs.push_back(&interface);
    }
    const bool some_infiniband = std::any_of(netdevs.begin(), netdevs.end(), [](const Interface* i) { return is_infiniband(*i); });
    const bool mixed = some_infiniband && !std::all_of(netdevs.begin(), netdevs.end(), [](const Interface* i) { return is_infiniband(*i); });
    for (HcaPort& port : hca.ports) {
      if (port.lid > 0) port.link_layer = LinkLayer::infiniband;
    }
    const bool stated = !hca.ports.empty();  // hwloc tells the state of every port that there is
    if (!stated && hca.port_count != 0) make_ports(hca, mixed ? 2 : 1);
    std::stable_partition(netdevs.begin(), netdevs.end(), [](const Interface* i) { return is_infiniband(*i); });
    for (const Interface* netdev : netdevs) {
      const LinkLayer layer = is_infiniband(*netdev) ? LinkLayer::infiniband : infiniband_class && !mixed ? LinkLayer::infiniband : LinkLayer::ethernet;
      if (HcaPort* port = port_for(hca, *netdev, layer)) {
        port->link_layer = layer;
        add_netdev(*port, netdev->name);
      }
    }
    for (HcaPort& port : hca.ports) {
      if (port.link_layer != LinkLayer::unknown) continue;
      if (hca.node_type == Hca::NodeType::unspecified) port.link_layer = LinkLayer::unspecified;
      else port.link_layer = infiniband_class || (some_infiniband && !mixed) ? LinkLayer::infiniband : LinkLayer::ethernet;
    }
  }

  static bool is_infiniband(const Interface& netdev) { return netdev.name.starts_with("ib") || netdev.type == "infiniband"; }

  static void make_ports(Hca& hca, int count) {
    for (int number = 1; number <= count; ++number) hca.ports.emplace_back().number = number;
    if (count > 1) hca.port_count = count;
  }

  HcaPort* port_for(Hca& hca, const Interface& netdev, LinkLayer layer) {
    const auto numbered = netdev_port_.find(netdev.name);
    const auto fits = [&](const HcaPort& p) { return p.link_layer == LinkLayer::unknown || p.link_layer == layer; };
    for (HcaPort& port : hca.ports) {
      if (numbered != netdev_port_.end() && port.number == numbered->second && fits(port)) return &port;
    }
    for (HcaPort& port : hca.ports) {
      if (fits(port) && port.netdevs.empty()) return &port;
    }
    for (HcaPort& port : hca.ports) {
      if (fits(port)) return &port;
    }
    return nullptr;
  }

  // A square of bandwidths between GPUs (and switches) in MB/s; the diagonal is filled with a large number.
  void read_nvlinks(const XmlElement& element) {
    const auto count = integer_of(element.get("nbobjs"));
    if (!count || *count < 1 || *count > 1024) return;
    std::vector<std::string> values;
    for (const XmlElement& child : element.children) {
      if (child.name != "u64values") continue;
      for (const std::string_view value : words_of(child.text)) values.emplace_back(value);
    }
    const auto size = static_cast<size_t>(*count);
    if (values.size() != size * size) return remarks_.garbled("distances2 NVLinkBandwidth");
    bool linked = false;
    for (size_t i = 0; i < values.size(); ++i) linked = linked || (i / size != i % size && bytes_of(values[i]) > 0);
    node_.nvlink = linked;
  }

  Node& node_;
  Remarks& remarks_;
  bool bits_ = false;
  std::vector<bool> infiniband_class_;  // of node_.hcas
  std::set<std::string> seen_;
  std::unordered_map<std::string, int> netdev_port_;
};

bool is_hwloc_xml(std::string_view text) {
  const size_t root = find_xml_root(text, "topology");
  return root != text.npos && find_xml_root(text.substr(root), "object") != text.npos;
}

void read_hwloc_xml(Capture& capture) {
  Remarks remarks(capture);
  const XmlDocument document = parse_xml(capture.text.substr(find_xml_root(capture.text, "topology")));
  Reader(capture, remarks).read(document.root);
  Node& node = capture.node;
  keep_what_matters(node);
  if (!document.whole) {
    remarks.add("truncated", Severity::warning, "the XML ends early or is damaged", document.error, "Capture it again, whole.");
    return;
  }
  // An export without I/O devices shows nothing of them; what it shows is all there is.
  node.gpus_complete = node.hcas_complete = true;
  node.pci_complete = !node.pci.empty();
}

}  // namespace

const Importer kHwlocXml{"hwloc XML", is_hwloc_xml, read_hwloc_xml};

}  // namespace dsinfer::topology
