#include <net/if.h>  // before the kernel's headers, which then leave out what it has

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>

#include "topology/probes.hpp"

namespace dsinfer::topology {
namespace {

constexpr auto kPatience = std::chrono::seconds(2);  // the kernel answers in milliseconds

/// Attributes that follow a fixed header of a netlink message, each checked against the end.
class Attributes {
 public:
  Attributes(const void* begin, size_t size) : at_(static_cast<const char*>(begin)), left_(size) {}
  /// The next attribute's number, or -1 at the end; data() and size() are then its own.
  int next() {
    rtattr head;
    if (left_ < sizeof head) return -1;
    std::memcpy(&head, at_, sizeof head);
    if (head.rta_len < sizeof head || head.rta_len > left_) return -1;
    data_ = at_ + sizeof head;
    size_ = head.rta_len - sizeof head;
    const size_t step = std::min<size_t>(RTA_ALIGN(head.rta_len), left_);
    at_ += step;
    left_ -= step;
    return head.rta_type & NLA_TYPE_MASK;
  }
  const char* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view text() const { return std::string_view(data_, strnlen(data_, size_)); }
  uint32_t number() const {
    uint32_t value = 0;
    std::memcpy(&value, data_, std::min(sizeof value, size_));
    return value;
  }

 private:
  const char* at_;
  size_t left_;
  const char* data_ = nullptr;
  size_t size_ = 0;
};

/// A netlink socket and the clock that ends every wait on it.
class Netlink {
 public:
  Netlink() : fd_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE)) { error_ = fd_ < 0 ? errno : 0; }
  ~Netlink() {
    if (fd_ >= 0) close(fd_);
  }
  Netlink(const Netlink&) = delete;
  Netlink& operator=(const Netlink&) = delete;
  int error() const { return error_; }

  /// Asks for all objects of a kind; `take` gets type and content of each message. False: error() says why.
  bool dump(int type, int family, const std::function<void(int, const char*, size_t)>& take);

 private:
  bool ask(int type, int family);
  enum class Step { more, done, failed };
  Step read(const std::function<void(int, const char*, size_t)>& take);
  int fd_, error_ = 0;
  uint32_t sequence_ = 0;
  std::vector<char> buffer_ = std::vector<char>(1 << 16);  // the kernel fills at most 32 KiB at once
};

bool Netlink::ask(int type, int family) {
  struct {
    nlmsghdr head;
    ifinfomsg body;  // address and route requests begin with the family too
    rtattr attribute;
    uint32_t mask;
  } request{};
  request.head.nlmsg_len = sizeof request;
  request.head.nlmsg_type = static_cast<uint16_t>(type);
  request.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.head.nlmsg_seq = ++sequence_;
  request.body.ifi_family = static_cast<unsigned char>(family);
  request.attribute.rta_type = IFLA_EXT_MASK;  // no counters; and no list of virtual functions, which is not asked for
  request.attribute.rta_len = RTA_LENGTH(sizeof request.mask);
  request.mask = RTEXT_FILTER_SKIP_STATS;
  if (type != RTM_GETLINK) request.head.nlmsg_len = NLMSG_LENGTH(sizeof request.body);
  if (send(fd_, &request, request.head.nlmsg_len, 0) >= 0) return true;
  error_ = errno;
  return false;
}

Netlink::Step Netlink::read(const std::function<void(int, const char*, size_t)>& take) {
  const ssize_t got = recv(fd_, buffer_.data(), buffer_.size(), MSG_TRUNC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Step::more;
  if (got <= 0 || static_cast<size_t>(got) > buffer_.size()) {
    error_ = got < 0 ? errno : EMSGSIZE;
    return Step::failed;
  }
  size_t at = 0;
  const size_t end = static_cast<size_t>(got);
  while (at + sizeof(nlmsghdr) <= end) {
    nlmsghdr head;
    std::memcpy(&head, buffer_.data() + at, sizeof head);
    if (head.nlmsg_len < sizeof head || head.nlmsg_len > end - at) break;
    const char* body = buffer_.data() + at + sizeof head;
    const size_t size = head.nlmsg_len - sizeof head;
    at += NLMSG_ALIGN(head.nlmsg_len);
    if (head.nlmsg_seq != sequence_) continue;  // the rest of a dump that was given up
    if (head.nlmsg_type == NLMSG_DONE) return Step::done;
    if (head.nlmsg_type == NLMSG_ERROR) {
      int code = 0;
      if (size >= sizeof code) std::memcpy(&code, body, sizeof code);
      error_ = code < 0 ? -code : EPROTO;
      return Step::failed;
    }
    take(head.nlmsg_type, body, size);
  }
  return Step::more;
}

bool Netlink::dump(int type, int family, const std::function<void(int, const char*, size_t)>& take) {
  if (fd_ < 0 || !ask(type, family)) return false;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) {
      error_ = ETIMEDOUT;
      return false;
    }
    pollfd waiting{fd_, POLLIN, 0};
    if (poll(&waiting, 1, static_cast<int>(left)) <= 0) continue;
    const Step step = read(take);
    if (step != Step::more) return step == Step::done;
  }
}

