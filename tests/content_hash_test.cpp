#include "weights/content_hash.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace dsinfer {
namespace {

// Expected values: `xxhsum -H2` 0.8.1.
TEST(ContentHash, IsXxh3Of128Bits) {
  EXPECT_EQ(content_hash(std::string_view()).hex(), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(content_hash("abc").hex(), "06b05ab6733a618578af5f94892f3950");
}

TEST(ContentHash, OfPartsIsThatOfTheWhole) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * 7);
  ContentHash parts;
  for (size_t at = 0, step = 1; at < text.size(); at += step, step = step * 2 % 997 + 1) parts.add(std::string_view(text).substr(at, step));
  EXPECT_EQ(parts.hash(), content_hash(text));
  EXPECT_EQ(parts.hash(), content_hash(text));
}

TEST(ContentHash, ReadsItsOwnDigitsAndNoOthers) {
  const Hash128 hash = content_hash("abc");
  EXPECT_EQ(Hash128::parse(hash.hex()), hash);
  for (const std::string bad : {"", "06b05ab6733a618578af5f94892f395", "06b05ab6733a618578af5f94892f39501", "06b05ab6733a6185 8af5f94892f3950", "06b05ab6733a6185-8af5f94892f3950"})
    EXPECT_EQ(Hash128::parse(bad), std::nullopt) << bad;
}

}  // namespace
}  // namespace dsinfer
