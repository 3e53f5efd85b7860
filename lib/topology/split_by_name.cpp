// One folder with the files of several machines: "s114-lspci.txt", "s116-lspci.txt". versions.csv names the machines, or the names themselves show
// that the same listing was taken twice.
#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <set>

#include "topology/lines.hpp"
#include "topology/machines.hpp"

namespace dsinfer::topology {
namespace {

bool is_separator(char c) { return c == '-' || c == '_' || c == '.'; }

bool has_prefix(const std::string& file, const std::string& prefix) {
  return file.size() > prefix.size() && file.starts_with(prefix) && is_separator(file[prefix.size()]);
}

// Words that say what a file is or when it was taken, not whose it is. A number makes some of them a machine: "gpu-01", "host2".
bool is_no_machine(const std::string& prefix) {
  constexpr std::array kTools = {"ibv", "devinfo", "ibstat", "ibstatus", "ibdev", "nvidia", "smi", "lspci", "nccl", "hwloc", "ifconfig", "show", "gids", "topo", "rdma"};
  constexpr std::array kKinds = {"before", "after", "old", "new", "host", "container", "pod", "docker", "first", "second", "ip", "dev", "sys", "gpu", "net", "excerpt"};
  const bool numbered = !prefix.empty() && std::isdigit(static_cast<unsigned char>(prefix.back()));
  std::string word;
  for (const char c : lower_case(prefix) + "-") {
    if (std::isalpha(static_cast<unsigned char>(c))) {
      word += c;
      continue;
    }
    if (std::find(kTools.begin(), kTools.end(), word) != kTools.end()) return true;
    if (!numbered && std::find(kKinds.begin(), kKinds.end(), word) != kKinds.end()) return true;
    word.clear();
  }
  return false;
}

std::string formats_of(const FileParts& file) {
  std::string formats;
  for (const Imported& part : file.parts) formats += part.format + "\n";
  return formats;
}

// Prefixes of files that differ in nothing but them and hold the same formats.
std::vector<std::string> prefixes_of(const std::vector<FileParts>& files) {
  std::map<std::string, std::set<std::string>> prefixes;  // rest of the name and formats → what stood before
  for (const FileParts& file : files) {
    const std::string formats = formats_of(file);
    for (size_t at = 1; at + 1 < file.file.size(); ++at) {
      if (!is_separator(file.file[at]) || file.file[at] == '.') continue;
      prefixes[file.file.substr(at + 1) + "\n" + formats].insert(file.file.substr(0, at));
    }
  }
  std::set<std::string> found;
  for (const auto& [rest, names] : prefixes) {
    if (names.size() > 1) found.insert(names.begin(), names.end());
  }
  // "gpu-1-ibstat.txt" and "gpu-2-ibstat.txt" agree in "ibstat.txt" alone, but a longer name may agree in more: the shortest prefix is the machine.
  std::vector<std::string> kept;
  for (const std::string& name : found) {
    if (is_no_machine(name)) return {};
    const bool longer = std::any_of(found.begin(), found.end(), [&](const std::string& other) { return has_prefix(name, other); });
    if (!longer) kept.push_back(name);
  }
  const bool all = std::all_of(files.begin(), files.end(), [&](const FileParts& f) {
    return std::any_of(kept.begin(), kept.end(), [&](const std::string& prefix) { return has_prefix(f.file, prefix); });
  });
  return all && kept.size() > 1 ? kept : std::vector<std::string>();
}

}  // namespace

std::vector<Machine> split_by_name(std::vector<FileParts>& files, const std::vector<std::string>& nodes) {
  std::vector<std::string> names = nodes;
  const auto owner = [&](const std::string& file) {
    const std::string* best = nullptr;
    for (const std::string& name : names) {
      if (has_prefix(file, name) && (!best || name.size() > best->size())) best = &name;
    }
    return best;
  };
  if (std::none_of(files.begin(), files.end(), [&](const FileParts& f) { return owner(f.file) != nullptr; })) {
    if (files.size() > 1000) return {};  // no folder that somebody named by hand
    names = prefixes_of(files);
  }
  if (names.empty()) return {};
  std::vector<Machine> machines;
  for (const std::string& name : names) machines.push_back({clean_text(name), true, false, {}});
  std::vector<FileParts> rest;
  for (FileParts& file : files) {
    const std::string* name = owner(file.file);
    if (!name) {
      rest.push_back(std::move(file));
      continue;
    }
    Machine& machine = machines[static_cast<size_t>(name - names.data())];
    for (Imported& part : file.parts) machine.parts.push_back(std::move(part));
  }
  files = std::move(rest);  // of none of them by name
  return machines;
}

}  // namespace dsinfer::topology
