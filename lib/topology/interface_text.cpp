#include "topology/interface_text.hpp"

#include <algorithm>
#include <array>

namespace dsinfer::topology {
namespace {

bool has_flag(std::string_view flags, std::string_view flag) {
  while (!flags.empty()) {
    const size_t end = std::min(flags.find_first_of(", "), flags.size());
    if (flags.substr(0, end) == flag) return true;
    flags.remove_prefix(std::min(end + 1, flags.size()));
  }
  return false;
}

bool is_index(std::string_view parent) {  // "if5"
  return parent.starts_with("if") && parent.size() > 2 && integer_of(parent.substr(2)).has_value();
}

}  // namespace

Interface* add_named(Devices& devices, std::string_view text) {
  const size_t at = text.find('@');
  const std::string_view parent = at == text.npos ? "" : text.substr(at + 1);
  Interface* interface = devices.interface(text.substr(0, at));
  if (!interface || parent.empty() || parent == "NONE" || is_index(parent)) return interface;
  const std::string lower = clean_text(parent.substr(0, 64));
  if (interface->lower.size() < 64 && std::find(interface->lower.begin(), interface->lower.end(), lower) == interface->lower.end())
    interface->lower.push_back(lower);
  return interface;
}

void settle_links(Node& node) {
  std::unordered_map<std::string, size_t> index;
  for (size_t i = 0; i < node.interfaces.size(); ++i) index.emplace(node.interfaces[i].name, i);
  for (Interface& interface : node.interfaces) {
    if (interface.lower.size() != 1) continue;
    const auto found = index.find(interface.lower[0]);
    if (found == index.end()) continue;
    Interface& other = node.interfaces[found->second];
    if (&other == &interface || other.lower != std::vector<std::string>{interface.name}) continue;
    for (Interface* end : {&interface, &other}) {
      end->lower.clear();
      if (end->kind.empty()) end->kind = "veth";
    }
  }
  for (const Interface& member : node.interfaces) {
    const auto found = member.master.empty() ? index.end() : index.find(member.master);
    if (found == index.end()) continue;
    std::vector<std::string>& lower = node.interfaces[found->second].lower;
    if (lower.size() < 256 && std::find(lower.begin(), lower.end(), member.name) == lower.end()) lower.push_back(member.name);
  }
}

// Administratively up, and running: the kernel sets RUNNING for the operational states UP and UNKNOWN; ip prints NO-CARRIER instead of leaving it out.
void set_flags(Interface& interface, std::string_view flags, std::string_view state) {
  const bool running = !has_flag(flags, "NO-CARRIER") && !has_flag(flags, "M-DOWN") && (state.empty() || state == "UP" || state == "UNKNOWN");
  interface.up = has_flag(flags, "UP") && running;
  if (has_flag(flags, "LOOPBACK")) {
    interface.type = "loopback";
    interface.kind = "loopback";
  }
}

void set_mtu(Interface& interface, std::string_view text) {
  const auto mtu = leading_integer(text);
  if (mtu && *mtu > 0 && *mtu <= 1 << 24) interface.mtu = static_cast<int>(*mtu);
}

std::string interface_type(std::string_view word) {
  if (word == "ether") return "ethernet";
  return clean_text(word.substr(0, 32));
}

std::string kind_of_link(std::string_view word) {
  struct Kind { std::string_view word, kind; };
  constexpr std::array<Kind, 30> kinds = {{{"vlan", "vlan"},         {"bond", "bond"},       {"team", "bond"},        {"bridge", "bridge"},
                                           {"openvswitch", "bridge"}, {"veth", "veth"},       {"macvlan", "macvlan"},  {"macvtap", "macvlan"},
                                           {"ipvlan", "ipvlan"},     {"ipvtap", "ipvlan"},   {"tun", "tunnel"},       {"tap", "tunnel"},
                                           {"vxlan", "tunnel"},      {"geneve", "tunnel"},   {"gre", "tunnel"},       {"gretap", "tunnel"},
                                           {"ip6gre", "tunnel"},     {"ip6gretap", "tunnel"}, {"erspan", "tunnel"},   {"ip6erspan", "tunnel"},
                                           {"ipip", "tunnel"},       {"sit", "tunnel"},      {"ip6tnl", "tunnel"},    {"vti", "tunnel"},
                                           {"vti6", "tunnel"},       {"wireguard", "tunnel"}, {"xfrm", "tunnel"},     {"dummy", "dummy"},
                                           {"ifb", "dummy"},         {"vrf", "vrf"}}};
  for (const Kind& known : kinds) {
    if (word == known.word) return std::string(known.kind);
  }
  return "";
}

void DefaultRoute::offer(const std::string& name, int64_t its_metric, bool its_ipv6) {
  const bool better = interface.empty() || (ipv6 && !its_ipv6) || (ipv6 == its_ipv6 && its_metric < metric);
  if (!better) return;
  interface = name;
  metric = its_metric;
  ipv6 = its_ipv6;
}

void finish_default(Node& node, const DefaultRoute& route) {
  for (Interface& interface : node.interfaces) {
    if (interface.name == route.interface && !route.interface.empty()) interface.default_route = true;
  }
}

}  // namespace dsinfer::topology
