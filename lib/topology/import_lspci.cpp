// `lspci` in its forms: plain, -nn, -n, -D, with the indented lines of -v and -vv; and the tree of `lspci -t`, which tells who hangs below whom.
#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <unordered_map>

#include "topology/lines.hpp"
#include "topology/sysfs.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMaxDevices = 16384;

struct ClassName {
  std::string_view name;
  uint32_t code;  // upper 16 bits of the class
};
// As pci.ids names them; only classes that matter here, and those that begin most listings.
constexpr std::array kClasses = {ClassName{"Ethernet controller", 0x0200}, ClassName{"Infiniband controller", 0x0207}, ClassName{"InfiniBand controller", 0x0207},
                                 ClassName{"Network controller", 0x0280}, ClassName{"Fabric controller", 0x0208}, ClassName{"3D controller", 0x0302},
                                 ClassName{"VGA compatible controller", 0x0300}, ClassName{"Display controller", 0x0380}, ClassName{"PCI bridge", 0x0604},
                                 ClassName{"Host bridge", 0x0600}, ClassName{"Bridge", 0x0680}, ClassName{"ISA bridge", 0x0601},
                                 ClassName{"InfiniBand", 0x0c06}, ClassName{"Infiniband", 0x0c06}, ClassName{"Processing accelerators", 0x1200},
                                 ClassName{"Co-processor", 0x0b40}, ClassName{"Non-Volatile memory controller", 0x0108}, ClassName{"SATA controller", 0x0106},
                                 ClassName{"USB controller", 0x0c03}, ClassName{"Audio device", 0x0403}, ClassName{"SCSI storage controller", 0x0100},
                                 ClassName{"Communication controller", 0x0780}, ClassName{"System peripheral", 0x0880}, ClassName{"RAID bus controller", 0x0104}};

struct VendorName {
  std::string_view name;
  uint32_t id;
};
constexpr std::array kVendors = {VendorName{"NVIDIA Corporation", 0x10de}, VendorName{"nVidia Corporation", 0x10de}, VendorName{"Mellanox Technologies", 0x15b3},
                                 VendorName{"Intel Corporation", 0x8086}, VendorName{"Broadcom Inc", 0x14e4}, VendorName{"Broadcom NetXtreme", 0x14e4},
                                 VendorName{"Amazon.com", 0x1d0f}, VendorName{"Matrox", 0x102b}, VendorName{"ASPEED", 0x1a03}, VendorName{"Red Hat", 0x1af4},
                                 VendorName{"Advanced Micro Devices", 0x1022}, VendorName{"Alibaba", 0x1ded}, VendorName{"Cisco Systems", 0x1137},
                                 VendorName{"Chelsio", 0x1425}, VendorName{"Google", 0x1ae0}, VendorName{"Microsoft", 0x1414}, VendorName{"VMware", 0x15ad},
                                 VendorName{"Pensando", 0x1dd8}, VendorName{"QLogic", 0x1077}};

uint32_t vendor_of(std::string_view text) {
  for (const VendorName& v : kVendors) {
    if (text.starts_with(v.name)) return v.id;
  }
  return 0;
}

bool hexadecimal(std::string_view text) { return !text.empty() && text.find_first_not_of("0123456789abcdefABCDEF") == text.npos; }
uint32_t hex_value(std::string_view text) {
  uint32_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return value;
}

// "[0200]" → 0x0200; nullopt for other brackets.
std::optional<uint32_t> bracketed_class(std::string_view text) {
  if (!text.ends_with("]") || text.size() < 6 || text[text.size() - 6] != '[' || !hexadecimal(text.substr(text.size() - 5, 4))) return std::nullopt;
  return hex_value(text.substr(text.size() - 5, 4));
}

// The last "[vvvv:dddd]" of a description.
void read_ids(std::string_view text, PciDevice& d) {
  for (size_t at = text.rfind('['); at != text.npos; at = at == 0 ? text.npos : text.rfind('[', at - 1)) {
    const std::string_view inner = text.substr(at + 1, 9);
    if (text.size() < at + 11 || text[at + 10] != ']' || inner[4] != ':' || !hexadecimal(inner.substr(0, 4)) || !hexadecimal(inner.substr(5))) continue;
    d.vendor = hex_value(inner.substr(0, 4));
    d.device = hex_value(inner.substr(5));
    return;
  }
}

