/// How a stored Cluster says what it is.
#pragma once

namespace dsinfer::topology {

inline constexpr const char* kClusterFormat = "dsinfer-cluster";
inline constexpr int kClusterVersion = 1;  ///< grows when an older library would misread; new keys alone do not need it

}  // namespace dsinfer::topology
