// NCCL's topology file, as NCCL dumps it (NCCL_TOPO_DUMP_FILE, with gpu and net elements), as providers ship it for NCCL_TOPO_FILE (pci
// elements alone) or as a skeleton of bus ids, to be filled on the machine.
#include <algorithm>
#include <charconv>
#include <set>

#include "topology/cpu_list.hpp"
#include "topology/lines.hpp"
#include "topology/xml.hpp"

namespace dsinfer::topology {
namespace {

constexpr uint32_t kMellanox = 0x15b3;
constexpr size_t kMaxDevices = 16384, kMaxGpus = 1024, kMaxHcas = 1024, kMaxNets = 8192;

uint32_t code_of(std::string_view text) {
  const auto value = integer_of(text);
  return value && *value > 0 && *value <= 0xffffff ? static_cast<uint32_t>(*value) : 0;
}
int small_integer(std::string_view text, int otherwise) {
  const auto value = integer_of(text);
  return value && *value >= -1 && *value <= 1 << 24 ? static_cast<int>(*value) : otherwise;
}
// NCCL prints the big-endian GUID as a little-endian number: "0x9a70500003ae6d94" is 946d:ae03:0050:709a.
std::string guid_of_number(std::string_view text) {
  uint64_t number = 0;
  if (!text.starts_with("0x")) return "";
  const auto [end, error] = std::from_chars(text.data() + 2, text.data() + text.size(), number, 16);
  if (error != std::errc() || end != text.data() + text.size() || number == 0) return "";
  constexpr char kDigits[] = "0123456789abcdef";
  std::string guid;
  for (int byte = 0; byte < 8; ++byte, number >>= 8) {
    if (byte > 0 && byte % 2 == 0) guid += ':';
    (guid += kDigits[number >> 4 & 15]) += kDigits[number & 15];
  }
  return guid;
}

class Reader {
 public:
  Reader(Capture& capture, Remarks& remarks) : node_(capture.node), remarks_(remarks) {}

