#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "core/cgroup.hpp"
#include "topology/importers.hpp"
#include "topology/probes.hpp"

extern char** environ;

namespace dsinfer::topology {
namespace {

// Settings of NCCL, UCX, Gloo, Open MPI, libfabric, rdma-core and CUDA that change the choice or must agree between nodes.
bool relevant(std::string_view name) {
  if (set_by_launcher(name)) return false;
  static constexpr std::string_view kPrefixes[] = {"NCCL_", "UCX_", "GLOO_", "OMPI_MCA_", "FI_", "RDMAV_", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"};
  return std::any_of(std::begin(kPrefixes), std::end(kPrefixes), [&](std::string_view prefix) { return name.substr(0, prefix.size()) == prefix; });
}

void read_environment(const ProbeOptions& options, Node& node) {
  const auto take = [&](std::string_view line) {
    const size_t equals = line.find('=');
    if (equals == line.npos || !relevant(line.substr(0, equals))) return;
    node.settings.push_back({clean_text(line.substr(0, equals)), clean_text(line.substr(equals + 1)), "environment"});
  };
  if (options.environment) {
    for (const std::string& line : *options.environment) take(line);
  } else {
    for (char** line = environ; line && *line; ++line) take(*line);
  }
  std::sort(node.settings.begin(), node.settings.end(), [](const Setting& a, const Setting& b) { return a.name < b.name; });
}

std::string variable(const ProbeOptions& options, const std::string& name) {
  if (!options.environment) {
    const char* value = std::getenv(name.c_str());
    return value ? value : "";
  }
  for (const std::string& line : *options.environment) {
    if (line.rfind(name + "=", 0) == 0) return line.substr(name.size() + 1);
  }
  return "";
}

// NCCL reads the user's file first, then the system's; each sets what is not set yet.
void read_nccl_conf(const ProbeOptions& options, Node& node) {
  std::string user = variable(options, "NCCL_CONF_FILE");
  if (user.empty()) {
    const std::string home = variable(options, "HOME");
    if (!home.empty()) user = home + "/.nccl.conf";
  }
  const auto machine = folder_tree("/");
  for (const std::string& path : {user, std::string("/etc/nccl.conf")}) {
    const auto text = path.size() > 1 && path[0] == '/' ? machine->read(path.substr(1)) : std::nullopt;
    if (!text) continue;
    for (Node& part : import_capture(*text, clean_text(path))) {
      for (Setting& setting : part.settings) {
        setting.origin = clean_text(path);
        node.settings.push_back(std::move(setting));
      }
    }
    node.sources.push_back(clean_text(path));
  }
}

// In the first user namespace CAP_IPC_LOCK lifts the limit; in another the kernel does not count it.
bool may_lock_memory(const Tree& machine) {
  const auto map = machine.line("proc/self/uid_map");
  if (!map || map->find("4294967295") == map->npos) return false;
  const std::string status = machine.read("proc/self/status").value_or("");
  const size_t at = status.find("CapEff:");
  if (at == status.npos) return false;
  const size_t begin = std::min(status.find_first_not_of(" \t", at + 7), status.size());
  uint64_t capabilities = 0;
  std::from_chars(status.data() + begin, status.data() + status.size(), capabilities, 16);
  return capabilities >> 14 & 1;
}

void read_limits(const Tree& machine, Host& host) {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
    const bool unlimited = limit.rlim_cur == RLIM_INFINITY || may_lock_memory(machine);
    host.memlock_bytes = unlimited ? -1 : static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, INT64_MAX));
  }
  struct statvfs shm {};
  if (statvfs("/dev/shm", &shm) == 0) host.shm_bytes = static_cast<int64_t>(shm.f_blocks) * static_cast<int64_t>(shm.f_frsize);
  double cpus = cgroup_cpu_quota().value_or(0);
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  // A control group's set of CPUs shows in the mask of the process; so does a launcher's binding, which is as real for what we start.
  if (sched_getaffinity(0, sizeof mask, &mask) == 0 && CPU_COUNT(&mask) < online) {
    cpus = cpus > 0 ? std::min<double>(cpus, CPU_COUNT(&mask)) : CPU_COUNT(&mask);
  }
  host.cgroup_cpus = cpus;
  double memory = 0;
  for (const CgroupMemory& group : cgroup_memory()) memory = memory > 0 ? std::min(memory, group.limit) : group.limit;
  host.cgroup_memory_bytes = static_cast<int64_t>(memory);
}

// Opening a verbs device file asks nothing of the device. A listing alone does not tell: control groups refuse files that are there.
void try_uverbs(const Tree& machine, Node& node) {
  std::vector<std::string> refused;
  for (const std::string& name : machine.list("dev/infiniband")) {
    if (name.rfind("uverbs", 0) != 0) continue;
    const int file = open(("/dev/infiniband/" + name).c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (file >= 0) {
      close(file);
    } else {
      refused.push_back("/dev/infiniband/" + clean_text(name) + ": " + std::strerror(errno));
    }
  }
  if (refused.empty()) return;
  node.findings.push_back({"uverbs-refused", Severity::warning, {}, "device files of HCAs are there but this process may not open them", std::move(refused),
                           "admit them in the container's device list, or give the user the group of /dev/infiniband"});
}

// nullopt: a container sees its own processes only, so that none here tells nothing.
std::optional<bool> fabric_manager_runs(const Tree& machine) {
  if (machine.exists("run/nvidia-fabricmanager/nv-fabricmanager.pid") || machine.exists("var/run/nvidia-fabricmanager/nv-fabricmanager.pid")) return true;
  DIR* folder = opendir("/proc");
  if (!folder) return std::nullopt;
  bool found = false;
  for (const dirent* entry = readdir(folder); entry && !found; entry = readdir(folder)) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    const auto name = machine.line("proc/" + std::string(entry->d_name) + "/comm");
    found = name && (*name == "nv-fabricmanage" || *name == "nv-fabricmanager");  // the kernel keeps 15 characters
  }
  closedir(folder);
  if (found) return true;
  const auto threads = machine.line("proc/2/comm");  // kthreadd: this is the machine's own list of processes
  return threads && *threads == "kthreadd" ? std::optional<bool>(false) : std::nullopt;
}

}  // namespace

// The names are Open MPI 3 and 4's; the choices of network (btl_, oob_, pml, mtl) are not among them: users set those.
bool set_by_launcher(std::string_view variable) {
  static constexpr std::string_view kPrefixes[] = {"orte_", "ess", "pmix", "initial_wdir", "shmem_RUNTIME", "mpi_oversubscribe", "plm", "rmaps"};
  if (!variable.starts_with("OMPI_MCA_")) return false;
  variable.remove_prefix(9);
  return std::any_of(std::begin(kPrefixes), std::end(kPrefixes), [&](std::string_view prefix) { return variable.starts_with(prefix); });
}

Node probe_process(const ProbeOptions& options) {
  Node node;
  if (options.root != "/") {  // another machine's files: this process's limits are not theirs
    if (options.environment) read_environment(options, node);
    return node;
  }
  const auto machine = folder_tree("/");
  node.sources.push_back("live: process");
  read_environment(options, node);
  read_nccl_conf(options, node);
  read_limits(*machine, node.host);
  try_uverbs(*machine, node);
  if (machine->exists("proc/driver/nvidia/version")) node.host.fabric_manager = fabric_manager_runs(*machine);
  if (!options.nccl_library.empty()) find_nccl(options.nccl_library, node);
  return node;
}

}  // namespace dsinfer::topology