// "NVIDIA Corporation GA102GL [A10] [10de:2236] (rev a1)" → "NVIDIA A10".
std::string gpu_name(std::string_view description) {
  for (size_t at = description.find('['); at != description.npos; at = description.find('[', at + 1)) {
    const size_t end = description.find(']', at);
    if (end == description.npos) return "";
    const std::string_view inner = description.substr(at + 1, end - at - 1);
    if (inner.find(':') == inner.npos && !inner.empty()) return "NVIDIA " + clean_text(inner);
  }
  return "";
}

// The first line of a device: bus id, class, description. nullopt for all other lines.
std::optional<PciDevice> device_of(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == line.npos || space < 7 || space > 16) return std::nullopt;
  PciDevice d;
  d.bus_id = bus_id_of(line.substr(0, space));
  if (d.bus_id.empty()) return std::nullopt;
  const std::string_view rest = trim(line.substr(space + 1));
  const size_t colon = rest.find(": ");
  if (colon == rest.npos) return std::nullopt;
  const std::string_view name = trim(rest.substr(0, colon)), text = trim(rest.substr(colon + 2));
  if (name.size() == 4 && hexadecimal(name)) {  // -n: "04:00.0 0200: 15b3:101d"
    if (text.size() < 9 || text[4] != ':' || !hexadecimal(text.substr(0, 4)) || !hexadecimal(text.substr(5, 4))) return std::nullopt;
    d.class_code = hex_value(name) << 8;
    d.vendor = hex_value(text.substr(0, 4));
    d.device = hex_value(text.substr(5, 4));
    return d;
  }
  if (const auto code = bracketed_class(name)) {
    d.class_code = *code << 8;
  } else {
    for (const ClassName& c : kClasses) {
      if (name == c.name) d.class_code = c.code << 8;
    }
    if (d.class_code == 0 && (name.size() > 48 || !std::isupper(static_cast<unsigned char>(name.empty() ? ' ' : name[0])))) return std::nullopt;
  }
  read_ids(text, d);
  if (d.vendor == 0) d.vendor = vendor_of(text);
  d.description = clean_text(text);
  return d;
}

class Listing {
 public:
  explicit Listing(Node& node) : node_(node) {}

  void read(std::string_view text) {
    for (const std::string_view line : split_lines(text)) {
      if (auto d = device_of(line)) begin(std::move(*d));
      else if (current_ < node_.pci.size() && (line.starts_with("\t") || line.starts_with(" "))) detail(trim(line));
    }
    for (PciDevice& d : node_.pci) {
      const auto above = bridge_of_bus_.find(d.bus_id.substr(0, d.bus_id.rfind(':')));
      if (above != bridge_of_bus_.end() && above->second != d.bus_id) d.parent = above->second;
    }
    conclude();
  }

 private:
  void begin(PciDevice d) {
    const auto place = index_.find(d.bus_id);
    if (place == index_.end() && node_.pci.size() >= kMaxDevices) {
      current_ = kMaxDevices;  // its details are nobody's
      return;
    }
    all_nvidia_ = all_nvidia_ && d.vendor == 0x10de;
    host_bridge_ = host_bridge_ || d.class_code >> 8 == 0x0600;
    if (place != index_.end()) {  // the same function again, from another listing
      current_ = place->second;
      PciDevice& known = node_.pci[current_];
      if (known.class_code == 0) known.class_code = d.class_code;
      if (known.vendor == 0) known.vendor = d.vendor;
      if (known.device == 0) known.device = d.device;
      if (known.description.empty()) known.description = d.description;
    } else {
      current_ = node_.pci.size();
      index_.emplace(d.bus_id, current_);
      node_.pci.push_back(std::move(d));
    }
  }

