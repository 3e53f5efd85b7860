/// What must be equal on all ranks, by name.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "dsinfer/world.hpp"

namespace dsinfer {

/// name → value, in one order on all ranks.
using Fields = std::vector<std::pair<std::string, std::string>>;

/// Collective. Throws invalid_argument on all ranks, naming the field, both values, the odd rank and its host, where they differ.
DSINFER_INTERNAL void check_same_fields(World& world, const Fields& mine);

}  // namespace dsinfer
