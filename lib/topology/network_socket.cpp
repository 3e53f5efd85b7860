// Interfaces for bootstrap and sockets, best first.
#include <algorithm>
#include <array>
#include <set>

#include "topology/ports.hpp"

namespace dsinfer::topology {
namespace {

bool hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
}

}  // namespace

bool overlay_name(std::string_view name) {
  static constexpr std::array<std::string_view, 14> prefixes = {"docker", "virbr",  "veth", "cni", "cali", "flannel",   "tunl",
                                                                "kube-",  "podman", "tap",  "tun", "wg",   "tailscale", "zt"};
  if (std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view p) { return name.starts_with(p); })) return true;
  return name.starts_with("br-") && name.size() == 15 && hex(name.substr(3));
}

namespace {

bool loopback(const Interface& interface) { return interface.name == "lo" || interface.kind == "loopback" || interface.type == "loopback"; }

bool only_link_local(const Interface& interface) {
  return !interface.addresses.empty() &&
         std::all_of(interface.addresses.begin(), interface.addresses.end(), [](const Address& a) { return link_local(a.ip); });
}

bool ipoib(const Interface& interface) {
  return interface.type == "infiniband" || (interface.type.empty() && interface.name.starts_with("ib"));
}

/// Why an interface stands where it stands; lower is better.
struct Rank {
  int tier;
  const char* code;
  const char* text;
};

constexpr int kNever = 100;

Rank rank(const Interface& interface, bool need_address) {
  const bool proven = interface.bootstrap || interface.default_route || interface.out_of_band;  // it has an address, whoever knows it
  if (loopback(interface)) return {kNever, "loopback", "loopback"};
  if (interface.up == false) return {kNever, "interface-down", "not up and running"};
  if (interface.bootstrap) return {1, "bootstrap-interface", "a log shows it as the bootstrap interface"};
  if (!interface.master.empty() && interface.addresses.empty() && !proven) return {kNever, "slave", "member of a bond or bridge"};
  if (interface.addresses.empty() && !proven && need_address) return {kNever, "no-address", "no address known"};
  if (overlay_name(interface.name)) return {8, "virtual-interface", "of a container engine or an overlay, by its name"};
  if (only_link_local(interface)) return {7, "link-local-only", "only link-local addresses"};
  if (interface.default_route) return {2, "default-route", "holds the default route"};
  if (ipoib(interface)) return {6, "ipoib", "IP over InfiniBand: only if nothing else is common"};
  if (interface.out_of_band) return {3, "management-interface", "said to be for management"};
  return {4, "kernel-order", "up, with an address"};
}

// NCCL's own topology file gives no addresses, but lists only interfaces that have one.
bool found_by_nccl(const Node& node) {
  return node.hcas_complete && std::any_of(node.sources.begin(), node.sources.end(),
                                           [](const std::string& source) { return source.find("(NCCL topology XML") != source.npos; });
}

}  // namespace

std::vector<std::string> rank_interfaces(const Node& node, std::vector<Reason>& reasons) {
  const std::string value = user_setting(node, "NCCL_SOCKET_IFNAME").value_or("");
  const DeviceList list = DeviceList::parse(value);
  const bool users = value.size() > 1 && !list.entries.empty();
  const bool addresses_known =
      std::any_of(node.interfaces.begin(), node.interfaces.end(), [](const Interface& i) { return !i.addresses.empty(); });
  const bool need_address = addresses_known || !found_by_nccl(node);

  std::vector<std::pair<int, std::string>> ranked;
  for (const Interface& interface : node.interfaces) {
    Rank place = rank(interface, need_address);
    if (users && !list.admits(interface.name))
      place = {kNever, "not-in-user-list", "NCCL_SOCKET_IFNAME leaves it out"};
    else if (users && !list.exclude)
      place = {0, "users-interface", "NCCL_SOCKET_IFNAME names it"};
    // Names of overlays are the last resort: in a network namespace of its own, such an interface may be all there is.
    const bool container_only = interface.name.starts_with("docker") || interface.name.starts_with("virbr");
    const bool dropped = place.tier == kNever || (place.tier == 8 && container_only);
    reasons.push_back({interface.name, place.code, place.text, dropped});
    if (!dropped) ranked.emplace_back(place.tier, interface.name);
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> out;
  for (auto& [tier, name] : ranked) out.push_back(std::move(name));
  if (out.empty() && users && !list.exclude) out.push_back(list.entries.front().name);  // "find or fail": there is no other answer
  return out;
}

}  // namespace dsinfer::topology
