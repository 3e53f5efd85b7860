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

bool same_slot(std::string_view a, std::string_view b) {
  const auto x = pci_key(a), y = pci_key(b);
  return x && y && std::equal(x->begin(), x->begin() + 3, y->begin());
}

}  // namespace dsinfer::topology
