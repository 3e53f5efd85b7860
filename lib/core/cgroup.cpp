#include "core/cgroup.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace dsinfer {
namespace {

std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

std::optional<double> number(const std::string& path) {
  const auto line = first_line(path);
  if (!line) return std::nullopt;
  std::istringstream text(*line);
  double value = 0;
  if (!(text >> value)) return std::nullopt;  // "max"
  return value;
}

// Folders of this process's cgroup and of all that enclose it, for a v1 controller ("cpu", "memory") or v2 (""). Inside a container the path may
// not exist under the mount; the mount's own files then speak for it, so the root always comes last.
std::vector<std::string> cgroup_folders(const std::string& root, const std::string& controller) {
  std::string path = "/";
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {  // id:controllers:path
    const size_t a = line.find(':'), b = a == std::string::npos ? a : line.find(':', a + 1);
    if (b == std::string::npos) continue;
    std::istringstream names(line.substr(a + 1, b - a - 1));
    bool mine = controller.empty() && b == a + 1;
    for (std::string name; std::getline(names, name, ',');) mine = mine || name == controller;
    if (mine) path = line.substr(b + 1);
  }
  const std::string mount = root + "/sys/fs/cgroup" + (controller.empty() ? "" : "/" + controller);
  std::vector<std::string> folders;
  while (path.size() > 1) {
    folders.push_back(mount + path);
    path.resize(path.rfind('/'));
  }
  folders.push_back(mount);
  return folders;
}

constexpr double kUnlimited = 9e18;  // v1 writes "no limit" as 2^63 less a page

}  // namespace

std::optional<double> file_entry(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream text(line);
    std::string name;
    double value = 0;
    if (text >> name >> value && (name == key || name == key + ":")) return value;
  }
  return std::nullopt;
}

std::optional<double> cgroup_cpu_quota(const std::string& root) {
  std::optional<double> least;
  const auto take = [&](double quota, double period) {
    if (quota > 0 && period > 0) least = std::min(least.value_or(quota / period), quota / period);
  };
  for (const std::string& folder : cgroup_folders(root, "")) {
    const auto line = first_line(folder + "/cpu.max");
    if (!line) continue;
    std::istringstream text(*line);
    double quota = 0, period = 0;
    if (text >> quota >> period) take(quota, period);
  }
  for (const std::string& folder : cgroup_folders(root, "cpu")) {
    take(number(folder + "/cpu.cfs_quota_us").value_or(0), number(folder + "/cpu.cfs_period_us").value_or(0));
  }
  return least;
}

std::vector<CgroupMemory> cgroup_memory(const std::string& root) {
  std::vector<CgroupMemory> limits;
  const auto take = [&](std::optional<double> limit, std::optional<double> used, std::optional<double> cache) {
    if (limit && used && *limit < kUnlimited) limits.push_back({*limit, *used, cache.value_or(0)});
  };
  for (const std::string& folder : cgroup_folders(root, "")) {
    take(number(folder + "/memory.max"), number(folder + "/memory.current"), file_entry(folder + "/memory.stat", "inactive_file"));
  }
  for (const std::string& folder : cgroup_folders(root, "memory")) {
    take(number(folder + "/memory.limit_in_bytes"), number(folder + "/memory.usage_in_bytes"), file_entry(folder + "/memory.stat", "total_inactive_file"));
  }
  return limits;
}

}  // namespace dsinfer
