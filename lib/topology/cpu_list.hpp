/// Sets of processors as the kernel writes them: masks and lists.
#pragma once
#include <string>
#include <string_view>

#include "dsinfer/export.hpp"

namespace dsinfer::topology {

/// "000000ff,ffff0000", "0x000000ff,0xffffffff" → "16-39"; "" for what is no mask.
DSINFER_INTERNAL std::string cpu_list_of_mask(std::string_view mask);
/// "0-13,28-41" → 28; 0 for what is no list.
DSINFER_INTERNAL int count_of_cpu_list(std::string_view list);

}  // namespace dsinfer::topology
