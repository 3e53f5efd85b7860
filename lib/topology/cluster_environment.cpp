// The choice as lines for a shell.
#include <fmt/format.h>

#include <algorithm>

#include "dsinfer/error.hpp"
#include "topology/names.hpp"
#include "topology/wording.hpp"

namespace dsinfer {
namespace {

using topology::clipped;

// What a POSIX shell takes as the name of a variable.
bool is_name(std::string_view name) {
  const auto letter = [](char c) { return c == '_' || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); };
  return !name.empty() && letter(name[0]) && std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

std::string quoted(std::string_view value) {
  std::string out = "'";
  for (const char c : value) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string lines_of(const EnvironmentVariable& v) {
  const std::string why = v.reason.empty() ? "" : ": " + clipped(v.reason, 400);
  if (!is_name(v.name) || v.value.find('\0') != std::string::npos) {
    return fmt::format("# {} is left out: no shell can export it\n", clipped(v.name, 80));
  }
  if (v.users) return fmt::format("# {}={} is set already and kept{}\n", v.name, quoted(clipped(v.value, 400)), why);
  return fmt::format("# {}{}\nexport {}={}\n", v.name, why, v.name, quoted(v.value));
}

}  // namespace

std::string Cluster::environment(int node) const {
  if (node < 0 || static_cast<size_t>(node) >= nodes.size()) {
    throw Error(Error::invalid_argument, fmt::format("node {}, expected 0 … {}", node, static_cast<int64_t>(nodes.size()) - 1));
  }
  std::string out;
  for (const EnvironmentVariable& variable : nodes[static_cast<size_t>(node)].network.environment) out += lines_of(variable);
  return out;
}

}  // namespace dsinfer
