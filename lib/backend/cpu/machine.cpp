#include "backend/cpu/machine.hpp"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <vector>

namespace dsinfer::cpu {
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

// "key value" or "key: value" in a file of such lines.
std::optional<double> entry(const std::string& path, const std::string& key) {
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

int granted_cores(const std::string& root) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  double cores = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : 1;
  for (const std::string& folder : cgroup_folders(root, "")) {
    const auto line = first_line(folder + "/cpu.max");
    if (!line) continue;
    std::istringstream text(*line);
    double quota = 0, period = 0;
    if (text >> quota >> period && quota > 0 && period > 0) cores = std::min(cores, quota / period);
  }
  for (const std::string& folder : cgroup_folders(root, "cpu")) {
    const auto quota = number(folder + "/cpu.cfs_quota_us"), period = number(folder + "/cpu.cfs_period_us");
    if (quota && period && *quota > 0 && *period > 0) cores = std::min(cores, *quota / *period);
  }
  return std::max(1, static_cast<int>(cores + 0.999));
}

size_t available_memory(const std::string& root) {
  double left = entry(root + "/proc/meminfo", "MemAvailable").value_or(kUnlimited / 1024) * 1024;
  const auto take = [&](std::optional<double> limit, std::optional<double> used, std::optional<double> cache) {
    if (limit && used && *limit < kUnlimited) left = std::min(left, std::max(0.0, *limit - *used + cache.value_or(0)));
  };
  for (const std::string& folder : cgroup_folders(root, "")) {
    take(number(folder + "/memory.max"), number(folder + "/memory.current"), entry(folder + "/memory.stat", "inactive_file"));
  }
  for (const std::string& folder : cgroup_folders(root, "memory")) {
    take(number(folder + "/memory.limit_in_bytes"), number(folder + "/memory.usage_in_bytes"), entry(folder + "/memory.stat", "total_inactive_file"));
  }
  return left >= kUnlimited ? std::numeric_limits<size_t>::max() : static_cast<size_t>(left);
}

}  // namespace dsinfer::cpu
