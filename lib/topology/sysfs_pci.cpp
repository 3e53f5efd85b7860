// PCI devices of a sysfs tree: who hangs below whom, how wide the links are, where redirection by ACS is on.
#include <algorithm>
#include <map>

#include "topology/sysfs.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMaxDevices = 16384;
constexpr int kMaxDepth = 24;  // of bridges below bridges

bool is_bridge(uint32_t class_code) { return class_code >> 8 == 0x0604; }

// "sys/devices/pci0000:80/0000:80:02.2/0000:82:00.0" → its bus ids, outermost first, and "pci0000:80".
struct Place {
  std::vector<std::string> bus_ids;
  std::string root;
};
Place place_of(std::string_view path) {
  Place place;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.starts_with("pci") && part.find(':') != part.npos && place.root.empty()) place.root = clean_text(part);
    else if (std::string id = bus_id_of(part); !id.empty()) place.bus_ids.push_back(std::move(id));
    path = slash == path.npos ? std::string_view() : path.substr(slash + 1);
  }
  return place;
}

// Paths below sys/devices of trees that were copied without the links of sys/bus.
void find_devices(const Tree& tree, const std::string& folder, int depth, std::map<std::string, std::string>& paths) {
  if (depth > kMaxDepth) return;
  for (const std::string& name : tree.list(folder)) {
    const std::string id = bus_id_of(name);
    if (id.empty() || paths.size() >= kMaxDevices || tree.link(folder + "/" + name)) continue;
    paths.emplace(id, folder + "/" + name);
    find_devices(tree, folder + "/" + name, depth + 1, paths);
  }
}

std::map<std::string, std::string> device_paths(const Tree& tree) {
  std::map<std::string, std::string> paths;
  for (const std::string& name : tree.list("sys/bus/pci/devices")) {
    const std::string id = bus_id_of(name), path = "sys/bus/pci/devices/" + name;
    if (id.empty() || paths.size() >= kMaxDevices) continue;
    if (tree.link(path)) paths[id] = tree.resolve(path).value_or(path);
    else paths[id] = path;
  }
  const bool linked = std::any_of(paths.begin(), paths.end(), [](const auto& p) { return p.second.starts_with("sys/devices/"); });
  if (linked) return paths;
  std::map<std::string, std::string> found;
  for (const std::string& name : tree.list("sys/devices")) {
    if (name.starts_with("pci") && name.find(':') != name.npos) find_devices(tree, "sys/devices/" + name, 0, found);
  }
  for (auto& [id, path] : paths) found.emplace(id, path);
  return found;
}

uint32_t code(const Tree& tree, const std::string& path) {
  const auto number = tree.number(path);
  return number && *number >= 0 && *number <= 0xffffff ? static_cast<uint32_t>(*number) : 0;
}

// The extended capability ACS (id 0x000d) has its control register at offset 6; bits 2 and 3 redirect requests and completions to the root.
// Reading beyond 256 bytes needs privileges: without them the answer is unknown, not off.
std::optional<bool> acs_redirect(const Tree& tree, const std::string& path) {
  const auto word = [&](size_t offset) -> std::optional<uint32_t> {
    const auto bytes = tree.read(path + "/config", 4, offset);
    if (!bytes || bytes->size() < 4) return std::nullopt;
    uint32_t value = 0;
    for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>((*bytes)[i]);
    return value;
  };
  size_t offset = 0x100;
  for (int i = 0; i < 64; ++i) {  // more capabilities than any device has: a list that runs in circles ends here
    const auto header = word(offset);
    if (!header) return std::nullopt;
    if (*header == 0 || *header == 0xffffffff) return offset == 0x100 && *header != 0 ? std::nullopt : std::optional<bool>(false);
    if ((*header & 0xffff) == 0x000d) {
      const auto control = word(offset + 4);
      return control ? std::optional<bool>((*control >> 16 & 0x0c) != 0) : std::nullopt;
    }
    offset = *header >> 20;
    if (offset < 0x100) return false;
  }
  return std::nullopt;
}

