// iproute2 as text: ip addr and ip link (long, -o, -d), ip -br addr and -br link, ip route; and route -n.
#include <algorithm>
#include <cctype>
#include <limits>
#include <unordered_map>

#include "topology/importers.hpp"
#include "topology/interface_text.hpp"
#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

bool all_digits(std::string_view text) {
  return !text.empty() && text.size() < 10 && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

// "2: eth0@if5: <FLAGS> mtu …" or, from ip -o, "2: eth0    inet …": the name with what follows @; "" for other lines.
std::string_view numbered_name(std::string_view line) {
  const size_t colon = line.find(": ");
  if (colon == line.npos || !all_digits(line.substr(0, colon))) return "";
  const std::string_view rest = trim(line.substr(colon + 2));
  std::string_view name = rest.substr(0, rest.find_first_of(" \t"));
  const std::string_view after = trim(rest.substr(name.size()));
  if (!name.empty() && name.back() == ':') return after.starts_with("<") ? name.substr(0, name.size() - 1) : "";
  return after.starts_with("inet ") || after.starts_with("inet6 ") ? name : "";
}

// ip addr, ip link -----------------------------------------------------------------------------------------------------------------------------

class IpAddr {
 public:
  explicit IpAddr(Capture& capture) : node_(capture.node), devices_(node_), remarks_(capture) {}

  void read(std::string_view text) {
    for (const std::string_view raw : split_lines(text)) {
      std::string_view rest = raw;
      while (!rest.empty()) {  // ip -o writes a backslash where the long form ends a line
        const size_t cut = rest.find("\\ ");
        line(trim(rest.substr(0, cut)));
        rest = cut == rest.npos ? "" : rest.substr(cut + 1);
      }
    }
    settle_links(node_);
  }

 private:
  void line(std::string_view line) {
    if (const std::string_view name = numbered_name(line); !name.empty()) return begin(name, line);
    if (!interface_) return;
    const auto words = words_of(line.substr(0, 2000));
    if (words.empty()) return;
    const std::string_view key = words[0];
    if (key.starts_with("link/")) return link(words);
    if (key == "inet" || key == "inet6") return address(words, line);
    if (key == "altname" || key == "valid_lft") return;
    if (begins_something(line)) interface_ = nullptr;
    else if (detail_) detail(words);
  }

  void begin(std::string_view name, std::string_view line) {
    interface_ = add_named(devices_, name);
    detail_ = false;
    if (!interface_) return remarks_.garbled(line);
    const size_t open = line.find('<'), close = open == line.npos ? open : line.find('>', open);
    if (open == line.npos) {  // ip -o addr: "2: eth0    inet 10.0.0.5/24 …"
      const size_t inet = line.find("inet");
      return address(words_of(line.substr(inet, 2000)), line);
    }
    if (close == line.npos) return remarks_.truncated(line);
    const auto words = words_of(line.substr(close + 1, 2000));
    set_flags(*interface_, line.substr(open + 1, close - open - 1), value_after(words, "state"));
    set_mtu(*interface_, value_after(words, "mtu"));
    if (const std::string_view master = value_after(words, "master"); !master.empty()) interface_->master = clean_text(master.substr(0, 64));
  }

  void link(const std::vector<std::string_view>& words) {
    interface_->type = interface_type(words[0].substr(5));
    if (interface_->type == "loopback") interface_->kind = "loopback";
    if (words[0] == "link/sit" || words[0] == "link/ipip" || words[0] == "link/gre" || words[0] == "link/tunnel6") interface_->kind = "tunnel";
    if (words.size() > 1 && words[1].find(':') != words[1].npos) interface_->mac = lower_case(clean_text(words[1].substr(0, 64)));
    if (!value_after(words, "promiscuity").empty()) {  // only -d prints it: then the kinds follow
      detail_ = true;
      physical(words);
    }
  }

  // "10.0.0.5/24", or "10.9.0.1 peer 10.9.0.2/32".
  void address(const std::vector<std::string_view>& words, std::string_view line) {
    if (words.size() < 2) return remarks_.truncated(line);
    auto address = address_with_prefix(words[1]);
    if (!address) return remarks_.garbled(line);
    if (words.size() > 3 && words[2] == "peer" && address->prefix_len < 0) {
      const auto peer = address_with_prefix(words[3]);
      if (peer) address->prefix_len = peer->prefix_len;
    }
    add_address(*interface_, *address);
    detail_ = false;
  }

  void physical(const std::vector<std::string_view>& words) {
    const std::string bus_id = value_after(words, "parentbus") == "pci" ? bus_id_of(value_after(words, "parentdev")) : "";
    if (bus_id.empty()) return;
    interface_->bus_id = bus_id;
    if (interface_->kind.empty()) interface_->kind = "physical";
  }

  // A line of `ip -d` that begins with the kind: "vlan protocol 802.1Q id 100 …", "tun type tap …"; slaves' lines begin with "bond_slave".
  void detail(const std::vector<std::string_view>& words) {
    physical(words);
    const std::string kind = kind_of_link(words[0]);
    if (kind.empty() || !interface_->kind.empty()) return;
    interface_->kind = kind;
  }

  Node& node_;
  Devices devices_;
  Remarks remarks_;
  Interface* interface_ = nullptr;
  bool detail_ = false;
};

bool is_ip_addr(std::string_view text) {
  return any_line(text, [](std::string_view line) { return !line.empty() && std::isdigit(static_cast<unsigned char>(line[0])) && !numbered_name(line).empty(); });
}

void read_ip_addr(Capture& capture) { IpAddr(capture).read(capture.text); }

// ip -br addr, ip -br link ---------------------------------------------------------------------------------------------------------------------

bool is_operstate(std::string_view word) {
  for (const std::string_view state : {"UP", "DOWN", "UNKNOWN", "DORMANT", "LOWERLAYERDOWN", "TESTING", "NOTPRESENT"}) {
    if (word == state) return true;
  }
  return false;
}

bool is_mac(std::string_view word) {
  return word.size() >= 17 && word.size() % 3 == 2 && word.find_first_not_of("0123456789abcdefABCDEF:") == word.npos && std::count(word.begin(), word.end(), ':') >= 5;
}

bool is_brief(const std::vector<std::string_view>& words) {
  if (words.size() < 2 || !is_operstate(words[1])) return false;
  return words.size() == 2 || is_mac(words[2]) || words[2].front() == '<' || address_with_prefix(words[2]).has_value();
}

bool is_ip_brief(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    if (line.find("UP") == line.npos && line.find("DOWN") == line.npos && line.find("UNKNOWN") == line.npos) return false;
    const auto words = words_of(line.substr(0, 400));
    return words.size() > 2 && is_brief(words);
  });
}