  void detail(std::string_view line) {
    PciDevice& d = node_.pci[current_];
    if (line.starts_with("NUMA node:")) {
      const auto numa = integer_of(trim(line.substr(10)));
      if (numa && *numa >= 0 && *numa < 65536) d.numa = static_cast<int>(*numa);
    } else if (line.starts_with("LnkCap:")) {  // "Port #0, Speed 32GT/s, Width x16, ASPM …"
      const size_t speed = line.find("Speed "), width = line.find("Width x");
      if (speed == line.npos || width == line.npos) return;
      const auto lanes = leading_integer(line.substr(width + 7));
      if (lanes && *lanes > 0 && *lanes <= 32) d.gb_per_s = pcie_gb_per_s(line.substr(speed + 6), static_cast<int>(*lanes));
    } else if (line.starts_with("ACSCtl:")) {
      d.acs_redirect = line.find("ReqRedir+") != line.npos || line.find("CmpltRedir+") != line.npos;
    } else if (line.starts_with("Bus: primary=")) {  // "primary=00, secondary=15, subordinate=1a"
      const size_t at = line.find("secondary=");
      if (at == line.npos || at + 12 > line.size() || !hexadecimal(line.substr(at + 10, 2))) return;
      bridge_of_bus_[d.bus_id.substr(0, d.bus_id.find(':')) + ":" + lower_case(line.substr(at + 10, 2))] = d.bus_id;
    }
  }

  // A whole listing begins with the host bridge; what somebody filtered for NVIDIA shows all GPUs too.
  void conclude() {
    for (const PciDevice& d : node_.pci) {
      if (is_gpu_class(d.class_code, d.vendor) && node_.gpus.size() < 1024) {
        Gpu gpu;
        gpu.label = gpu.bus_id = d.bus_id;
        gpu.name = gpu_name(d.description);
        gpu.numa = d.numa;
        gpu.pcie_gb_per_s = d.gb_per_s;
        node_.gpus.push_back(std::move(gpu));
      }
      const bool efa = is_efa(d.vendor, d.device), infiniband = d.class_code >> 8 == 0x0207;
      if ((efa || infiniband) && node_.hcas.size() < 1024) add_hca(d, efa);
    }
    node_.pci_complete = host_bridge_;
    node_.gpus_complete = host_bridge_ || (all_nvidia_ && !node_.gpus.empty());
    keep_what_matters(node_);
  }

  void add_hca(const PciDevice& d, bool efa) {  // its verbs name is not in the listing
    Hca& hca = node_.hcas.emplace_back();
    hca.bus_id = d.bus_id;
    hca.vendor_id = d.vendor == 0x15b3 ? 0x02c9 : d.vendor;
    hca.part_id = d.device;
    hca.numa = d.numa;
    if (efa) hca.node_type = Hca::NodeType::unspecified;
    hca.ports.emplace_back().link_layer = efa ? LinkLayer::unspecified : LinkLayer::infiniband;
  }

  Node& node_;
  size_t current_ = SIZE_MAX;
  std::unordered_map<std::string, size_t> index_;
  std::unordered_map<std::string, std::string> bridge_of_bus_;  // "0000:15" → the bridge whose secondary bus it is
  bool host_bridge_ = false, all_nvidia_ = true;
};

bool is_listing(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    const auto d = device_of(line);
    return d && d->class_code != 0;
  });
}
void read_listing(Capture& capture) { Listing(capture.node).read(capture.text); }

// ---- the tree ----
//  -+-[0000:80]-+-02.2-[82]----00.0  Mellanox Technologies MT27500 Family [ConnectX-3]
//   \-[0000:00]-+-00.0  Intel Corporation Device
//               \-01.1-[02-03]--+-00.0
//                               \-00.3
class PciTree {
 public:
  explicit PciTree(Node& node) : node_(node) {}

  void read(std::string_view text) {
    for (const std::string_view line : split_lines(text)) {
      if (line.find("-[") == line.npos && line.find("+-") == line.npos && line.find("\\-") == line.npos) continue;
      read_line(line);
    }
    // a device whose class the tree does not tell is a GPU if nothing else of NVIDIA's has such a name
    for (const PciDevice& d : node_.pci) {
      if (is_gpu_class(d.class_code, d.vendor) && node_.gpus.size() < 1024) {
        Gpu gpu;
        gpu.label = gpu.bus_id = d.bus_id;
        gpu.name = gpu_name(d.description);
        node_.gpus.push_back(std::move(gpu));
      }
    }
  }

