#include "topology/lines.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <charconv>

namespace dsinfer::topology {
namespace {

constexpr size_t kMostDevices = 4096, kLongestName = 128, kLongestLine = 300;
constexpr int kMostRemarks = 8;

std::string name_of(std::string_view text) {
  std::string name = clean_text(trim(text.substr(0, kLongestName)));
  const bool odd = std::any_of(name.begin(), name.end(), [](unsigned char c) { return std::isspace(c); });
  return odd ? "" : name;
}

}  // namespace

std::vector<std::string_view> split_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    lines.push_back(line);
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
  }
  return lines;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  constexpr std::string_view space = " \t\r\n\f\v";
  for (size_t at = line.find_first_not_of(space); at != line.npos;) {
    const size_t end = std::min(line.find_first_of(space, at), line.size());
    words.push_back(line.substr(at, end - at));
    at = line.find_first_not_of(space, end);
  }
  return words;
}

std::vector<std::string> cells_of(std::string_view line, char separator) {
  std::vector<std::string> cells;
  std::string cell;
  bool quoted = false;
  const auto finish = [&] {
    cells.emplace_back(trim(cell));
    cell.clear();
  };
  for (const char c : line) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == separator && !quoted) {
      finish();
    } else {
      cell += c;
    }
  }
  finish();
  return cells;
}

