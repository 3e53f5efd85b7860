/// ContentHash: tells damaged weights from sound ones at the speed of memory. XXH3, 128 bits; resists no attacker. Source: xxhash.com, Collet.
#pragma once
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "dsinfer/export.hpp"

namespace dsinfer {

struct Hash128 {
  uint64_t high = 0, low = 0;
  auto operator<=>(const Hash128&) const = default;
  DSINFER_INTERNAL std::string hex() const;  ///< 32 digits, as xxhsum -H2 prints it
  DSINFER_INTERNAL static std::optional<Hash128> parse(std::string_view hex);
};

DSINFER_INTERNAL Hash128 content_hash(std::span<const std::byte> bytes);
DSINFER_INTERNAL Hash128 content_hash(std::string_view text);

/// The same hash of bytes that come in parts. Take it any number of times.
class DSINFER_INTERNAL ContentHash {
 public:
  ContentHash();
  ~ContentHash();
  ContentHash(ContentHash&&) noexcept;
  ContentHash& operator=(ContentHash&&) noexcept;
  void add(std::span<const std::byte> bytes);
  void add(std::string_view text);
  void add(const Hash128& hash);
  Hash128 hash() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dsinfer
