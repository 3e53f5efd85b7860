// From a driver's name, or from what the bus says, to a kind of GPU.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "dsinfer/solver.hpp"
#include "plan/words.hpp"

namespace dsinfer {
namespace {

bool is_word_character(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

// Words of the longest of the kind's names that stands in the driver's name, word by word; 0 = none does. "NVIDIA" says nothing.
size_t longest_name(const GpuKind& kind, const std::vector<std::string>& driver) {
  size_t longest = 0;
  for (const std::string& name : kind.names) {
    std::vector<std::string> words = words_of(name);
    std::erase(words, "nvidia");
    if (words.empty() || std::search(driver.begin(), driver.end(), words.begin(), words.end()) == driver.end()) continue;
    longest = std::max(longest, words.size());
  }
  return longest;
}

}  // namespace

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

std::vector<std::string> words_of(std::string_view name) {
  std::vector<std::string> words;
  bool open = false;
  for (const char c : lower_case(name)) {
    if (!is_word_character(c)) { open = false; continue; }
    if (!open) words.emplace_back();
    open = true;
    words.back() += c;
  }
  return words;
}

const GpuKind* Catalogue::match(std::string_view driver_name, int64_t memory_bytes) const {
  std::vector<std::string> driver = words_of(driver_name);
  std::erase(driver, "nvidia");
  const GpuKind* best = nullptr;
  size_t best_words = 0;
  int64_t best_distance = 0;
  for (const GpuKind& kind : gpus) {
    const size_t words = longest_name(kind, driver);
    if (words == 0 || words < best_words) continue;
    // Between variants of one name: the nearest in memory, where it is unknown the smallest, so that nothing is promised that may not be there.
    const int64_t distance = memory_bytes > 0 ? std::llabs(kind.memory_bytes - memory_bytes) : kind.memory_bytes;
    if (words == best_words && distance > best_distance) continue;
    best = &kind;
    best_words = words;
    best_distance = distance;
  }
  return best;
}

const GpuKind* Catalogue::match_pci(uint32_t vendor, uint32_t device) const {
  const std::string id = fmt::format("{:04x}:{:04x}", vendor, device);
  const auto found = std::find_if(gpus.begin(), gpus.end(), [&](const GpuKind& kind) { return std::find(kind.pci.begin(), kind.pci.end(), id) != kind.pci.end(); });
  return found == gpus.end() ? nullptr : &*found;
}

}  // namespace dsinfer
