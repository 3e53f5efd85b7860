// ifconfig of net-tools, old ("Link encap:") and new ("flags=4163<UP,…>") form; the BSDs' is near enough to the new one.
#include <algorithm>
#include <cctype>

#include "topology/importers.hpp"
#include "topology/interface_text.hpp"
#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

// "eth0: flags=…", "eth0      Link encap:…": where the name ends; npos for other lines. Old forms may print "eth0:1 Link encap".
size_t name_end(std::string_view line) {
  if (line.empty() || std::isspace(static_cast<unsigned char>(line[0]))) return line.npos;
  if (const size_t at = line.find(": flags="); at != line.npos && line.find_first_of(" \t") == at + 1 && line.find('<', at) != line.npos) return at;
  const size_t space = line.find_first_of(" \t");
  return space != line.npos && trim(line.substr(space)).starts_with("Link encap:") ? space : line.npos;
}

class Ifconfig {
 public:
  explicit Ifconfig(Capture& capture) : node_(capture.node), devices_(node_), remarks_(capture) {}

  void read(std::string_view text) {
    for (const std::string_view raw : split_lines(text)) {
      const std::string_view line = raw.substr(0, 2000);
      if (const size_t end = name_end(line); end != line.npos) begin(line, end);
      else if (interface_) field(line);
    }
  }

 private:
  void begin(std::string_view line, size_t end) {
    std::string_view name = line.substr(0, end);
    name = name.substr(0, name.find(':'));  // "eth0:1" is a second address of eth0
    interface_ = devices_.interface(name);
    if (!interface_) return remarks_.garbled(line);
    if (const size_t open = line.find('<', end); open != line.npos && line.find("flags=", end) != line.npos) {
      const size_t close = line.find('>', open);
      if (close == line.npos) return remarks_.truncated(line);
      flags(line.substr(open + 1, close - open - 1));
      set_mtu(*interface_, value_after(words_of(line.substr(close + 1)), "mtu"));
      return;
    }
    const size_t encap = line.find("Link encap:");
    const std::string_view type = line.substr(encap + 11);
    if (type.starts_with("Ethernet")) interface_->type = "ethernet";
    if (type.starts_with("InfiniBand")) interface_->type = "infiniband";
    if (type.starts_with("Local Loopback")) interface_->type = interface_->kind = "loopback";
    mac(value_after(words_of(type), "HWaddr"));
  }

  // The kernel's flags: RUNNING says that the link is there.
  void flags(std::string_view list) {
    set_flags(*interface_, list, "");
    if (interface_->up.value_or(false) && list.find("RUNNING") == list.npos) interface_->up = false;
  }

  void mac(std::string_view text) {
    if (text.find(':') == text.npos || text.size() > 64) return;
    interface_->mac = lower_case(clean_text(text));
  }

  void field(std::string_view line) {
    const auto words = words_of(line);
    if (words.empty()) return;
    const std::string_view key = words[0];
    if (key == "inet" || key == "inet6") return address(words, line);
    if (key == "ether" && words.size() > 1) {
      interface_->type = "ethernet";
      mac(words[1]);
    } else if (key == "infiniband" && words.size() > 1) {
      interface_->type = "infiniband";
      mac(words[1]);
    } else if (key == "unspec" && words.size() > 1 && words[1].starts_with("80-00-")) {
      interface_->type = "infiniband";  // net-tools cuts IPoIB's long addresses to 16 bytes
    } else if (key == "loop") {
      interface_->type = interface_->kind = "loopback";
    } else if (line.find(" MTU:") != line.npos) {  // "UP BROADCAST RUNNING MULTICAST  MTU:1500  Metric:1"
      const size_t mtu = line.find(" MTU:");
      const auto has = [&](std::string_view flag) { return std::find(words.begin(), words.end(), flag) != words.end(); };
      interface_->up = has("UP") && has("RUNNING");
      set_mtu(*interface_, line.substr(mtu + 5));
    } else if (begins_something(trim(line))) {
      interface_ = nullptr;
    }
  }

  // "inet 10.0.0.5  netmask 255.255.255.0", "inet6 fe80::1  prefixlen 64", "inet addr:10.0.0.5  Mask:255.255.255.0", "inet6 addr: fe80::1/64 Scope:Link".
  void address(const std::vector<std::string_view>& words, std::string_view line) {
    if (words.size() < 2) return remarks_.truncated(line);
    std::string_view text = words[1];
    if (text.starts_with("addr:")) text = text.size() > 5 ? text.substr(5) : words.size() > 2 ? words[2] : "";
    auto address = address_with_prefix(text);
    if (!address) return remarks_.garbled(line);
    const std::string_view mask = value_after(words, "netmask");
    if (!mask.empty()) address->prefix_len = prefix_of_netmask(mask);
    const auto length = integer_of(value_after(words, "prefixlen"));
    if (length && *length >= 0 && *length <= 128) address->prefix_len = static_cast<int>(*length);
    for (const std::string_view word : words) {
      if (word.starts_with("Mask:")) address->prefix_len = prefix_of_netmask(word.substr(5));
    }
    add_address(*interface_, *address);
  }

  Node& node_;
  Devices devices_;
  Remarks remarks_;
  Interface* interface_ = nullptr;
};

bool is_ifconfig(std::string_view text) {
  return any_line(text, [](std::string_view line) { return name_end(line) != line.npos; });
}

void read_ifconfig(Capture& capture) { Ifconfig(capture).read(capture.text); }

}  // namespace

const Importer kIfconfig{"ifconfig", is_ifconfig, read_ifconfig};

}  // namespace dsinfer::topology
