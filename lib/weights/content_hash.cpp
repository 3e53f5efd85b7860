#include "weights/content_hash.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "dsinfer/error.hpp"

#define XXH_INLINE_ALL  // no symbol of it leaves this file
#include <xxhash.h>

namespace dsinfer {

std::string Hash128::hex() const { return fmt::format("{:016x}{:016x}", high, low); }

std::optional<Hash128> Hash128::parse(std::string_view hex) {
  if (hex.size() != 32) return std::nullopt;
  Hash128 hash;
  const auto half = [&](size_t at, uint64_t& value) {
    const auto [end, code] = std::from_chars(hex.data() + at, hex.data() + at + 16, value, 16);
    return code == std::errc() && end == hex.data() + at + 16;
  };
  if (!half(0, hash.high) || !half(16, hash.low)) return std::nullopt;
  return hash;
}

Hash128 content_hash(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

Hash128 content_hash(std::string_view text) { return content_hash(std::as_bytes(std::span(text))); }

struct ContentHash::State {
  XXH3_state_t xxh;  // aligned to 64 bytes by its type
};

ContentHash::ContentHash() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->xxh); }
ContentHash::~ContentHash() = default;
ContentHash::ContentHash(ContentHash&&) noexcept = default;
ContentHash& ContentHash::operator=(ContentHash&&) noexcept = default;

void ContentHash::add(std::span<const std::byte> bytes) { XXH3_128bits_update(&state_->xxh, bytes.data(), bytes.size()); }
void ContentHash::add(std::string_view text) { add(std::as_bytes(std::span(text))); }

void ContentHash::add(const Hash128& hash) {
  std::array<std::byte, 16> bytes;  // big-endian, as its digits are read
  for (size_t i = 0; i < 8; ++i) {
    bytes[i] = static_cast<std::byte>(hash.high >> (56 - 8 * i));
    bytes[8 + i] = static_cast<std::byte>(hash.low >> (56 - 8 * i));
  }
  add(bytes);
}

Hash128 ContentHash::hash() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(&state_->xxh);
  return {hash.high64, hash.low64};
}

}  // namespace dsinfer
