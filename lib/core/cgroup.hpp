/// What the control groups (v1 and v2) of this process allow. `root` stands before /proc and /sys (tests).
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "dsinfer/export.hpp"

namespace dsinfer {

/// CPUs by quota, of the tightest enclosing group; nullopt if none limits them.
DSINFER_INTERNAL std::optional<double> cgroup_cpu_quota(const std::string& root = "");

/// A limit on memory with what is used of it, in bytes. `reclaimable`: file cache that the kernel would give up.
struct CgroupMemory {
  double limit = 0, used = 0, reclaimable = 0;
};
/// The limits of all enclosing groups; those without a limit are left out.
DSINFER_INTERNAL std::vector<CgroupMemory> cgroup_memory(const std::string& root = "");

/// "key value" or "key: value" in a file of such lines.
DSINFER_INTERNAL std::optional<double> file_entry(const std::string& path, const std::string& key);

}  // namespace dsinfer