 private:
  struct Bus {
    std::string domain, number, bridge, root;  // "0000", "82", bus id of the bridge above
  };

  void read_line(std::string_view line) {
    Bus bus;
    bool known = false;
    size_t at = 0;
    while (at < line.size()) {
      const char c = line[at];
      if (c == ' ' || c == '|') {
        ++at;
      } else if (c == '+' || c == '\\') {  // a branch: what bus hangs here was said in the line where the branch began
        if (!known) {
          const auto begun = branches_.find(at);
          if (begun != branches_.end()) bus = begun->second, known = true;
        } else {
          branches_[at] = bus;
        }
        branches_.erase(branches_.upper_bound(at), branches_.end());
        ++at;
      } else if (c == '-') {
        ++at;
      } else if (c == '[') {
        const size_t end = line.find(']', at);
        if (end == line.npos || end - at > 20) return;
        enter(line.substr(at + 1, end - at - 1), bus);
        known = true;
        at = end + 1;
      } else if (known && at + 4 <= line.size() && line[at + 2] == '.' && hexadecimal(line.substr(at, 2))) {
        const std::string id = bus_id_of(bus.domain + ":" + bus.number + ":" + std::string(line.substr(at, 4)));
        if (id.empty()) return;
        at += 4;
        const bool bridge = line.substr(at, 2) == "-[";
        add(id, bus, bridge, bridge ? std::string_view() : trim(line.substr(at)));
        if (!bridge) return;
        bus.bridge = id;
      } else {
        return;
      }
    }
  }

  // "[0000:80]" at the root, "[82]" or "[02-03]" behind a bridge.
  static void enter(std::string_view range, Bus& bus) {
    const size_t colon = range.find(':');
    std::string_view number = colon == range.npos ? range : range.substr(colon + 1);
    number = number.substr(0, number.find('-'));
    if (colon != range.npos) bus.domain = clean_text(range.substr(0, colon));
    if (bus.domain.empty()) bus.domain = "0000";
    bus.number = clean_text(number);
    if (bus.bridge.empty()) bus.root = "pci" + bus.domain + ":" + bus.number;
  }

  void add(const std::string& id, const Bus& bus, bool bridge, std::string_view description) {
    if (node_.pci.size() >= kMaxDevices) return;
    PciDevice d;
    d.bus_id = id;
    d.parent = bus.bridge;
    d.root = bus.root;
    d.description = clean_text(description);
    read_ids(description, d);
    if (d.vendor == 0) d.vendor = vendor_of(description);
    const auto says = [&](std::string_view word) { return description.find(word) != description.npos; };
    if (bridge) d.class_code = 0x060400;
    else if (d.vendor == 0x10de && says("NVSwitch")) d.class_code = 0x068000;
    else if (d.vendor == 0x10de && !gpu_name(description).empty() && !says("Audio") && !says("USB") && !says("Bridge") && !says("UCSI")) d.class_code = 0x030200;
    else if (says("Ethernet")) d.class_code = 0x020000;
    node_.pci.push_back(std::move(d));
  }

  Node& node_;
  std::map<size_t, Bus> branches_;  // by column
};

bool is_tree(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    const size_t root = line.find("-[");
    if (root == line.npos || root > 4 || line.size() < root + 9) return false;
    const size_t end = line.find(']', root);
    if (end == line.npos) return false;
    const std::string_view range = line.substr(root + 2, end - root - 2);
    const size_t colon = range.find(':');
    return colon != range.npos && colon >= 4 && hexadecimal(range.substr(0, colon)) && range.size() >= colon + 3 && hexadecimal(range.substr(colon + 1, 2)) &&
           line.find('.', end) != line.npos;
  });
}
void read_tree(Capture& capture) { PciTree(capture.node).read(capture.text); }

}  // namespace

const Importer kLspci{"lspci", is_listing, read_listing};
const Importer kLspciTree{"lspci -t", is_tree, read_tree};

}  // namespace dsinfer::topology
