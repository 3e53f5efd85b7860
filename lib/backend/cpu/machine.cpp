#include "backend/cpu/machine.hpp"

#include <sched.h>

#include <algorithm>
#include <limits>

#include "core/cgroup.hpp"

namespace dsinfer::cpu {

int granted_cores(const std::string& root) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  double cores = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : 1;
  if (const auto quota = cgroup_cpu_quota(root)) cores = std::min(cores, *quota);
  return std::max(1, static_cast<int>(cores + 0.999));
}

size_t available_memory(const std::string& root) {
  constexpr double kUnknown = 9e18;
  double left = kUnknown;
  if (const auto available = file_entry(root + "/proc/meminfo", "MemAvailable")) left = *available * 1024;
  for (const CgroupMemory& group : cgroup_memory(root)) left = std::min(left, std::max(0.0, group.limit - group.used + group.reclaimable));
  return left >= kUnknown ? std::numeric_limits<size_t>::max() : static_cast<size_t>(left);
}

}  // namespace dsinfer::cpu
