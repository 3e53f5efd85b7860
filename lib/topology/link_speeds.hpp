/// NVLink as links of the node.
#pragma once
#include "topology/names.hpp"

namespace dsinfer::topology {

/// GB/s of one NVLink in one direction, by the GPU's model; 0 unknown.
DSINFER_INTERNAL double nvlink_gb_per_s(const Gpu& gpu);

/// Appends the NVLinks of the node: GPU to GPU, or GPU to "nvswitch" where the counts cannot be direct ones, and GPU to its CPU (C2C).
void add_nvlinks(Node& node);

}  // namespace dsinfer::topology