void read_ip_brief(Capture& capture) {
  Devices devices(capture.node);
  Remarks remarks(capture);
  for (const std::string_view line : split_lines(capture.text)) {
    const auto words = words_of(line.substr(0, 8192));
    if (!is_brief(words)) {
      if (words.size() > 2 && is_operstate(words[1])) remarks.garbled(line);
      continue;
    }
    Interface* interface = add_named(devices, words[0]);
    if (!interface) continue;
    if (!interface->up) interface->up = words[1] == "UP" || words[1] == "UNKNOWN";
    for (size_t i = 2; i < words.size(); ++i) {
      const std::string_view word = words[i];
      if (word.front() == '<' && word.back() == '>') {
        set_flags(*interface, word.substr(1, word.size() - 2), words[1]);
      } else if (is_mac(word)) {
        interface->mac = lower_case(word);
        if (interface->type.empty()) interface->type = word.size() == 59 ? "infiniband" : "";  // IPoIB's are 20 bytes long
      } else if (word == "peer" && i + 1 < words.size()) {
        const auto peer = address_with_prefix(words[++i]);
        if (peer && !interface->addresses.empty() && interface->addresses.back().prefix_len < 0) interface->addresses.back().prefix_len = peer->prefix_len;
      } else if (const auto address = address_with_prefix(word)) {
        add_address(*interface, *address);
      } else if (word != "metric") {
        if (i != 2 && words[i - 1] != "metric") remarks.garbled(line);
      }
    }
  }
  settle_links(capture.node);
}

