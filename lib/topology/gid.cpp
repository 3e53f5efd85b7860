// The GID index that NCCL takes on a RoCE port (net_ib.cc, ncclIbGetGidIndex, since 2.21).
#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <map>

#include "topology/choice.hpp"

namespace dsinfer::topology {
namespace {

using Bytes = std::array<unsigned char, 16>;

Bytes bytes_of(const std::string& address) {
  Bytes bytes{};
  if (inet_pton(AF_INET6, address.c_str(), bytes.data()) == 1) return bytes;
  if (inet_pton(AF_INET, address.c_str(), bytes.data() + 12) == 1) bytes[10] = bytes[11] = 0xff;
  return bytes;
}

/// An entry of the table as the rule sees it.
struct Entry {
  Bytes gid{};
  int version = 0;
  bool readable = true;

  bool ipv4() const {
    return std::all_of(gid.begin(), gid.begin() + 10, [](unsigned char c) { return c == 0; }) && gid[10] == 0xff && gid[11] == 0xff;
  }
  bool valid() const {
    const bool zero = std::all_of(gid.begin(), gid.end(), [](unsigned char c) { return c == 0; });
    return !zero && !(gid[0] == 0xfe && (gid[1] & 0xc0) == 0x80);
  }
  bool link_local_ipv4() const { return ipv4() && gid[12] == 169 && gid[13] == 254; }
};

/// What the user asks of the rule.
struct Wanted {
  bool ipv4 = true;
  int version = 2;
  Bytes prefix{};
  int prefix_bits = 0;  // 0: any

  bool in_range(const Entry& entry) const {
    const int first = ipv4 ? 96 : 0;  // an IPv4 range counts from the mapped address on
    for (int bit = 0; bit < prefix_bits; ++bit) {
      const int at = first + bit;
      const auto mask = static_cast<unsigned char>(0x80 >> (at % 8));
      const auto byte = static_cast<size_t>(at / 8);
      if ((entry.gid[byte] & mask) != (prefix[byte] & mask)) return false;
    }
    return true;
  }
};

int number_or(const std::optional<std::string>& text, int otherwise) {
  int value = otherwise;
  if (text) {
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (error != std::errc()) return otherwise;
  }
  return value;
}

Wanted wanted_by(const Node& node) {
  Wanted wanted;
  wanted.ipv4 = user_setting(node, "NCCL_IB_ADDR_FAMILY").value_or("AF_INET") != "AF_INET6";
  wanted.version = number_or(user_setting(node, "NCCL_IB_ROCE_VERSION_NUM"), 2);
  const std::string range = user_setting(node, "NCCL_IB_ADDR_RANGE").value_or("");
  const size_t slash = range.find('/');
  if (slash == range.npos) return wanted;
  const std::string address = range.substr(0, slash);
  Bytes given{};
  const bool ipv4 = inet_pton(AF_INET, address.c_str(), given.data()) == 1;
  if (!ipv4 && inet_pton(AF_INET6, address.c_str(), given.data()) != 1) return wanted;
  if (ipv4 != wanted.ipv4) return wanted;  // of the other family: NCCL compares nothing
  wanted.prefix = bytes_of(address);
  wanted.prefix_bits = std::clamp(number_or(range.substr(slash + 1), 0), 0, ipv4 ? 32 : 128);
  return wanted;
}

// Tools without the types: of an address that stands there twice nobody can tell which entry is RoCE v2.
bool versions_missing(const HcaPort& port, const Wanted& wanted) {
  std::map<Bytes, int> unknown;
  for (const Gid& gid : port.gids) {
    const Entry entry{bytes_of(gid.address), gid.roce_version, gid.readable};
    if (gid.readable && gid.roce_version == 0 && entry.valid() && entry.ipv4() == wanted.ipv4 && ++unknown[entry.gid] > 1) return true;
  }
  return false;
}

}  // namespace

std::optional<GidChoice> choose_gid(const Node& node, const HcaPort& port) {
  if (!port.gid_table) return std::nullopt;
  const Wanted wanted = wanted_by(node);
  if (versions_missing(port, wanted)) return std::nullopt;
  const Entry empty;
  std::map<int, Entry> table;
  for (const Gid& gid : port.gids) {
    if (gid.index < 0 || gid.index > 65535) continue;  // tables have 4096 entries at most today
    const int version = gid.roce_version == 0 ? wanted.version : gid.roce_version;
    table.emplace(gid.index, Entry{bytes_of(gid.address), version, gid.readable});
  }
  // What the table leaves out is empty; of several empty entries in a row the rule sees no more than of the first.
  std::vector<int> gaps;
  int expected = 0;
  for (const auto& [index, entry] : table) {
    if (index > expected) gaps.push_back(expected);
    expected = index + 1;
  }
  for (const int index : gaps) table.emplace(index, Entry{});
  const auto at = [&](int index) -> const Entry& {
    const auto it = table.find(index);
    return it == table.end() ? empty : it->second;
  };
  int current = 0;
  for (const auto& [index, next] : table) {
    if (index == 0 || !next.readable) continue;
    const Entry& now = at(current);
    if (next.ipv4() != now.ipv4() && next.ipv4() == wanted.ipv4 && wanted.in_range(next)) {
      current = index;
      continue;
    }
    if (next.ipv4() != wanted.ipv4 || !next.valid() || !wanted.in_range(next)) continue;
    const int version_now = now.readable ? now.version : -1;
    if ((next.version != version_now || !now.valid()) && next.version == wanted.version) current = index;
  }
  const Entry& taken = at(current);
  GidChoice choice;
  choice.index = current;
  choice.link_local_ipv4 = taken.link_local_ipv4();
  choice.usable =
      taken.valid() && taken.ipv4() == wanted.ipv4 && taken.version == wanted.version && taken.readable && wanted.in_range(taken);
  return choice;
}

}  // namespace dsinfer::topology
