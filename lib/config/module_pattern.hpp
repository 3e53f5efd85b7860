/// The patterns by which quantisation_config lists modules.
#pragma once
#include <string_view>

#include "dsinfer/export.hpp"

namespace dsinfer {

/// Whether `pattern`, a regular expression as Python's re.match takes it, matches the beginning of `name`. Knows literals, escapes, ".", "[…]", "*", "+", "?",
/// "^", "$" and groups of alternatives without a repeat; another pattern matches nothing. Time is bounded by the product of the lengths.
DSINFER_INTERNAL bool matches_pattern(std::string_view pattern, std::string_view name);

}  // namespace dsinfer
