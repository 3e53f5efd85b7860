// Conversions made on loading, bit by bit against torch (tests/data/conversions).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "storage/source.hpp"
#include "weights/convert.hpp"
#include "weights/safetensors.hpp"

namespace dsinfer {
namespace {

struct Stored {
  std::vector<std::byte> bytes;
  DType dtype = DType::f32;
  int64_t rows = 0, cols = 0;
  template <class T> std::vector<T> as() const {
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
};

Stored stored(const std::string& name) {
  const auto file = open_file(std::filesystem::path(DSINFER_TEST_DATA) / "conversions" / "conversions.safetensors");
  const TensorEntry entry = read_safetensors(*file).tensors.at(name);
  Stored tensor{std::vector<std::byte>(static_cast<size_t>(entry.end - entry.begin)), *parse_dtype(entry.dtype), entry.shape[0], entry.shape[1]};
  file->read(entry.begin, tensor.bytes);
  return tensor;
}

BlockScales scales_from(const Stored& scales) { return {scales.as<float>(), 0, 0, scales.cols, 128, 128}; }

TEST(Convert, Fp8BlocksBecomeTheBf16NumbersOfTorch) {
  const Stored codes = stored("decode.codes"), expected = stored("decode.bf16");
  std::vector<uint16_t> out(static_cast<size_t>(codes.rows * codes.cols));
  EXPECT_FALSE(decode_blocks(out.data(), codes.as<uint8_t>().data(), codes.rows, codes.cols, 0, 0, scales_from(stored("decode.scales"))));
  EXPECT_EQ(out, expected.as<uint16_t>());
}

// A rank's part may begin and end within a block; its scales begin with that block.
TEST(Convert, PartsOfFp8BlocksAreDecodedAsInTheWhole) {
  const Stored codes = stored("decode.codes"), expected = stored("decode.bf16"), scales = stored("decode.scales");
  const std::vector<uint8_t> all = codes.as<uint8_t>();
  const std::vector<uint16_t> want = expected.as<uint16_t>();
  for (const auto& [r0, r1, c0, c1] : {std::array<int64_t, 4>{0, 1, 0, 1}, {127, 129, 127, 257}, {5, 140, 130, 262}, {128, 140, 255, 262}, {139, 140, 0, 262}}) {
    BlockScales part{{}, r0 / 128, c0 / 128, (c1 + 127) / 128 - c0 / 128, 128, 128};
    for (int64_t r = part.first_row; r < (r1 + 127) / 128; ++r)
      for (int64_t c = part.first_col; c < part.first_col + part.cols; ++c) part.values.push_back(scales.as<float>()[static_cast<size_t>(r * scales.cols + c)]);
    std::vector<uint8_t> in;
    std::vector<uint16_t> slice;
    for (int64_t r = r0; r < r1; ++r)
      for (int64_t c = c0; c < c1; ++c) {
        in.push_back(all[static_cast<size_t>(r * codes.cols + c)]);
        slice.push_back(want[static_cast<size_t>(r * codes.cols + c)]);
      }
    std::vector<uint16_t> out(in.size());
    EXPECT_FALSE(decode_blocks(out.data(), in.data(), r1 - r0, c1 - c0, r0, c0, part));
    EXPECT_EQ(out, slice) << r0 << " " << c0;
  }
}

TEST(Convert, TheFirstNanCodeIsFound) {
  std::vector<uint8_t> codes(6, 0x38);
  codes[4] = 0xff;
  codes[5] = 0x7f;
  std::vector<uint16_t> out(6);
  EXPECT_EQ(decode_blocks(out.data(), codes.data(), 2, 3, 0, 0, {{1.0f}, 0, 0, 1, 128, 128}), 4);
}

TEST(Convert, Bf16F16AndF32BecomeTheFp8BlocksOfTorch) {
  for (const std::string name : {"bf16", "f16", "f32"}) {
    const Stored values = stored(name + ".values"), codes = stored(name + ".codes"), scales = stored(name + ".scales");
    std::vector<float> wide(static_cast<size_t>(values.rows * values.cols)), got_scales(static_cast<size_t>(scales.rows * scales.cols));
    widen(wide.data(), values.bytes.data(), values.dtype, values.rows * values.cols);
    std::vector<uint8_t> got(wide.size());
    for (int64_t row = 0; row < values.rows; row += 128)
      quantise_band(got.data() + row * values.cols, got_scales.data() + row / 128 * scales.cols, wide.data() + row * values.cols, std::min<int64_t>(128, values.rows - row), values.cols, 128);
    EXPECT_EQ(got_scales, scales.as<float>()) << name;
    EXPECT_EQ(got, codes.as<uint8_t>()) << name;
  }
}

// Every code, the numbers half way between two, and their neighbours, against the conversion that is written for reading.
TEST(Convert, QuantisingRoundsAsTheReferenceDoes) {
  std::vector<float> values = {448, -0.0f, 0.0f, 0x1p-10f, 0x1.8p-9f, 0x1.8p-10f, 0x1.fffffep-11f};
  for (int code = 0; code < 0x7e; ++code) {
    const float a = e4m3_to_f32(static_cast<uint8_t>(code)), b = e4m3_to_f32(static_cast<uint8_t>(code + 1)), half = (a + b) / 2;
    for (const float v : {a, half, std::nextafter(half, 0.0f), std::nextafter(half, 1e9f)}) values.insert(values.end(), {v, -v});
  }
  std::vector<uint8_t> codes(values.size());
  float scale = 0;
  quantise_band(codes.data(), &scale, values.data(), 1, static_cast<int64_t>(values.size()), static_cast<int64_t>(values.size()));
  ASSERT_EQ(scale, 1.0f);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(codes[i], f32_to_e4m3(values[i])) << values[i];
}

TEST(Convert, ABlockOfZerosStaysZeroAndFinite) {
  const std::vector<float> zeros(300);
  std::vector<uint8_t> codes(300, 1);
  std::vector<float> scales(3);
  quantise_band(codes.data(), scales.data(), zeros.data(), 1, 300, 128);
  EXPECT_EQ(codes, std::vector<uint8_t>(300));
  EXPECT_EQ(scales, std::vector<float>(3, 1.0f));
}

}  // namespace
}  // namespace dsinfer
