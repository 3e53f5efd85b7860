// Walks a folder or an archive, has every file read by the importers that know it, and sorts what they found by machine.
#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "dsinfer/error.hpp"
#include "topology/lines.hpp"
#include "topology/machines.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMaxText = size_t{16} << 20, kMaxArchive = size_t{64} << 20;  // an archive or a stored cluster
constexpr size_t kMaxFiles = 4096, kMaxBytes = size_t{512} << 20;  // of one import: a home folder given by mistake must end
constexpr int kMaxDepth = 8;

// A folder that is /sys itself, seen as the root above it.
class SysTree : public Tree {
 public:
  explicit SysTree(std::unique_ptr<Tree> sys) : sys_(std::move(sys)) {}
  std::optional<std::string> read(std::string_view path, size_t limit, size_t offset) const override {
    const auto p = below(path);
    return p ? sys_->read(*p, limit, offset) : std::nullopt;
  }
  std::vector<std::string> list(std::string_view path) const override {
    const auto p = below(path);
    return p ? sys_->list(*p) : std::vector<std::string>();
  }
  bool exists(std::string_view path) const override {
    const auto p = below(path);
    return p && sys_->exists(*p);
  }
  std::optional<std::string> resolve(std::string_view path) const override {
    const auto p = below(path);
    const auto place = p ? sys_->resolve(*p) : std::nullopt;
    return place ? std::optional("sys/" + *place) : std::nullopt;
  }
  std::optional<std::string> link(std::string_view path) const override {
    const auto p = below(path);
    return p ? sys_->link(*p) : std::nullopt;
  }
  bool unreadable(std::string_view path) const override {
    const auto p = below(path);
    return p && sys_->unreadable(*p);
  }
  std::string damage() const override { return sys_->damage(); }

 private:
  static std::optional<std::string_view> below(std::string_view path) {
    if (path == "sys") return "";
    return path.starts_with("sys/") ? std::optional(path.substr(4)) : std::nullopt;
  }
  std::unique_ptr<Tree> sys_;
};

std::string joined(const std::string& folder, const std::string& name) { return folder.empty() ? name : folder + "/" + name; }
std::string stem(const std::string& file) {
  const std::string last = file.substr(file.rfind('/') + 1);
  const size_t dot = last.find('.');
  return dot == 0 || dot == last.npos ? last : last.substr(0, dot);
}

bool any_exists(const Tree& tree, const std::string& folder, std::initializer_list<const char*> paths) {
  return std::any_of(paths.begin(), paths.end(), [&](const char* path) { return tree.exists(joined(folder, path)); });
}
bool holds_root(const Tree& tree, const std::string& folder) {
  return any_exists(tree, folder, {"sys/class", "sys/bus", "sys/devices", "sys/module", "sys/kernel", "proc/cpuinfo", "proc/driver/nvidia", "dev/infiniband"});
}
bool is_sys(const Tree& tree, const std::string& folder) {
  return any_exists(tree, folder, {"class/infiniband", "class/net", "bus/pci/devices", "devices/system"});
}