struct LinkSpeed {
  double gt_per_s = 0;
  int width = 0;
};

class Reader {
 public:
  explicit Reader(const Tree& tree) : tree_(tree), paths_(device_paths(tree)) {}

  std::vector<PciDevice> read() {
    std::vector<PciDevice> devices;
    for (const auto& [id, path] : paths_) devices.push_back(device(id, path));
    std::map<std::string, size_t> index;
    for (size_t i = 0; i < devices.size(); ++i) index[devices[i].bus_id] = i;
    for (PciDevice& d : devices) {
      const auto above = index.find(d.parent);
      d.gb_per_s = speed(d.bus_id, above != index.end() && is_bridge(devices[above->second].class_code) ? d.parent : "");
    }
    for (PciDevice& d : devices) {  // −1 is unknown: what is above tells
      std::string up = d.parent;
      for (int i = 0; d.numa < 0 && i < kMaxDepth && index.count(up); ++i) {
        d.numa = devices[index[up]].numa;
        up = devices[index[up]].parent;
      }
    }
    return devices;
  }

 private:
  PciDevice device(const std::string& id, const std::string& path) {
    PciDevice d;
    d.bus_id = id;
    d.class_code = code(tree_, path + "/class");
    d.vendor = code(tree_, path + "/vendor");
    d.device = code(tree_, path + "/device");
    d.numa = static_cast<int>(std::clamp(tree_.number(path + "/numa_node").value_or(-1), -1LL, 65535LL));
    const Place place = place_of(path);
    d.root = place.root;
    if (place.bus_ids.size() > 1 && place.bus_ids.back() == id) d.parent = place.bus_ids[place.bus_ids.size() - 2];
    if (tree_.exists(path + "/physfn")) d.physical_function = pci_function_of(tree_, path + "/physfn");
    if (is_bridge(d.class_code)) d.acs_redirect = acs_redirect(tree_, path);
    if (const auto gt = tree_.line(path + "/max_link_speed")) links_[id].gt_per_s = rate_of(*gt);
    const long long width = tree_.number(path + "/max_link_width").value_or(0);
    if (width > 0 && width <= 32) links_[id].width = static_cast<int>(width);  // 255 = unknown
    return d;
  }

  // Of the link between the device and the bridge above it: the slower speed and the narrower width of both ends.
  double speed(const std::string& id, const std::string& parent) {
    const auto own = links_.find(id), above = links_.find(parent);
    if (own == links_.end() || own->second.gt_per_s <= 0) return 0;
    LinkSpeed link = own->second;
    if (above != links_.end()) {
      if (above->second.gt_per_s > 0) link.gt_per_s = std::min(link.gt_per_s, above->second.gt_per_s);
      if (above->second.width > 0) link.width = link.width > 0 ? std::min(link.width, above->second.width) : above->second.width;
    }
    return pcie_gb_per_s(std::to_string(link.gt_per_s), link.width);
  }

  const Tree& tree_;
  std::map<std::string, std::string> paths_;
  std::map<std::string, LinkSpeed> links_;
};

}  // namespace

std::string pci_function_of(const Tree& tree, const std::string& path) {
  const auto real = tree.resolve(path);
  std::string id;
  if (real) {
    const Place place = place_of(*real);
    if (!place.bus_ids.empty()) id = place.bus_ids.back();
  } else if (const auto text = tree.link(path)) {  // what it leads to was left out, its name still tells
    const Place place = place_of(*text);
    if (!place.bus_ids.empty()) id = place.bus_ids.back();
  }
  if (!id.empty()) return id;
  const auto event = tree.read(path + "/uevent", 4096);
  const size_t slot = event ? event->find("PCI_SLOT_NAME=") : std::string::npos;
  if (slot == std::string::npos) return "";
  const std::string value = event->substr(slot + 14);
  return bus_id_of(value.substr(0, value.find('\n')));
}

std::vector<PciDevice> read_pci(const Tree& tree) { return Reader(tree).read(); }

}  // namespace dsinfer::topology
