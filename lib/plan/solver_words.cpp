/// Words and figures of the solver as people write them.
#include <fmt/format.h>

#include <array>
#include <cmath>

#include "dsinfer/error.hpp"
#include "plan/search.hpp"

namespace dsinfer {
namespace {

constexpr std::array kPrecisions = {std::pair{"fp8", Precision::fp8}, std::pair{"fp8_bf16", Precision::fp8_bf16}, std::pair{"bf16", Precision::bf16},
                                    std::pair{"int4", Precision::int4}};
constexpr std::array kCaches = {std::pair{"bf16", CachePrecision::bf16}, std::pair{"fp8", CachePrecision::fp8}, std::pair{"fp8_scaled", CachePrecision::fp8_scaled}};

template <class Words, class Value> const char* name_in(const Words& words, Value value) {
  for (const auto& [name, known] : words) if (known == value) return name;
  return "unknown";
}

template <class Words> auto parse_in(const Words& words, const char* field, std::string_view word) {
  std::string known;
  for (const auto& [name, value] : words) {
    if (word == name) return value;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  throw Error(Error::invalid_argument, fmt::format("{} \"{}\" is unknown; there are {}", field, word, known));
}

}  // namespace

const char* precision_name(Precision precision) { return name_in(kPrecisions, precision); }
const char* cache_precision_name(CachePrecision precision) { return name_in(kCaches, precision); }
const char* confidence_name(Confidence confidence) {
  return confidence == Confidence::measured ? "measured" : confidence == Confidence::interpolated ? "interpolated" : "specification";
}
Precision parse_precision(std::string_view word) { return parse_in(kPrecisions, "precision", word); }
CachePrecision parse_cache_precision(std::string_view word) { return parse_in(kCaches, "cache precision", word); }

std::string gigabytes(int64_t bytes) {
  if (bytes != 0 && bytes < 100'000'000 && bytes > -100'000'000) return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
  return fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
}

std::string short_count(double value) {
  if (!std::isfinite(value)) return "unlimited";
  if (value >= 1e6) return fmt::format("{:.2f}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.0f}k", value / 1e3);
  return fmt::format("{:.0f}", value);
}

}  // namespace dsinfer
