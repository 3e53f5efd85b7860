#include <gtest/gtest.h>

#include <cmath>

#include "core/buffer.hpp"
#include "core/format.hpp"
#include "core/json.hpp"
#include "core/sha256.hpp"

namespace dsinfer {
namespace {

TEST(E4m3, EveryCodeRoundTrips) {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_f32(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value));
    } else {
      EXPECT_EQ(f32_to_e4m3(value), code);
    }
  }
}

TEST(E4m3, RoundsToNearestEvenAndSaturates) {
  EXPECT_EQ(f32_to_e4m3(448.0f), 0x7e);
  EXPECT_EQ(f32_to_e4m3(460.0f), 0x7e);
  EXPECT_EQ(f32_to_e4m3(-1e30f), 0xfe);
  EXPECT_EQ(f32_to_e4m3(std::ldexp(1.0f, -9)), 0x01);
  EXPECT_EQ(f32_to_e4m3(std::ldexp(1.0f, -10)), 0x00);
  EXPECT_EQ(e4m3_to_f32(f32_to_e4m3(1.0625f)), 1.0f);
  EXPECT_EQ(e4m3_to_f32(f32_to_e4m3(1.1875f)), 1.25f);
}

TEST(F16, RoundTripsEveryFiniteCode) {
  for (uint32_t code = 0; code < 65536; ++code) {
    if (((code >> 10) & 0x1f) == 0x1f) continue;
    EXPECT_EQ(f32_to_f16(f16_to_f32(static_cast<uint16_t>(code))), code);
  }
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
}

TEST(Bf16, RoundsToNearestEven) {
  EXPECT_EQ(f32_to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(f32_to_bf16(1.00390625f), 0x3f80);   // halfway, even below
  EXPECT_EQ(f32_to_bf16(1.01171875f), 0x3f82);   // halfway, even above
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(NAN))));
}

TEST(Format, BlockScalesCoverRaggedEdges) {
  std::vector<uint8_t> data(3 * 5, f32_to_e4m3(2.0f));
  std::vector<float> scale = {1, 10, 100, 1000, 10000, 100000};  // [2, 3] for blocks of 2 × 2
  Weight w{TensorView(data.data(), DType::e4m3, {3, 5}), TensorView::of(scale.data(), {2, 3}), Format::fp8_block, 2, 2};
  std::vector<float> out(15);
  decode_rows(out.data(), w, 0, 3);
  EXPECT_EQ(out, (std::vector<float>{2, 2, 20, 20, 200, 2, 2, 20, 20, 200, 2000, 2000, 20000, 20000, 200000}));
}

TEST(Json, NamesTheKeyThatIsMissingWrongOrTwiceThere) {
  const Json json = parse_json(R"({"a": "x", "b": 40.0, "c": 1.5, "d": null})", "f.json");
  const JsonObject object(json, "f.json");
  EXPECT_EQ(object.integer("b"), 40);
  EXPECT_FALSE(object.has("d"));
  for (const char* key : {"a", "c", "zz"}) {
    try {
      object.integer(key);
      FAIL() << key;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("f.json: key \"" + std::string(key) + "\""), std::string::npos) << e.what();
    }
  }
  EXPECT_THROW(parse_json(R"({"a": 1, "a": 2})", "f.json", true), Error);
  EXPECT_NO_THROW(parse_json(R"([{"a": 1}, {"a": 2}])", "f.json", true));
  EXPECT_THROW(parse_json("{", "f.json"), Error);
}

TEST(Arena, RefusesToOutgrowItsBuffer) {
  Arena arena(host_buffer(128));
  arena.take(DType::f32, {16});
  const size_t mark = arena.mark();
  arena.take(DType::f32, {16});
  EXPECT_THROW(arena.take(DType::f32, {1}), Error);
  arena.rewind(mark);
  EXPECT_NO_THROW(arena.take(DType::u8, {1}));
}

// Sums by sha256sum of GNU coreutils.
TEST(Sha256, IsWhatSha256sumPrints) {
  const auto sum = [](std::string_view text, size_t piece) {
    Sha256 hash;
    for (size_t i = 0; i < text.size(); i += piece) hash.add(text.substr(i, piece));
    return hash.hex();
  };
  EXPECT_EQ(sum("", 1), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sum("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string million(1000000, 'a');
  for (const size_t piece : {1u, 63u, 64u, 65u, 1000u, 1000000u})
    EXPECT_EQ(sum(million, piece), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0") << piece;
  for (const size_t size : {55u, 56u, 63u, 64u, 119u, 120u}) EXPECT_EQ(sum(million.substr(0, size), 7), sum(million.substr(0, size), size)) << size;
  EXPECT_EQ(sum(million.substr(0, 56), 56), "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
}

}  // namespace
}  // namespace dsinfer