std::optional<int64_t> integer_of(std::string_view text) {
  text = trim(text);
  const bool hex = text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
  if (hex) text.remove_prefix(2);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, hex ? 16 : 10);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::optional<int64_t> leading_integer(std::string_view text) {
  text = trim(text);
  if (text.substr(0, 2) == "0x") {
    const size_t end = text.find_first_not_of("0123456789abcdefABCDEF", 2);
    return integer_of(text.substr(0, end));
  }
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

std::string_view in_parentheses(std::string_view text) {
  const size_t open = text.find('(');
  const size_t close = open == text.npos ? text.npos : text.find(')', open);
  return close == text.npos ? "" : trim(text.substr(open + 1, close - open - 1));
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

bool same_word(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

std::string_view value_after(const std::vector<std::string_view>& words, std::string_view key) {
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == key) return words[i + 1];
  }
  return "";
}

KeyValue key_value(std::string_view line, char separator) {
  const size_t at = line.find(separator);
  if (at == line.npos) return {"", trim(line)};
  return {trim(line.substr(0, at)), trim(line.substr(at + 1))};
}

namespace {

// Where the prompt of a shell ends: "user@host:~# ibstat", "[root@n1 ~]$ ip addr"; 0 if the line has none.
size_t prompt_length(std::string_view line) {
  const size_t at = line.substr(0, 80).find('@');
  if (at == line.npos || at == 0) return 0;
  const size_t mark = line.find_first_of("#$%", at);
  const bool ends = mark != line.npos && mark < 200 && (mark + 1 == line.size() || line[mark + 1] == ' ');
  return ends ? mark + 1 : 0;
}

}  // namespace

bool begins_something(std::string_view line) {
  for (const std::string_view start : {"hca_id:", "CA '", "CA: '", "Infiniband device '", "CA:", "provider:", "$ ", "# ", "```"}) {
    if (line.starts_with(start)) return true;
  }
  return prompt_length(line) > 0;
}

std::string_view without_prompt(std::string_view line) {
  line = trim(line);
  if (line.starts_with("$ ") || line.starts_with("+ ")) return trim(line.substr(2));
  return trim(line.substr(prompt_length(line)));
}

bool is_ellipsis(std::string_view line) {
  line = trim(line);
  if (line.size() >= 2 && (line.front() == '[' || line.front() == '<' || line.front() == '(')) line = line.substr(1, line.size() - 2);
  return line == "..." || line == ".." || line == "\xe2\x80\xa6" || line.starts_with("....") || line == "snip" || line == "cut";
}

LinkLayer stated_link_layer(std::string_view word) {
  if (same_word(word, "IB")) return LinkLayer::infiniband;
  if (same_word(word, "RoCE") || same_word(word, "Eth")) return LinkLayer::ethernet;
  return link_layer_of(word).value_or(LinkLayer::unknown);
}

std::string guid_of(std::string_view text) {
  text = trim(text);
  if (text.substr(0, 2) == "0x" || text.substr(0, 2) == "0X") text.remove_prefix(2);
  std::string digits;
  for (const char c : text) {
    if (c == ':') continue;
    if (!std::isxdigit(static_cast<unsigned char>(c)) || digits.size() == 16) return "";
    digits += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  if (digits.size() != 16 || digits.find_first_not_of('0') == digits.npos) return "";
  return digits.substr(0, 4) + ":" + digits.substr(4, 4) + ":" + digits.substr(8, 4) + ":" + digits.substr(12, 4);
}

int prefix_of_netmask(std::string_view mask) {
  uint32_t bits = 0;
  if (mask.substr(0, 2) == "0x") {
    const auto value = integer_of(mask);
    if (!value || *value < 0 || *value > 0xffffffffll) return -1;
    bits = static_cast<uint32_t>(*value);
  } else {
    std::array<unsigned char, 4> bytes{};
    const std::string text(mask.substr(0, 32));
    if (inet_pton(AF_INET, text.c_str(), bytes.data()) != 1) return -1;
    bits = static_cast<uint32_t>(bytes[0]) << 24 | static_cast<uint32_t>(bytes[1]) << 16 | static_cast<uint32_t>(bytes[2]) << 8 | bytes[3];
  }
  const int ones = std::countl_one(bits);
  return ones == 32 || bits << ones == 0 ? ones : -1;
}

std::optional<Address> address_with_prefix(std::string_view text) {
  text = trim(text);
  const size_t slash = text.find('/');
  std::string_view host = text.substr(0, slash);
  host = host.substr(0, host.find('%'));  // fe80::1%eth0
  Address address{address_of(host), -1};
  if (address.ip.empty()) return std::nullopt;
  if (slash != text.npos) {
    const auto length = integer_of(text.substr(slash + 1));
    const int most = address.ip.find(':') == std::string::npos ? 32 : 128;
    if (length && *length >= 0 && *length <= most) address.prefix_len = static_cast<int>(*length);
  }
  return address;
}

void Remarks::add(std::string code, Severity severity, std::string text, std::string_view line, std::string advice) {
  if (++counts_[code] > kMostRemarks) return;
  Finding finding;
  finding.code = std::move(code);
  finding.severity = severity;
  finding.text = std::move(text);
  const std::string evidence = clean_text(trim(line.substr(0, kLongestLine)));
  finding.evidence = {capture_.name.empty() ? evidence : capture_.name + ": " + evidence};
  finding.advice = std::move(advice);
  capture_.node.findings.push_back(std::move(finding));
}

void Remarks::garbled(std::string_view line) {
  add("garbled", Severity::warning, "A line is known but its value makes no sense; it is left out.", line, "Capture the output again.");
}

void Remarks::truncated(std::string_view line) {
  add("truncated", Severity::warning, "The text ends inside a record; what it would have said further is unknown.", line,
      "Capture the whole output.");
}

int Remarks::count(const std::string& code) const {
  const auto found = counts_.find(code);
  return found == counts_.end() ? 0 : found->second;
}

Hca* Devices::hca(std::string_view text) {
  std::string name = name_of(text);
  if (name.empty()) return nullptr;
  const auto found = hcas_.find(name);
  if (found != hcas_.end()) return &node_.hcas[found->second];
  if (hcas_.size() >= kMostDevices) return nullptr;
  hcas_.emplace(name, node_.hcas.size());
  Hca& made = node_.hcas.emplace_back();
  made.name = std::move(name);
  return &made;
}

Interface* Devices::interface(std::string_view text) {
  std::string name = name_of(text);
  if (name.empty()) return nullptr;
  const auto found = interfaces_.find(name);
  if (found != interfaces_.end()) return &node_.interfaces[found->second];
  if (interfaces_.size() >= kMostDevices) return nullptr;
  interfaces_.emplace(name, node_.interfaces.size());
  Interface& made = node_.interfaces.emplace_back();
  made.name = std::move(name);
  return &made;
}

HcaPort* Devices::port(Hca& hca, int64_t number) {
  if (number < 1 || number > 255) return nullptr;
  for (HcaPort& port : hca.ports) {
    if (port.number == number) return &port;
  }
  HcaPort& made = hca.ports.emplace_back();
  made.number = static_cast<int>(number);
  return &made;
}

void sort_gids(HcaPort& port) {
  const auto less = [](const Gid& a, const Gid& b) { return a.index < b.index; };
  const auto equal = [](const Gid& a, const Gid& b) { return a.index == b.index; };
  std::stable_sort(port.gids.begin(), port.gids.end(), less);
  port.gids.erase(std::unique(port.gids.begin(), port.gids.end(), equal), port.gids.end());
}

void add_netdev(HcaPort& port, std::string_view name) {
  const std::string clean = name_of(name);
  if (clean.empty() || port.netdevs.size() >= 64) return;
  if (std::find(port.netdevs.begin(), port.netdevs.end(), clean) == port.netdevs.end()) port.netdevs.push_back(clean);
}

void add_address(Interface& interface, const Address& address) {
  if (interface.addresses.size() >= 256) return;
  for (Address& known : interface.addresses) {
    if (known.ip != address.ip) continue;
    if (known.prefix_len < 0) known.prefix_len = address.prefix_len;
    return;
  }
  interface.addresses.push_back(address);
}

}  // namespace dsinfer::topology