// Folders of a root file system that read_sysfs() reads itself, or that hold no captures.
bool is_system_folder(const std::string& name) {
  constexpr std::array kNames = {"sys", "proc", "dev", "etc", "run", "usr", "lib", "lib64", "bin", "sbin", "boot", "var", "opt", "home", "root", "tmp", "mnt",
                                 "media", "srv", "lost+found"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

bool is_binary(std::string_view content) {
  const bool utf16 = content.starts_with("\xff\xfe") || content.starts_with("\xfe\xff");
  return !utf16 && content.substr(0, 8192).find('\0') != content.npos;
}

bool is_cluster_json(std::string_view content) {
  const size_t first = content.find_first_not_of(" \t\r\n");
  return first != content.npos && content[first] == '{' && content.substr(first, 4096).find("\"dsinfer-cluster\"") != content.npos;
}

// versions.csv and its like: a heading that begins "node," and a line for each machine.
struct NodeTable {
  std::string file, heading;
  std::map<std::string, std::string> rows;
};
std::optional<NodeTable> node_table(std::string_view content, const std::string& file) {
  const std::string text = tidy_text(content.substr(0, size_t{1} << 20));
  NodeTable table;
  table.file = file;
  for (const std::string_view line : split_lines(text)) {
    if (trim(line).empty()) continue;
    if (table.heading.empty()) {
      if (!lower_case(std::string(trim(line))).starts_with("node,")) return std::nullopt;
      table.heading = line;
      continue;
    }
    const std::vector<std::string> cells = cells_of(line);
    if (!cells.empty() && !cells[0].empty() && table.rows.size() < 65536) (table.rows[cells[0]] += line) += "\n";
  }
  return table.heading.empty() ? std::nullopt : std::optional(std::move(table));
}

bool holds_devices(const std::vector<Imported>& parts) {
  return std::any_of(parts.begin(), parts.end(), [](const Imported& p) {
    return !p.node.gpus.empty() || !p.node.hcas.empty() || !p.node.interfaces.empty() || !p.node.pci.empty() || p.node.gpus_complete || p.node.hcas_complete;
  });
}

std::set<std::string> formats_of(const Machine& machine) {
  std::set<std::string> formats;
  for (const Imported& part : machine.parts) formats.insert(part.format);
  return formats;
}

class Scan {
 public:
  explicit Scan(std::string name) : name_(std::move(name)) {}

  Machines take() && { return std::move(found_); }

  std::vector<Machine> folder(const std::shared_ptr<const Tree>& tree, const std::string& path, const std::string& name, int depth) {
    std::vector<FileParts> own;
    std::vector<Machine> children;
    std::vector<NodeTable> tables;
    const bool root = holds_root(*tree, path), sys = !root && is_sys(*tree, path);
    if (root || sys) own.push_back({"", {read_root(tree, path, sys)}});
    if (!sys) {
      for (const std::string& entry : tree->list(path)) {
        if (root && is_system_folder(entry)) continue;
        read_entry(tree, joined(path, entry), entry, depth, own, children, tables);
      }
    }
    if (root && tree->exists(joined(path, "etc/nccl.conf"))) read_entry(tree, joined(path, "etc/nccl.conf"), "nccl.conf", depth, own, children, tables);
    return sort_out(std::move(own), std::move(children), tables, name);
  }

  // A file's machines, if it is an archive or a stored cluster; its parts go to `own` otherwise.
  std::vector<Machine> file(const std::string& content, const std::string& path, const std::string& name, int depth, std::vector<FileParts>& own) {
    if (is_archive(content)) return archive(content, path, name, depth);
    if (is_cluster_json(content)) return stored(content, path);
    if (content.size() > kMaxText) return unknown(path, "larger than 16 MiB");
    if (content.find_first_not_of(" \t\r\n") == content.npos) return empty_file(path, name, own);
    if (is_binary(content)) return unknown(path, "binary");
    std::vector<Imported> parts = import_parts(content, display(path));
    if (parts.empty()) return unknown(path, "no importer knows it");
    std::vector<Machine> hosts = split_log(content, path, parts);
    if (!parts.empty()) own.push_back({name, std::move(parts)});
    return hosts;
  }

  // Machines from the files and folders of one folder.
  std::vector<Machine> sort_out(std::vector<FileParts> own, std::vector<Machine> children, const std::vector<NodeTable>& tables, const std::string& name) {
    std::vector<std::string> nodes;
    for (const NodeTable& table : tables) {
      for (const auto& row : table.rows) nodes.push_back(row.first);
    }
    std::vector<Machine> machines = split_by_name(own, nodes);
    const bool named = !machines.empty();
    std::vector<Imported> rest;
    for (FileParts& f : own) {
      for (Imported& part : f.parts) rest.push_back(std::move(part));
    }
    std::vector<Machine> hosts = take_hosts(children);
    if (!hosts.empty() && !named && (holds_devices(rest) || !children.empty())) give_log(hosts, rest, children);
    for (Machine& host : hosts) adopt(machines, std::move(host));
    const bool apart = machines.empty() && are_machines(children, rest);
    const bool only = machines.empty() && rest.empty() && children.size() == 1 && !is_topic(children[0].name);
    if (apart || only || !machines.empty()) {
      for (Machine& child : children) adopt(machines, std::move(child));
    } else {
      for (Machine& child : children) {
        for (Imported& part : child.parts) rest.push_back(std::move(part));
      }
    }
    add_rows(machines, tables);
    if (machines.empty()) {
      if (!rest.empty()) machines.push_back({name, false, false, std::move(rest)});
    } else if (holds_devices(rest)) {
      machines.push_back({name, false, false, std::move(rest)});
    } else {
      for (Machine& machine : machines) machine.parts.insert(machine.parts.end(), rest.begin(), rest.end());  // settings for all
    }
    return machines;
  }

 private:
  Imported read_root(const std::shared_ptr<const Tree>& tree, const std::string& path, bool sys) {
    std::unique_ptr<Tree> part = sub_tree(tree, path);
    if (sys) part = std::make_unique<SysTree>(std::move(part));
    const std::string source = (path.empty() ? name_ : display(path)) + " (sysfs)";
    return {read_sysfs(*part, source), "sysfs", 0};
  }

  void read_entry(const std::shared_ptr<const Tree>& tree, const std::string& path, const std::string& entry, int depth, std::vector<FileParts>& own,
                  std::vector<Machine>& children, std::vector<NodeTable>& tables) {
    if (files_ >= kMaxFiles || bytes_ >= kMaxBytes) {
      if (!full_) unknown(path, "and what follows: too many files");
      full_ = true;
      return;
    }
    if (const auto place = tree->link(path) ? tree->resolve(path) : std::optional<std::string>(path); !place) {
      unknown(path, "a link that leads out of the folder");
      return;
    } else if (*place != path && !tree->list(*place).empty()) {
      return;  // a link to a folder inside: that is read where it stands
    }
    auto content = tree->read(path, kMaxText + 1);
    ++files_;
    if (content && content->size() > kMaxText && (is_archive(*content) || is_cluster_json(*content))) content = tree->read(path, kMaxArchive + 1);
    if (content) {
      bytes_ += content->size();
      if (auto table = node_table(*content, path); table && table->rows.size() > 1) {
        tables.push_back(std::move(*table));
        return;
      }
      for (Machine& machine : file(*content, path, entry, depth, own)) children.push_back(std::move(machine));
    } else if (tree->unreadable(path)) {
      unknown(path, "cannot be read");
    } else if (depth < kMaxDepth && entry[0] != '.') {
      for (Machine& machine : folder(tree, path, entry, depth + 1)) children.push_back(std::move(machine));
    }
  }

  std::vector<Machine> archive(const std::string& content, const std::string& path, const std::string& name, int depth) {
    if (depth >= kMaxDepth || archives_ >= 64 || content.size() > kMaxArchive) return unknown(path, "an archive too large or too deep inside others");
    ++archives_;
    try {
      const std::shared_ptr<const Tree> tree = archive_tree(content, display(path));
      std::vector<Machine> machines;
      const std::string outer = std::exchange(name_, display(path));
      const std::vector<std::string> top = tree->list("");
      if (top.size() == 1 && !tree->list(top[0]).empty()) machines = folder(tree, top[0], stem(name), depth + 1);  // the folder that was packed
      else machines = folder(tree, "", stem(name), depth + 1);
      name_ = outer;
      if (!tree->damage().empty() && machines.empty()) unknown(path, tree->damage());  // stored clusters and unknown files may be in it
      if (!tree->damage().empty() && !machines.empty()) {
        Imported note;
        note.node.findings.push_back({"truncated", Severity::warning, {}, display(path) + ": " + tree->damage(), {}, "Pack it again."});
        machines.front().parts.push_back(std::move(note));
      }
      return machines;
    } catch (const Error& error) {
      return unknown(path, error.what());
    }
  }

  std::vector<Machine> stored(const std::string& content, const std::string& path) {
    const bool cut_by_archive = content.size() == kMaxText + 1;  // what an archive in memory keeps of one file
    if (cut_by_archive) return unknown(path, "a stored cluster larger than 16 MiB, the limit inside an archive: unpack it and import the file");
    if (content.size() > kMaxArchive) return unknown(path, "a stored cluster larger than 64 MiB, the limit in a folder: import the file itself");
    try {
      Cluster cluster = Cluster::from_json(content);
      for (Node& node : cluster.nodes) found_.stored.push_back(std::move(node));
    } catch (const Error& error) {
      unknown(path, error.what());
    }
    return {};
  }

  // `nvidia-smi nvlink --status` prints nothing where no GPU has a link; only its name tells what such a file is.
  std::vector<Machine> empty_file(const std::string& path, const std::string& name, std::vector<FileParts>& own) {
    if (lower_case(name).find("nvlink") == std::string::npos) return {};
    Imported part;
    part.node.nvlink = false;
    part.node.sources.push_back(display(path) + " (nvidia-smi nvlink, empty)");
    part.format = "nvidia-smi nvlink";
    part.rank = 1000;
    own.push_back({name, {std::move(part)}});
    return {};
  }

  // Children are machines of their own when they hold the same kinds of listings, and nothing beside them describes a machine. Folders of different
  // listings ("network", "gpu") are one machine's.
  static bool are_machines(const std::vector<Machine>& children, const std::vector<Imported>& beside) {
    if (children.size() < 2 || holds_devices(beside)) return false;
    std::set<std::string> seen;
    bool same = false, topics = true;
    for (const Machine& child : children) {
      for (const std::string& format : formats_of(child)) same = !seen.insert(format).second || same;
      topics = topics && is_topic(child.name);
    }
    return same || !topics;
  }

  // A log that the ranks of several hosts wrote: a machine for each. Its parts go from `parts`.
  std::vector<Machine> split_log(const std::string& content, const std::string& path, std::vector<Imported>& parts) {
    const auto is_log = [](const Imported& part) { return part.format == kNcclLog.format || part.format == kNcclGraph.format; };
    if (std::none_of(parts.begin(), parts.end(), is_log)) return {};
    const std::string text = tidy_text(content);
    if (nccl_log_hosts(text).size() < 2) return {};
    std::vector<Machine> hosts;
    for (const auto& [host, lines] : split_nccl_log(text)) {
      if (hosts.size() >= 4096) break;
      Machine machine{clean_text(host), true, true, import_parts(lines, display(path))};
      std::erase_if(machine.parts, [&](const Imported& part) { return !is_log(part); });
      if (!machine.parts.empty()) hosts.push_back(std::move(machine));
    }
    std::erase_if(parts, is_log);
    return hosts;
  }

  static std::vector<Machine> take_hosts(std::vector<Machine>& children) {
    std::vector<Machine> hosts;
    for (Machine& child : children) {
      if (child.of_log) adopt(hosts, std::move(child));
    }
    std::erase_if(children, [](const Machine& m) { return m.of_log || m.parts.empty(); });
    return hosts;
  }

  // The other files describe one host of the log, or several by folders: each takes its own lines; where none bears a host's name, the first host is meant.
  void give_log(std::vector<Machine>& hosts, std::vector<Imported>& rest, std::vector<Machine>& children) {
    const auto names = [](const std::vector<Imported>& parts, const std::string& host) {
      return std::any_of(parts.begin(), parts.end(), [&](const Imported& p) { return p.node.host.name == host; });
    };
    std::vector<Imported>* only = holds_devices(rest) || children.size() != 1 ? &rest : &children[0].parts;
    bool given = false;
    for (Machine& host : hosts) {
      const auto child = std::find_if(children.begin(), children.end(), [&](const Machine& c) { return c.name == host.name || names(c.parts, host.name); });
      std::vector<Imported>* place = child != children.end() ? &child->parts : names(rest, host.name) ? &rest : nullptr;
      if (!place) continue;
      given = true;
      place->insert(place->end(), host.parts.begin(), host.parts.end());
      host.parts.clear();
    }
    if (!given && children.size() < 2) {
      only->insert(only->end(), hosts[0].parts.begin(), hosts[0].parts.end());
      hosts[0].parts.clear();
    }
    for (const Machine& host : hosts) {
      if (!host.parts.empty()) unknown("", "log lines of host " + host.name + ", of which nothing else is here");
    }
    hosts.clear();
  }

  static bool is_topic(const std::string& folder) {
    constexpr std::array kTopics = {"network", "net", "gpu", "gpus", "ib", "rdma", "infiniband", "pci", "cpu", "host", "nvidia", "logs", "log", "nccl", "topology",
                                    "system", "os", "hw", "hardware", "sysfs", "config", "conf", "hwloc", "ip", "verbs", "xml", "text", "txt", "root", "files",
                                    "data", "out", "output", "capture"};
    return std::find(kTopics.begin(), kTopics.end(), lower_case(folder)) != kTopics.end();
  }

  static void adopt(std::vector<Machine>& machines, Machine child) {
    const auto known = std::find_if(machines.begin(), machines.end(), [&](const Machine& m) { return m.name == child.name; });
    if (known == machines.end()) return machines.push_back(std::move(child));
    for (Imported& part : child.parts) known->parts.push_back(std::move(part));
  }

  // Each machine gets its line of a table; lines of machines without files are machines too.
  void add_rows(std::vector<Machine>& machines, const std::vector<NodeTable>& tables) {
    for (const NodeTable& table : tables) {
      for (const auto& [node, lines] : table.rows) {
        std::vector<Imported> parts = import_parts(table.heading + "\n" + lines, display(table.file));
        if (parts.empty()) continue;
        Machine row{clean_text(node), true, false, std::move(parts)};
        const auto own_name = [&](const Machine& m) {
          return std::any_of(m.parts.begin(), m.parts.end(), [&](const Imported& p) { return p.node.host.name == row.name; });
        };
        const auto known = std::find_if(machines.begin(), machines.end(), [&](const Machine& m) { return m.name == row.name || own_name(m); });
        if (known == machines.end()) machines.push_back(std::move(row));
        else for (Imported& part : row.parts) known->parts.push_back(std::move(part));
      }
    }
  }

  std::string display(const std::string& path) const { return clean_text(path.empty() ? name_ : path); }

  std::vector<Machine> unknown(const std::string& path, const std::string& why) {
    if (found_.unknown.size() < kMaxFiles) found_.unknown.push_back(display(path) + ": " + clean_text(why));
    return {};
  }

  std::string name_;  // of what is scanned: shown where a path inside it is empty
  Machines found_;
  size_t files_ = 0, bytes_ = 0, archives_ = 0;
  bool full_ = false;
};

}  // namespace

Machines scan_tree(const std::shared_ptr<const Tree>& tree, const std::string& name) {
  Scan scan(name);
  std::vector<Machine> machines = scan.folder(tree, "", name, 0);
  Machines found = std::move(scan).take();
  found.machines = std::move(machines);
  return found;
}

Machines scan_file(std::string content, const std::string& name) {
  Scan scan(name);
  std::vector<FileParts> own;
  std::vector<Machine> machines = scan.file(content, name, name, 0, own);
  if (!own.empty()) machines = scan.sort_out(std::move(own), std::move(machines), {}, stem(name));
  Machines found = std::move(scan).take();
  found.machines = std::move(machines);
  return found;
}

}  // namespace dsinfer::topology
