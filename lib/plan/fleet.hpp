/// What both ways to a fleet share: from words and from a cluster.
#pragma once
#include "plan/shape.hpp"

namespace dsinfer {

/// Throws invalid_argument naming nodes or gpus_per_node.
void check_size(int64_t nodes, int64_t gpus_per_node);

/// A link whose rate is the GPU's own: NVLink's, else PCIe's.
LinkKind with_rate_of(LinkKind link, const GpuKind& gpu);

}  // namespace dsinfer
