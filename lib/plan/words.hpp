/// Names of devices as words: what drivers, buses and people write differently and mean alike.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace dsinfer {

std::string lower_case(std::string_view text);

/// Runs of letters and digits, in lower case: "NVIDIA A100-SXM4-80GB" → nvidia, a100, sxm4, 80gb.
std::vector<std::string> words_of(std::string_view name);

}  // namespace dsinfer
