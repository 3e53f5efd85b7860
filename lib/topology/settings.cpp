// What the user set, and NCCL's list syntax.
#include <algorithm>
#include <charconv>

#include "topology/choice.hpp"

namespace dsinfer::topology {
namespace {

int number_of(std::string_view text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : -1;
}

}  // namespace

const Setting* find_setting(const Node& node, std::string_view name) {
  const Setting* found = nullptr;
  int best = 0;
  for (const Setting& setting : node.settings) {
    if (setting.name != name) continue;
    // The process's own environment, then a listing of one (env, a manifest, a command line); a file of NCCL's applies where both are silent.
    const bool live = setting.origin.starts_with("environment") || setting.origin.find("NCCL log") != std::string::npos;
    const int rank = live ? 3 : of_conf_file(setting) ? 1 : 2;
    if (rank > best) best = rank, found = &setting;
  }
  return found;
}

std::optional<std::string> user_setting(const Node& node, std::string_view name) {
  const Setting* found = find_setting(node, name);
  return found ? std::optional(found->value) : std::nullopt;
}

bool of_conf_file(const Setting& setting) {
  return setting.origin.find("conf") != std::string::npos || setting.origin.find("NCCL_CONF_FILE") != std::string::npos;
}

DeviceList DeviceList::parse(std::string_view value) {
  DeviceList list;
  if (value.starts_with('^')) list.exclude = true, value.remove_prefix(1);
  if (value.starts_with('=')) list.exact = true, value.remove_prefix(1);
  while (!value.empty()) {
    const size_t comma = value.find(',');
    std::string_view entry = value.substr(0, comma);
    value = comma == value.npos ? std::string_view() : value.substr(comma + 1);
    while (!entry.empty() && entry.front() == ' ') entry.remove_prefix(1);
    while (!entry.empty() && (entry.back() == ' ' || entry.back() == '\r')) entry.remove_suffix(1);
    const size_t colon = entry.find(':');
    if (colon == 0 || entry.empty()) continue;
    std::string_view port = colon == entry.npos ? std::string_view() : entry.substr(colon + 1);
    port = port.substr(0, port.find(':'));  // rail and plane follow
    list.entries.push_back({std::string(entry.substr(0, colon)), number_of(port)});
  }
  return list;
}

bool DeviceList::admits(std::string_view name, int port) const {
  if (entries.empty()) return true;
  const bool match = std::any_of(entries.begin(), entries.end(), [&](const Entry& entry) {
    return (exact ? name == entry.name : name.starts_with(entry.name)) && (entry.port < 0 || port < 0 || entry.port == port);
  });
  return match != exclude;
}

}  // namespace dsinfer::topology