// ip route, route -n ---------------------------------------------------------------------------------------------------------------------------

class Routes {
 public:
  explicit Routes(Capture& capture) : node_(capture.node), devices_(node_) {}

  void read(std::string_view text) {
    for (const std::string_view raw : split_lines(text)) line(words_of(raw.substr(0, 2000)));
    finish_default(node_, best_);
  }

 private:
  void line(const std::vector<std::string_view>& words) {
    if (words.size() >= 2 && words[0] == "nexthop" && in_default_) return offer(value_after(words, "dev"), metric_, false);
    in_default_ = false;
    if (words.size() < 3) return;
    if (words[0] == "Destination" && words.back() == "Iface") {
      table_ = true;
    } else if (table_ && words.size() >= 8) {
      old_row(words);
    } else if (words[0] == "default") {
      default_route(words);
    } else if (words[1] == "dev" || (words[1] == "via" && words.size() > 4)) {
      connected(words);
    }
  }

  void default_route(const std::vector<std::string_view>& words) {
    const std::string_view table = value_after(words, "table");
    if (!table.empty() && table != "main" && table != "254") return;  // some other table: `ip route show table all`
    metric_ = leading_integer(value_after(words, "metric")).value_or(0);
    in_default_ = value_after(words, "dev").empty();
    offer(value_after(words, "dev"), metric_, value_after(words, "via").find(':') != std::string_view::npos);
  }

  void offer(std::string_view name, int64_t metric, bool ipv6) {
    Interface* interface = name.empty() ? nullptr : add_named(devices_, name);
    if (interface) best_.offer(interface->name, metric, ipv6);
  }

  // "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.5 [linkdown]": also says the interface's address.
  void connected(const std::vector<std::string_view>& words) {
    const auto subnet = address_with_prefix(words[0]);
    const std::string_view dev = value_after(words, "dev"), source = value_after(words, "src");
    if (!subnet || dev.empty() || value_after(words, "scope") != "link" || source.empty()) return;
    Interface* interface = add_named(devices_, dev);
    auto address = address_with_prefix(source);
    if (!interface || !address) return;
    address->prefix_len = subnet->prefix_len;
    add_address(*interface, *address);
    if (std::find(words.begin(), words.end(), "linkdown") != words.end()) interface->up = false;
  }

  // Destination Gateway Genmask Flags Metric Ref Use Iface
  void old_row(const std::vector<std::string_view>& words) {
    if (words[0] == "0.0.0.0" && words[2] == "0.0.0.0") offer(words[7], leading_integer(words[4]).value_or(0), false);
    if (words[0] == "default") offer(words[7], leading_integer(words[4]).value_or(0), false);
  }

  Node& node_;
  Devices devices_;
  DefaultRoute best_;
  bool in_default_ = false, table_ = false;
  int64_t metric_ = 0;
};

bool is_ip_route(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    if (line.starts_with("default via ") || line.starts_with("default dev ") || line.starts_with("default proto ")) return true;
    if (line.starts_with("Destination") && line.ends_with("Iface")) return true;
    const size_t dev = line.find(" dev ");
    return dev != line.npos && line.find(" scope link", dev) != line.npos && address_with_prefix(line.substr(0, line.find(' '))).has_value();
  });
}

void read_ip_route(Capture& capture) { Routes(capture).read(capture.text); }

}  // namespace

const Importer kIpAddr{"ip addr", is_ip_addr, read_ip_addr};
const Importer kIpBrief{"ip -br", is_ip_brief, read_ip_brief};
const Importer kIpRoute{"ip route", is_ip_route, read_ip_route};

}  // namespace dsinfer::topology
