#include "topology/pci_order.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>

namespace dsinfer::topology {
namespace {

std::optional<uint32_t> take_number(std::string_view& text, int base) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

// "p4" with prefix 'p' → 4.
std::optional<uint32_t> take_part(std::string_view& text, char prefix) {
  if (text.empty() || text.front() != prefix) return std::nullopt;
  std::string_view rest = text.substr(1);
  const auto value = take_number(rest, 10);
  if (value) text = rest;
  return value;
}

bool digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

}  // namespace

std::optional<PciKey> pci_key(std::string_view bus_id) {
  PciKey key{};
  for (size_t i = 0; i < key.size(); ++i) {
    const auto value = take_number(bus_id, 16);
    if (!value) return std::nullopt;
    key[i] = *value;
    const char separator = i < 2 ? ':' : '.';
    if (i == 3) break;
    if (bus_id.empty() || bus_id.front() != separator) return std::nullopt;
    bus_id.remove_prefix(1);
  }
  return bus_id.empty() ? std::optional(key) : std::nullopt;
}

std::optional<PciKey> pci_key_of_name(std::string_view name) {
  constexpr std::array<std::string_view, 7> kinds = {"roce", "rdma", "opa", "iw", "ib", "en", "wl"};
  const auto kind = std::find_if(kinds.begin(), kinds.end(), [&](std::string_view k) { return name.starts_with(k); });
  if (kind == kinds.end()) return std::nullopt;
  name.remove_prefix(kind->size());
  const auto domain = take_part(name, 'P'), bus = take_part(name, 'p');
  const auto device = bus ? take_part(name, 's') : std::nullopt;
  if (!device) return std::nullopt;
  return PciKey{domain.value_or(0), *bus, *device, take_part(name, 'f').value_or(0)};
}

bool pci_before(std::string_view a, std::string_view b) {
  const auto x = pci_key(a), y = pci_key(b);
  if (x && y) return *x < *y;
  return x.has_value() && !y.has_value();
}

bool natural_before(std::string_view a, std::string_view b) {
  size_t i = 0, k = 0;
  while (i < a.size() && k < b.size()) {
    if (!digit(a[i]) || !digit(b[k])) {
      if (a[i] != b[k]) return a[i] < b[k];
      ++i, ++k;
      continue;
    }
    const auto run = [](std::string_view text, size_t at) {
      size_t end = at;
      while (end < text.size() && digit(text[end])) ++end;
      while (at + 1 < end && text[at] == '0') ++at;
      return std::pair(text.substr(at, end - at), end);
    };
    const auto [x, x_end] = run(a, i);
    const auto [y, y_end] = run(b, k);
    if (x.size() != y.size()) return x.size() < y.size();
    if (x != y) return x < y;
    i = x_end, k = y_end;
  }
  if ((a.size() - i) != (b.size() - k)) return a.size() - i < b.size() - k;
  return a < b;
}

bool same_slot(std::string_view a, std::string_view b) {
  const auto x = pci_key(a), y = pci_key(b);
  return x && y && std::equal(x->begin(), x->begin() + 3, y->begin());
}

}  // namespace dsinfer::topology
