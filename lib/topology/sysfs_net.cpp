// Network interfaces of a sysfs tree. Their addresses are not in it; default routes are, where /proc/net was captured too.
#include <algorithm>
#include <charconv>
#include <map>

#include "topology/sysfs.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMaxInterfaces = 4096, kMaxMembers = 256;
const std::string kClass = "sys/class/net/";

std::string text(const Tree& tree, const std::string& path) { return clean_text(tree.line(path).value_or("")); }

std::string last_part(const std::string& path) { return path.substr(path.rfind('/') + 1); }

void add(std::vector<std::string>& names, std::string name) {
  if (!name.empty() && names.size() < kMaxMembers && std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
}

// "DEVTYPE=vlan" of the uevent file.
std::string device_type(const Tree& tree, const std::string& base) {
  const std::string event = "\n" + tree.read(base + "/uevent", 4096).value_or("");
  const size_t at = event.find("\nDEVTYPE=");
  return at == event.npos ? "" : event.substr(at + 9, event.find('\n', at + 1) - at - 9);
}

std::string kind_of(const Tree& tree, const std::string& base, const std::string& name, const Interface& interface) {
  const std::string type = device_type(tree, base);
  const long long link_type = tree.number(base + "/type").value_or(-1);
  if (link_type == 772 || (link_type < 0 && name == "lo")) return "loopback";
  if (type == "bond" || tree.exists(base + "/bonding")) return "bond";
  if (type == "bridge" || tree.exists(base + "/bridge")) return "bridge";
  if (type == "vlan" || type == "macvlan" || type == "ipvlan") return type;
  if (type == "wireguard" || type == "vxlan" || type == "geneve" || type == "gre" || type.starts_with("ip6gre")) return "tunnel";
  if (tree.exists(base + "/tun_flags") || (link_type >= 768 && link_type <= 769) || link_type == 776 || link_type == 778 || link_type == 65534) return "tunnel";
  if (tree.exists(base + "/device")) return "physical";
  const std::string place = tree.resolve(base).value_or(tree.link(base).value_or(""));
  const bool is_virtual = place.find("devices/virtual/") != place.npos;
  if (place.find("/net/") != place.npos && !is_virtual && place.find("devices/") != place.npos) return "physical";
  const auto index = tree.number(base + "/ifindex"), peer = tree.number(base + "/iflink");
  if (is_virtual && link_type == 1 && index && peer && *index != *peer && interface.lower.empty()) return "veth";
  return is_virtual ? "virtual" : "";
}

// The flag RUNNING is not kept in sysfs: operstate and carrier stand for it.
std::optional<bool> is_up(const Tree& tree, const std::string& base) {
  const auto flags = tree.number(base + "/flags");
  if (flags && (*flags & 1) == 0) return false;
  const std::string state = text(tree, base + "/operstate");
  if (state == "up") return true;
  if (state == "down" || state == "lowerlayerdown" || state == "notpresent" || state == "dormant") return false;
  if (const auto carrier = tree.number(base + "/carrier")) return *carrier == 1;
  return std::nullopt;
}

Interface read_interface(const Tree& tree, const std::string& name) {
  const std::string base = kClass + name;
  Interface interface;
  interface.name = clean_text(name);
  interface.up = is_up(tree, base);
  const long long mtu = tree.number(base + "/mtu").value_or(0), speed = tree.number(base + "/speed").value_or(0);
  if (mtu > 0 && mtu < 1 << 30) interface.mtu = static_cast<int>(mtu);
  if (speed > 0 && speed < 1LL << 31) interface.speed_mbps = speed;  // 4294967295 = unknown on some kernels
  const long long type = tree.number(base + "/type").value_or(-1);
  interface.type = type == 1 ? "ethernet" : type == 32 ? "infiniband" : type == 772 ? "loopback" : "";
  interface.mac = text(tree, base + "/address");
  if (interface.mac.find_first_not_of("0:") == interface.mac.npos) interface.mac.clear();
  interface.master = clean_text(last_part(tree.link(base + "/master").value_or("")));
  if (tree.exists(base)) {
    for (const std::string& entry : tree.list(base)) {
      if (entry.starts_with("lower_")) add(interface.lower, clean_text(entry.substr(6)));
    }
  }
  for (const std::string& member : tree.list(base + "/brif")) add(interface.lower, clean_text(member));
  std::string slaves = text(tree, base + "/bonding/slaves");
  for (size_t at = 0; at < slaves.size();) {
    const size_t end = std::min(slaves.find(' ', at), slaves.size());
    add(interface.lower, slaves.substr(at, end - at));
    at = end + 1;
  }
  interface.kind = kind_of(tree, base, name, interface);
  if (interface.type.empty() && interface.kind == "loopback") interface.type = "loopback";
  if (interface.kind == "physical") interface.bus_id = pci_function_of(tree, base);
  if (interface.kind == "physical" && interface.bus_id.empty()) interface.bus_id = pci_function_of(tree, base + "/device");
  return interface;
}

// Lines "eth0 00000000 0100A8C0 0003 …" of /proc/net/route: destination 0 with mask 0 is the default, flag 1 = up.
void read_default_route(const Tree& tree, std::vector<Interface>& interfaces) {
  const std::string routes = tree.read("proc/net/route").value_or("");
  for (size_t at = 0; at < routes.size();) {
    const size_t end = std::min(routes.find('\n', at), routes.size());
    std::vector<std::string> words;
    for (size_t i = at; i < end && words.size() < 8;) {
      const size_t stop = std::min(routes.find_first_of(" \t", i), end);
      if (stop > i) words.push_back(routes.substr(i, stop - i));
      i = stop + 1;
    }
    at = end + 1;
    if (words.size() < 8 || words[1] != "00000000" || words[7] != "00000000") continue;
    unsigned flags = 0;
    std::from_chars(words[3].data(), words[3].data() + words[3].size(), flags, 16);
    for (Interface& interface : interfaces) {
      if ((flags & 1) != 0 && interface.name == clean_text(words[0])) interface.default_route = true;
    }
  }
}

}  // namespace

std::vector<Interface> read_interfaces(const Tree& tree) {
  std::vector<std::pair<long long, Interface>> numbered;
  for (const std::string& name : tree.list("sys/class/net")) {
    if (name == "bonding_masters" || numbered.size() >= kMaxInterfaces) continue;  // a file of the bonding driver
    numbered.emplace_back(tree.number(kClass + name + "/ifindex").value_or(1LL << 32), read_interface(tree, name));
  }
  std::stable_sort(numbered.begin(), numbered.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Interface> interfaces;
  for (auto& item : numbered) interfaces.push_back(std::move(item.second));
  read_default_route(tree, interfaces);
  return interfaces;
}

}  // namespace dsinfer::topology