  void read(const XmlElement& system) {
    for (const XmlElement& element : system.children) {
      if (element.name == "cpu") read_cpu(element);
      else if (element.name == "pci" || element.name == "nic") read_device(element, nullptr, -1, "");
    }
    add_unnamed_hcas();
    std::stable_sort(interfaces_.begin(), interfaces_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (auto& item : interfaces_) node_.interfaces.push_back(std::move(item.second));
  }

  // What a file says by leaving things out.
  void conclude(bool whole) {
    const bool classes = std::any_of(node_.pci.begin(), node_.pci.end(), [](const PciDevice& d) { return d.class_code != 0; });
    node_.gpus_complete = whole && (classes || gpu_elements_ > 0);
    node_.pci_complete = whole && classes;
    node_.hcas_complete = whole && net_elements_ > 0;
    if (peer_links_) node_.nvlink = true;
    else if (whole && gpu_elements_ > 0 && gpu_elements_ == node_.gpus.size() && !self_links_) node_.nvlink = false;
  }

 private:
  void read_cpu(const XmlElement& cpu) {
    const std::string host = std::string(cpu.get("host_hash"));
    if (!host.empty() && host_.empty()) host_ = host;
    if (host != host_) {  // a domain of NVLink over several hosts is dumped as one file
      if (!other_hosts_) remarks_.add("several-hosts", Severity::info, "the file holds several hosts; the first is taken", "host_hash=" + host, "");
      other_hosts_ = true;
      return;
    }
    const int numa = small_integer(cpu.get("numaid"), -1);
    if (numa >= 0 && node_.host.numa.size() < 4096) {
      NumaNode here;
      here.id = numa;
      here.cpus = cpu_list_of_mask(cpu.get("affinity"));
      node_.host.numa.push_back(std::move(here));
    }
    if (node_.host.arch.empty()) node_.host.arch = clean_text(cpu.get("arch"));
    const std::string root = "numa" + std::to_string(numa);
    for (const XmlElement& element : cpu.children) read_device(element, nullptr, numa, root);
  }

  void read_device(const XmlElement& element, const PciDevice* above, int numa, const std::string& root) {
    if (element.name == "pci") read_pci(element, above, numa, root);
    if (element.name == "nic") read_nic(element, above, numa);
    if (element.name == "gpu" && above) read_gpu(element, *above);
    if (element.name == "net") add_net(element, above, numa, 0);
  }

  void read_pci(const XmlElement& element, const PciDevice* above, int numa, const std::string& root) {
    PciDevice d;
    d.bus_id = bus_id_of(element.get("busid"));
    if (d.bus_id.empty()) remarks_.garbled("pci busid=\"" + std::string(element.get("busid")) + "\"");
    d.class_code = code_of(element.get("class"));
    d.vendor = code_of(element.get("vendor"));
    d.device = code_of(element.get("device"));
    d.parent = above ? above->bus_id : "";
    d.root = root;
    d.numa = numa;
    d.gb_per_s = pcie_gb_per_s(element.get("link_speed"), small_integer(element.get("link_width"), 0));  // NCCL wrote the lower of both ends
    const bool fresh = !d.bus_id.empty() && node_.pci.size() < kMaxDevices && seen_.insert(d.bus_id).second;
    if (fresh) node_.pci.push_back(d);
    if (fresh && is_gpu_class(d.class_code, d.vendor) && node_.gpus.size() < kMaxGpus) gpu_at(d);
    for (const XmlElement& child : element.children) read_device(child, &d, numa, root);
  }

  Gpu& gpu_at(const PciDevice& pci) {
    const auto found = std::find_if(node_.gpus.begin(), node_.gpus.end(), [&](const Gpu& g) { return g.bus_id == pci.bus_id; });
    if (found != node_.gpus.end()) return *found;
    Gpu gpu;
    gpu.label = gpu.bus_id = pci.bus_id;
    gpu.numa = pci.numa;
    gpu.pcie_gb_per_s = pci.gb_per_s;
    return node_.gpus.emplace_back(std::move(gpu));
  }

  void read_gpu(const XmlElement& element, const PciDevice& pci) {
    if (pci.bus_id.empty() || node_.gpus.size() >= kMaxGpus) return;
    ++gpu_elements_;
    Gpu& gpu = gpu_at(pci);
    gpu.index = small_integer(element.get("dev"), -1);
    const int sm = small_integer(element.get("sm"), 0);  // 90 = compute capability 9.0, 120 = 12.0
    if (sm > 0) gpu.compute_major = sm / 10, gpu.compute_minor = sm % 10;
    if (element.has("gdr")) gpu.gdr = element.get("gdr") != "0";
    for (const XmlElement& link : element.children) {
      if (link.name == "nvlink") read_nvlink(link, gpu);
      if (link.name == "c2c" && gpu.nvlinks.size() < 256) {
        NvLink chip;
        chip.remote = NvLink::Remote::cpu;
        chip.count = std::clamp(small_integer(link.get("count"), 1), 1, 1024);
        gpu.nvlinks.push_back(std::move(chip));
      }
    }
  }

  void read_nvlink(const XmlElement& element, Gpu& gpu) {
    const int count = small_integer(element.get("count"), 0);
    const uint32_t target_class = code_of(element.get("tclass"));
    const std::string target = bus_id_of(element.get("target"));
    if (count <= 0 || count > 1024) return;
    if (target == gpu.bus_id) {  // no peer link: Azure's virtual machines list it for PCIe cards in pairs
      self_links_ = true;
      return;
    }
    NvLink link;
    if (target_class == 0x068000) link.remote = NvLink::Remote::nvswitch;
    else if (target_class == 0x068001) link.remote = NvLink::Remote::cpu;  // POWER
    else if (target_class >> 16 == 0x03) link.remote = NvLink::Remote::gpu;
    link.remote_bus_id = target;
    link.count = count;
    peer_links_ = peer_links_ || link.remote != NvLink::Remote::cpu;
    const auto same = std::find_if(gpu.nvlinks.begin(), gpu.nvlinks.end(),
                                   [&](const NvLink& l) { return l.remote == link.remote && l.remote_bus_id == link.remote_bus_id; });
    if (same != gpu.nvlinks.end()) same->count = std::min(same->count + count, 1024);
    else if (gpu.nvlinks.size() < 256) gpu.nvlinks.push_back(std::move(link));
  }

  void read_nic(const XmlElement& element, const PciDevice* above, int numa) {
    int position = 0;
    for (const XmlElement& child : element.children) {
      if (child.name == "net") add_net(child, above, numa, position++);
    }
  }

  void add_net(const XmlElement& net, const PciDevice* pci, int numa, int position) {
    const std::string name = clean_text(net.get("name"));
    const int port = small_integer(net.get("port"), -1);
    if (name.empty() || net_elements_ >= kMaxNets) return;
    ++net_elements_;
    if (port <= 0) return add_interface(net, name, pci);
    size_t members = 1 + static_cast<size_t>(std::count(name.begin(), name.end(), '+'));  // ports that NCCL fused: "mlx5_0+mlx5_1"
    for (size_t at = 0, i = 0; at <= name.size() && i < 16; ++i) {
      const size_t end = std::min(name.find('+', at), name.size());
      std::string member = name.substr(at, end - at);
      if (const size_t colon = member.find(':'); colon != member.npos) member.resize(colon);
      if (!member.empty()) add_port(net, member, pci, numa, port, position + static_cast<int>(i), members);
      at = end + 1;
    }
  }

  // NCCL adds to the port number how many ports of the card came before, so that merged ports differ: 2 may be port 1 of the second function.
  static int port_number(const Hca& hca, int printed, int position) {
    const auto taken = [&](int number) {
      return std::any_of(hca.ports.begin(), hca.ports.end(), [&](const HcaPort& p) { return p.number == number; });
    };
    const int own = printed - position;
    return own >= 1 && !taken(own) ? own : printed;
  }

  void add_port(const XmlElement& net, const std::string& name, const PciDevice* pci, int numa, int printed, int position, size_t members) {
    const auto found = std::find_if(node_.hcas.begin(), node_.hcas.end(), [&](const Hca& h) { return h.name == name; });
    if (found == node_.hcas.end() && node_.hcas.size() >= kMaxHcas) return;
    Hca& hca = found != node_.hcas.end() ? *found : node_.hcas.emplace_back();
    hca.name = name;
    if (hca.numa < 0) hca.numa = numa;
    if (pci) describe(hca, *pci);
    if (hca.sys_image_guid.empty()) hca.sys_image_guid = guid_of_number(net.get("guid"));
    if (hca.ports.size() >= 256) return;
    HcaPort port;
    port.number = port_number(hca, printed, position);
    const auto speed = integer_of(net.get("speed"));
    if (speed && *speed > 0 && *speed <= 100000000) port.rate_gbps = static_cast<double>(*speed) / 1000 / static_cast<double>(members);
    port.link_layer = pci ? link_layer(*pci) : LinkLayer::unknown;
    hca.ports.push_back(std::move(port));
  }

  static LinkLayer link_layer(const PciDevice& pci) {
    if (is_efa(pci.vendor, pci.device)) return LinkLayer::unspecified;
    return pci.class_code >> 8 == 0x0207 ? LinkLayer::infiniband : pci.class_code >> 8 == 0x0200 ? LinkLayer::ethernet : LinkLayer::unknown;
  }

  static void describe(Hca& hca, const PciDevice& pci) {
    hca.bus_id = pci.bus_id;
    hca.vendor_id = pci.vendor == kMellanox ? 0x02c9 : pci.vendor;  // as verbs gives it
    hca.part_id = pci.device;
    if (is_efa(pci.vendor, pci.device)) hca.node_type = Hca::NodeType::unspecified;
  }

  void add_interface(const XmlElement& net, const std::string& name, const PciDevice* pci) {
    Interface interface;
    interface.name = name;
    const auto speed = integer_of(net.get("speed"));
    if (speed && *speed > 0 && *speed <= 100000000) interface.speed_mbps = *speed;
    if (pci) interface.bus_id = pci->bus_id, interface.kind = "physical";
    const int dev = small_integer(net.get("dev"), 1 << 24);  // NCCL numbers interfaces in the kernel's order
    const bool known = std::any_of(interfaces_.begin(), interfaces_.end(), [&](const auto& i) { return i.second.name == name; });
    if (!known && interfaces_.size() < 1024) interfaces_.emplace_back(dev, std::move(interface));
  }

  // A provider's file names no device, but an InfiniBand function is an HCA, and an EFA function is an EFA device. Where NCCL listed nets, functions
  // without one were of no use to it.
  void add_unnamed_hcas() {
    for (const PciDevice& pci : node_.pci) {
      const bool efa = is_efa(pci.vendor, pci.device);
      if (!efa && (pci.class_code >> 8 != 0x0207 || net_elements_ > 0)) continue;
      if (std::any_of(node_.hcas.begin(), node_.hcas.end(), [&](const Hca& h) { return h.bus_id == pci.bus_id; })) continue;
      if (node_.hcas.size() >= kMaxHcas) return;
      Hca& hca = node_.hcas.emplace_back();
      describe(hca, pci);
      hca.numa = pci.numa;
      HcaPort port;
      port.link_layer = link_layer(pci);
      hca.ports.push_back(std::move(port));
    }
  }

  Node& node_;
  Remarks& remarks_;
  std::set<std::string> seen_;
  std::vector<std::pair<int, Interface>> interfaces_;  // by NCCL's number
  size_t gpu_elements_ = 0, net_elements_ = 0;
  bool peer_links_ = false, self_links_ = false, other_hosts_ = false;
  std::string host_;
};

bool is_nccl_xml(std::string_view text) {
  const size_t root = find_xml_root(text, "system");
  if (root == text.npos) return false;
  const std::string_view body = text.substr(root);
  return find_xml_root(body, "cpu") != body.npos || find_xml_root(body, "pci") != body.npos || find_xml_root(body, "nic") != body.npos;
}

void read_nccl_xml(Capture& capture) {
  Remarks remarks(capture);
  const XmlDocument document = parse_xml(capture.text.substr(find_xml_root(capture.text, "system")));
  Reader reader(capture, remarks);
  reader.read(document.root);
  reader.conclude(document.whole);
  if (!document.whole) remarks.add("truncated", Severity::warning, "the XML ends early or is damaged", document.error, "Capture it again, whole.");
}

}  // namespace

const Importer kNcclXml{"NCCL topology XML", is_nccl_xml, read_nccl_xml};

}  // namespace dsinfer::topology
