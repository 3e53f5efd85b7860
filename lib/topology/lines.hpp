/// Small tools of the importers of printed text: lines, words, numbers, devices by name, findings about the text itself.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "topology/importers.hpp"

namespace dsinfer::topology {

/// Lines without their ends. Views into `text`.
DSINFER_INTERNAL std::vector<std::string_view> split_lines(std::string_view text);
DSINFER_INTERNAL std::string_view trim(std::string_view text);
/// Words between spaces and tabs.
DSINFER_INTERNAL std::vector<std::string_view> words_of(std::string_view line);
/// Cells of a CSV line without white space around them; "a, b" in double quotes is one cell.
DSINFER_INTERNAL std::vector<std::string> cells_of(std::string_view line, char separator = ',');
/// All of it a number: decimal, or hexadecimal with 0x.
DSINFER_INTERNAL std::optional<int64_t> integer_of(std::string_view text);
/// The number at its beginning: "4096 (5)" → 4096, "4X" → 4.
DSINFER_INTERNAL std::optional<int64_t> leading_integer(std::string_view text);
/// What stands in the first parentheses: "PORT_ACTIVE (4)" → "4"; "" if there are none.
DSINFER_INTERNAL std::string_view in_parentheses(std::string_view text);
DSINFER_INTERNAL std::string lower_case(std::string_view text);
DSINFER_INTERNAL bool same_word(std::string_view a, std::string_view b);  ///< whatever the case
/// The word after `key` in a line of words: value_after({"mtu","1500"}, "mtu") → "1500"; "" if absent.
DSINFER_INTERNAL std::string_view value_after(const std::vector<std::string_view>& words, std::string_view key);

/// "key: value" at the first separator, both trimmed; key is empty if there is no separator.
struct KeyValue { std::string_view key, value; };
DSINFER_INTERNAL KeyValue key_value(std::string_view line, char separator = ':');

/// True for a line that begins the output of some other command: a prompt, or the first line of a record that a tool of verbs or network prints.
DSINFER_INTERNAL bool begins_something(std::string_view line);
/// A line of a terminal without the prompt before the command: "root@n1:~# export A=1", "$ export A=1", "+ export A=1" → "export A=1".
DSINFER_INTERNAL std::string_view without_prompt(std::string_view line);
/// True for "..." lines and the like, by which people mark what they left out.
DSINFER_INTERNAL bool is_ellipsis(std::string_view line);

/// True if a line of the text, trimmed, satisfies `test`.
template <class Test>
bool any_line(std::string_view text, Test test) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    if (test(trim(text.substr(0, end)))) return true;
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
  }
  return false;
}

/// "InfiniBand", "IB", "Ethernet", "RoCE", "Unspecified"; unknown for other words.
DSINFER_INTERNAL LinkLayer stated_link_layer(std::string_view word);
/// "0x946dae0300cde72c", "946d:ae03:00cd:e72c" → "946d:ae03:00cd:e72c" as sysfs has it; "" for zero and for what is no GUID.
DSINFER_INTERNAL std::string guid_of(std::string_view text);
/// Prefix length of a netmask in dots or of 0xffffff00; -1 if it is none.
DSINFER_INTERNAL int prefix_of_netmask(std::string_view mask);
/// "10.0.0.1/24", "fe80::1/64", "10.0.0.1" → Address; nullopt if it is no address.
DSINFER_INTERNAL std::optional<Address> address_with_prefix(std::string_view text);

/// Says once in a while what is wrong with the text: at most 8 findings of a code, so that a megabyte of rubbish gives no megabyte of findings.
class DSINFER_INTERNAL Remarks {
 public:
  explicit Remarks(Capture& capture) : capture_(capture) {}
  void add(std::string code, Severity severity, std::string text, std::string_view line, std::string advice = "");
  void garbled(std::string_view line);    ///< a field is known but its value is none
  void truncated(std::string_view line);  ///< the text ends inside a record
  int count(const std::string& code) const;

 private:
  Capture& capture_;
  std::unordered_map<std::string, int> counts_;
};

/// The devices of a node by name, each made when first named. A pointer holds until the next new device. nullptr: no usable name, or too many.
class DSINFER_INTERNAL Devices {
 public:
  explicit Devices(Node& node) : node_(node) {}
  Hca* hca(std::string_view name);
  Interface* interface(std::string_view name);
  static HcaPort* port(Hca& hca, int64_t number);

 private:
  Node& node_;
  std::unordered_map<std::string, size_t> hcas_, interfaces_;
};

/// Brings the GIDs of a port in the order of their indexes; of two for one index the first stays.
DSINFER_INTERNAL void sort_gids(HcaPort& port);
DSINFER_INTERNAL void add_netdev(HcaPort& port, std::string_view name);
DSINFER_INTERNAL void add_address(Interface& interface, const Address& address);

}  // namespace dsinfer::topology