/// What the dumps say, by the kernel's numbers.
struct Links {
  std::vector<int> order;
  std::map<int, Interface> by_index;
  std::map<int, int> master, parent;
};

std::string mac_of(const char* bytes, size_t size) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(size, 32); ++i) text += fmt::format("{}{:02x}", i ? ":" : "", static_cast<unsigned char>(bytes[i]));
  return text;
}

std::string kind_of(std::string_view info, unsigned flags, bool has_parent) {
  static constexpr std::string_view kTunnels[] = {"tun", "wireguard", "gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan", "ipip", "ip6tnl", "sit", "vti", "vti6", "xfrm"};
  if (flags & IFF_LOOPBACK) return "loopback";
  if (info.empty() || (info == "ipoib" && !has_parent)) return "physical";
  if (std::find(std::begin(kTunnels), std::end(kTunnels), info) != std::end(kTunnels)) return "tunnel";
  return clean_text(info);
}

void take_link(Links& links, const char* body, size_t size) {
  ifinfomsg link;
  if (size < sizeof link) return;
  std::memcpy(&link, body, sizeof link);
  Interface interface;
  std::string info;
  int parent = 0;
  bool elsewhere = false;
  Attributes attributes(body + sizeof link, size - sizeof link);
  for (int type = attributes.next(); type >= 0; type = attributes.next()) {
    if (type == IFLA_IFNAME) interface.name = clean_text(attributes.text());
    if (type == IFLA_MTU) interface.mtu = static_cast<int>(std::min<uint32_t>(attributes.number(), 1 << 30));
    if (type == IFLA_ADDRESS) interface.mac = mac_of(attributes.data(), attributes.size());
    if (type == IFLA_MASTER) links.master[link.ifi_index] = static_cast<int>(attributes.number());
    if (type == IFLA_LINK) parent = static_cast<int>(attributes.number());
    if (type == IFLA_LINK_NETNSID) elsewhere = true;  // the parent's number is another namespace's
    if (type != IFLA_LINKINFO) continue;
    Attributes nested(attributes.data(), attributes.size());
    for (int inner = nested.next(); inner >= 0; inner = nested.next()) {
      if (inner == IFLA_INFO_KIND) info = std::string(nested.text());
    }
  }
  if (interface.name.empty()) return;
  if (parent == link.ifi_index) parent = 0;
  interface.kind = kind_of(info, link.ifi_flags, parent > 0);
  interface.type = link.ifi_type == ARPHRD_ETHER ? "ethernet" : link.ifi_type == ARPHRD_INFINIBAND ? "infiniband" : link.ifi_type == ARPHRD_LOOPBACK ? "loopback" : "";
  interface.up = (link.ifi_flags & IFF_UP) && (link.ifi_flags & IFF_RUNNING);
  if (parent > 0 && !elsewhere && info != "veth") links.parent[link.ifi_index] = parent;
  if (links.by_index.emplace(link.ifi_index, std::move(interface)).second) links.order.push_back(link.ifi_index);
}

