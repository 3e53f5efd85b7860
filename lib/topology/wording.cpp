#include "topology/wording.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "topology/names.hpp"

namespace dsinfer::topology {

std::string number_text(double value) {
  if (!std::isfinite(value)) return "?";
  if (std::fabs(value) >= 100 || std::fabs(std::nearbyint(value) - value) < 0.05) return fmt::format("{:.0f}", value);
  return fmt::format("{:.1f}", value);
}

std::string bytes_text(int64_t bytes) {
  constexpr std::array<const char*, 5> units = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < units.size()) value /= 1024, ++unit;
  return (value >= 10 ? fmt::format("{:.0f}", value) : number_text(std::round(value * 10) / 10)) + " " + units[unit];
}

std::string count_text(size_t count, const char* one, const char* many) { return fmt::format("{} {}", count, count == 1 ? one : many); }

std::string list_text(const std::vector<std::string>& names, size_t most) {
  std::string out;
  const bool all = names.size() <= most;
  const size_t shown = all ? names.size() : 2;
  for (size_t i = 0; i < shown; ++i) out += (i ? ", " : "") + names[i];
  return all ? out : fmt::format("{} … {} ({})", out, names.back(), names.size());
}

size_t width_of(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string clipped(std::string_view text, size_t most) {
  std::string line = clean_text(text.substr(0, most * 4 + 4));  // no character is longer than four bytes
  for (char& c : line) c = c == '\n' || c == '\t' ? ' ' : c;
  if (width_of(line) <= most) return line;
  size_t end = 0;
  for (size_t shown = 0; shown + 1 < most; ++shown) {
    do ++end;
    while (end < line.size() && (static_cast<unsigned char>(line[end]) & 0xc0) == 0x80);
  }
  return line.substr(0, end) + "…";
}

}  // namespace dsinfer::topology
