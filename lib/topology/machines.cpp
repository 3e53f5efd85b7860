// import_machines() and import_text(): captured files in, a Cluster with choice and checks out.
#include "topology/machines.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <system_error>

#include "dsinfer/error.hpp"
#include "topology/join.hpp"

namespace dsinfer {
namespace {

using topology::Imported;
using topology::Machine;
using topology::Machines;

std::string last_part(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const std::string name = path.substr(path.rfind('/') + 1);
  return topology::clean_text(name.empty() || name == "." ? "machine" : name);
}

// The host's own name, unless the files are named after the machine; made different where two are equal.
std::string node_name(const Machine& machine, std::set<std::string>& taken) {
  std::string name = machine.name;
  if (!machine.named_by_files) {
    for (const Imported& part : machine.parts) {
      if (part.node.host.name.empty()) continue;
      name = part.node.host.name;
      break;
    }
  }
  if (taken.count(name) && !taken.count(machine.name)) name = machine.name;
  const std::string base = name;
  for (int i = 2; !taken.insert(name).second; ++i) name = base + "-" + std::to_string(i);
  return name;
}

Node join_machine(Machine machine, std::set<std::string>& taken) {
  std::stable_sort(machine.parts.begin(), machine.parts.end(), [](const Imported& a, const Imported& b) { return a.rank < b.rank; });
  const std::string name = node_name(machine, taken);
  std::vector<Node> parts;
  for (Imported& part : machine.parts) parts.push_back(std::move(part.node));
  return topology::join(std::move(parts), name);
}

Finding not_known(const std::vector<std::string>& files) {
  Finding finding;
  finding.code = "file-not-known";
  finding.text = std::to_string(files.size()) + (files.size() == 1 ? " file was" : " files were") + " left out";
  constexpr size_t kShown = 20;
  finding.evidence.assign(files.begin(), files.begin() + static_cast<std::ptrdiff_t>(std::min(files.size(), kShown)));
  finding.advice = "Nothing, if they are no output of a tool that lists devices.";
  return finding;
}

Cluster cluster_of(Machines found) {
  Cluster cluster;
  std::set<std::string> taken;
  for (Node& node : found.stored) {
    taken.insert(node.name);
    cluster.nodes.push_back(std::move(node));
  }
  for (Machine& machine : found.machines) cluster.nodes.push_back(join_machine(std::move(machine), taken));
  choose_network(cluster);
  if (!found.unknown.empty()) cluster.findings.push_back(not_known(found.unknown));
  return cluster;
}

constexpr size_t kMaxFile = size_t{64} << 20;     // an archive; importers of text read less
constexpr size_t kMaxStored = size_t{512} << 20;  // a stored cluster: thousands of nodes

// The path is the user's own: links in it are followed wherever they lead, unlike those inside a captured folder.
std::string read_file(const std::string& path, size_t limit) {
  std::error_code error;
  const std::string place = std::filesystem::canonical(path, error).string();
  const size_t slash = place.rfind('/');
  if (error || slash == place.npos) throw Error(Error::io, path + ": cannot be read" + (error ? ": " + error.message() : ""));
  auto content = topology::folder_tree(slash == 0 ? "/" : place.substr(0, slash))->read(place.substr(slash + 1), limit);
  if (!content) throw Error(Error::io, path + ": cannot be read");
  return std::move(*content);
}

void check_stored_size(const std::string& path, uint64_t size) {
  if (size <= kMaxStored) return;
  throw Error(Error::unsupported, path + ": a stored cluster of " + std::to_string(size) + " bytes, the limit is " + std::to_string(kMaxStored) +
                                      " (512 MiB); store fewer nodes in a file and import the folder of these files");
}

bool is_stored_cluster(std::string_view content) {
  const size_t first = content.find_first_not_of(" \t\r\n");
  return first != content.npos && content[first] == '{' && content.substr(first, 4096).find("\"dsinfer-cluster\"") != content.npos;
}

}  // namespace

Cluster import_machines(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) {
    const int error = errno;
    const bool absent = error == ENOENT || error == ENOTDIR;
    throw Error(absent ? Error::not_found : Error::io, path + ": " + std::generic_category().message(error));
  }
  const std::string name = last_part(path);
  if (S_ISDIR(status.st_mode)) return cluster_of(topology::scan_tree(topology::folder_tree(path), name));
  if (!S_ISREG(status.st_mode)) throw Error(Error::io, path + ": neither a file nor a folder; for a pipe use `--from -`, which reads the standard input");
  std::string content = read_file(path, kMaxFile);
  if (is_stored_cluster(content)) {  // as it was stored, with its choice
    const auto size = static_cast<uint64_t>(status.st_size);
    check_stored_size(path, size);
    if (size > content.size()) content = read_file(path, kMaxStored);
    return Cluster::from_json(content);
  }
  return cluster_of(topology::scan_file(content, name));
}

Cluster import_text(std::string_view text, const std::string& name) {
  if (is_stored_cluster(text)) return Cluster::from_json(text);
  return cluster_of(topology::scan_file(std::string(text), name));
}

}  // namespace dsinfer