void take_address(Links& links, const char* body, size_t size) {
  ifaddrmsg address;
  if (size < sizeof address) return;
  std::memcpy(&address, body, sizeof address);
  const auto link = links.by_index.find(static_cast<int>(address.ifa_index));
  const size_t bytes = address.ifa_family == AF_INET ? 4 : address.ifa_family == AF_INET6 ? 16 : 0;
  if (link == links.by_index.end() || bytes == 0 || (address.ifa_flags & IFA_F_DADFAILED)) return;
  std::array<char, INET6_ADDRSTRLEN> text{};
  bool local = false;
  Attributes attributes(body + sizeof address, size - sizeof address);
  for (int type = attributes.next(); type >= 0; type = attributes.next()) {
    // IFA_ADDRESS is the far end where the link is point to point; IFA_LOCAL is then our own.
    if ((type != IFA_LOCAL && (type != IFA_ADDRESS || local)) || attributes.size() != bytes) continue;
    if (!inet_ntop(address.ifa_family, attributes.data(), text.data(), text.size())) continue;
    local = type == IFA_LOCAL;
  }
  if (text[0]) link->second.addresses.push_back({text.data(), address.ifa_prefixlen});
}

/// The default route with the least metric of one family.
struct DefaultRoute {
  int link = 0;
  uint64_t metric = UINT64_MAX;
};

void take_route(DefaultRoute& best, const char* body, size_t size) {
  rtmsg route;
  if (size < sizeof route) return;
  std::memcpy(&route, body, sizeof route);
  if (route.rtm_dst_len != 0 || route.rtm_type != RTN_UNICAST || (route.rtm_flags & RTM_F_CLONED)) return;
  uint32_t table = route.rtm_table, metric = 0;
  int link = 0;
  Attributes attributes(body + sizeof route, size - sizeof route);
  for (int type = attributes.next(); type >= 0; type = attributes.next()) {
    if (type == RTA_TABLE) table = attributes.number();
    if (type == RTA_PRIORITY) metric = attributes.number();
    if (type == RTA_OIF) link = static_cast<int>(attributes.number());
    if (type == RTA_MULTIPATH && attributes.size() >= sizeof(rtnexthop) && link == 0) {
      rtnexthop hop;
      std::memcpy(&hop, attributes.data(), sizeof hop);
      link = hop.rtnh_ifindex;
    }
  }
  if (table == RT_TABLE_MAIN && link > 0 && metric < best.metric) best = {link, metric};
}

// Members below a bond or bridge, the parent below a VLAN.
void tie(Links& links) {
  for (const int index : links.order) {
    Interface& interface = links.by_index[index];
    if (const auto master = links.master.find(index); master != links.master.end()) {
      const auto above = links.by_index.find(master->second);
      if (above != links.by_index.end()) {
        interface.master = above->second.name;
        above->second.lower.push_back(interface.name);
      }
    }
    const auto parent = links.parent.find(index);
    if (parent == links.parent.end()) continue;
    if (const auto below = links.by_index.find(parent->second); below != links.by_index.end()) interface.lower.push_back(below->second.name);
  }
}

}  // namespace

Node probe_netlink() {
  Node node;
  Netlink netlink;
  Links links;
  const bool whole = netlink.dump(RTM_GETLINK, AF_UNSPEC, [&](int type, const char* body, size_t size) {
    if (type == RTM_NEWLINK) take_link(links, body, size);
  });
  const bool addressed = whole && netlink.dump(RTM_GETADDR, AF_UNSPEC, [&](int type, const char* body, size_t size) {
    if (type == RTM_NEWADDR) take_address(links, body, size);
  });
  if (!addressed) {
    node.findings.push_back({"netlink-failed", Severity::warning, {}, "the kernel does not list its interfaces and addresses",
                             {fmt::format("rtnetlink: {}", std::strerror(netlink.error()))}, "name the interface in NCCL_SOCKET_IFNAME"});
  }
  for (const int family : {AF_INET, AF_INET6}) {
    if (!addressed) break;
    DefaultRoute route;
    netlink.dump(RTM_GETROUTE, family, [&](int type, const char* body, size_t size) {
      if (type == RTM_NEWROUTE) take_route(route, body, size);
    });
    const auto link = links.by_index.find(route.link);
    if (link == links.by_index.end()) continue;
    link->second.default_route = true;
    break;
  }
  tie(links);
  for (const int index : links.order) node.interfaces.push_back(std::move(links.by_index[index]));
  node.interfaces_complete = addressed;
  if (whole) node.sources.push_back("live: netlink");
  return node;
}

}  // namespace dsinfer::topology
