#include "topology/cpu_list.hpp"

#include <algorithm>
#include <charconv>
#include <vector>

namespace dsinfer::topology {
namespace {
constexpr int kMaxCpus = 1 << 16;
}

int count_of_cpu_list(std::string_view list) {
  long long count = 0;
  const char* at = list.data();
  const char* const end = at + list.size();
  while (at < end) {
    int first = 0;
    auto got = std::from_chars(at, end, first);
    if (got.ec != std::errc() || first < 0) break;
    at = got.ptr;
    int last = first;
    if (at < end && *at == '-') {
      got = std::from_chars(at + 1, end, last);
      if (got.ec != std::errc() || last < first) break;
      at = got.ptr;
    }
    count += static_cast<long long>(last) - first + 1;
    if (count > kMaxCpus || at >= end || *at != ',') break;
    ++at;
  }
  return count > kMaxCpus ? 0 : static_cast<int>(count);
}

std::string cpu_list_of_mask(std::string_view mask) {
  std::string digits;  // words of 32 bits between commas; hwloc writes each with 0x and leaves out leading zeros of the first only
  for (size_t at = 0; at < mask.size();) {
    const size_t end = std::min(mask.find(',', at), mask.size());
    std::string_view word = mask.substr(at, end - at);
    if (word.starts_with("0x")) word.remove_prefix(2);
    if (word.size() > 8 || word.find_first_not_of("0123456789abcdefABCDEF") != word.npos) return "";
    digits += std::string(8 - word.size(), '0') + std::string(word);
    if (digits.size() > kMaxCpus / 4) return "";
    at = end + 1;
  }
  std::vector<bool> bits;
  for (auto c = digits.rbegin(); c != digits.rend(); ++c) {
    int digit = 0;
    std::from_chars(&*c, &*c + 1, digit, 16);
    for (int bit = 0; bit < 4; ++bit) bits.push_back((digit >> bit & 1) != 0);
  }
  std::string list;
  for (size_t i = 0; i < bits.size(); ++i) {
    if (!bits[i]) continue;
    const size_t first = i;
    while (i + 1 < bits.size() && bits[i + 1]) ++i;
    list += (list.empty() ? "" : ",") + std::to_string(first) + (i > first ? "-" + std::to_string(i) : "");
  }
  return list;
}

}  // namespace dsinfer::topology
