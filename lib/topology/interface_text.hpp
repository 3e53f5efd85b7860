/// What the listings of network interfaces share: flags, kinds, "eth0.5@eth0" names, the default route.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "topology/lines.hpp"

namespace dsinfer::topology {

/// "eth0.5@eth0" makes eth0.5 with eth0 below it; "eth0@if5", whose other end is in another network namespace, has nothing below.
DSINFER_INTERNAL Interface* add_named(Devices& devices, std::string_view name);
/// When all are read: two that name each other as lower are the ends of a veth pair, and neither is below the other; members are below their master.
DSINFER_INTERNAL void settle_links(Node& node);
/// "BROADCAST,UP,LOWER_UP" (ip) or "UP,BROADCAST,RUNNING" (ifconfig) with the operational state where the tool prints it.
DSINFER_INTERNAL void set_flags(Interface& interface, std::string_view flags, std::string_view state);
DSINFER_INTERNAL void set_mtu(Interface& interface, std::string_view text);
/// "ether" → "ethernet", "infiniband", "loopback"; others as they are.
DSINFER_INTERNAL std::string interface_type(std::string_view word);
/// The kernel's kind of link ("bond", "vlan", "tun", "ipip") → Interface::kind; "" for a word that is none, and for slaves' words.
DSINFER_INTERNAL std::string kind_of_link(std::string_view word);

/// The interface of the best default route: IPv4 before IPv6, then the lowest metric, then the first.
struct DSINFER_INTERNAL DefaultRoute {
  std::string interface;
  int64_t metric = 0;
  bool ipv6 = false;
  void offer(const std::string& name, int64_t its_metric, bool its_ipv6);
};
DSINFER_INTERNAL void finish_default(Node& node, const DefaultRoute& route);

}  // namespace dsinfer::topology
