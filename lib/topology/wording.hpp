/// How numbers and lists read in the forms that people see.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dsinfer/export.hpp"

namespace dsinfer::topology {

DSINFER_INTERNAL std::string bytes_text(int64_t bytes);     ///< "80 GiB", "1.5 TiB"
DSINFER_INTERNAL std::string number_text(double value);     ///< "400", "2.5", "48.5": one decimal at most
DSINFER_INTERNAL std::string count_text(size_t count, const char* one, const char* many);  ///< "1 port", "8 ports"
/// "a, b, c"; the middle of a long list is left out: "n2, n3 … n64 (63)".
DSINFER_INTERNAL std::string list_text(const std::vector<std::string>& names, size_t most = 8);
/// One line without control characters, at most `most` characters, the last then "…".
DSINFER_INTERNAL std::string clipped(std::string_view text, size_t most);
/// Characters, not bytes.
DSINFER_INTERNAL size_t width_of(std::string_view text);

}  // namespace dsinfer::topology
