#include "weights/convert.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace dsinfer {
namespace {

constexpr float kE4m3Max = 448;

// f32_to_e4m3 of a finite value, without branches, so that loops over it are vectorised.
inline uint8_t to_e4m3(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const float magnitude = std::min(std::bit_cast<float>(bits & 0x7fffffffu), kE4m3Max);
  const auto whole = std::bit_cast<uint32_t>(magnitude);
  const uint32_t normal = ((whole + 0x7ffffu + ((whole >> 20) & 1u)) >> 20) - (120u << 3);  // 3 of 23 mantissa bits stay; exponent bias 127 becomes 7
  constexpr float kShift = 16384;                                                           // its last bit is 2^-9, E4M3's subnormal step
  const uint32_t subnormal = std::bit_cast<uint32_t>(magnitude + kShift) - std::bit_cast<uint32_t>(kShift);
  return static_cast<uint8_t>((bits >> 31 << 7) | (magnitude < 0x1p-6f ? subnormal : normal));
}

}  // namespace

void widen(float* out, const std::byte* in, DType dtype, int64_t count) {
  if (dtype == DType::f32) {
    if (count > 0) std::memcpy(out, in, static_cast<size_t>(count) * 4);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, in + 2 * i, 2);
    out[i] = dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
  }
}

std::optional<int64_t> first_not_finite(const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (!std::isfinite(values[i])) return i;
  return {};
}

std::optional<int64_t> decode_blocks(uint16_t* out, const uint8_t* codes, int64_t rows, int64_t cols, int64_t row, int64_t col, const BlockScales& scales) {
  const float* table = e4m3_table();
  std::optional<int64_t> nan;
  for (int64_t r = 0; r < rows; ++r) {
    const float* of_row = scales.values.data() + ((row + r) / scales.block_rows - scales.first_row) * scales.cols - scales.first_col;
    for (int64_t c = 0; c < cols;) {
      const int64_t block = (col + c) / scales.block_cols, end = std::min(cols, (block + 1) * scales.block_cols - col);
      const float scale = of_row[block];
      for (; c < end; ++c) {
        const uint8_t code = codes[r * cols + c];
        if ((code & 0x7fu) == 0x7fu && !nan) nan = r * cols + c;
        out[r * cols + c] = f32_to_bf16(table[code] * scale);
      }
    }
  }
  return nan;
}

void quantise_band(uint8_t* codes, float* scales, const float* values, int64_t rows, int64_t cols, int64_t block_cols) {
  for (int64_t begin = 0, block = 0; begin < cols; begin += block_cols, ++block) {
    const int64_t end = std::min(cols, begin + block_cols);
    float largest = 0;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = begin; c < end; ++c) largest = std::max(largest, std::fabs(values[r * cols + c]));
    float scale = largest / kE4m3Max;
    if (scale == 0) scale = 1;  // zeros, or numbers of which 1/448 is below f32: their codes are 0 either way
    scales[block] = scale;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = begin; c < end; ++c) codes[r * cols + c] = to_e4m3(values[r * cols + c] / scale);
  }
}

}  // namespace dsinfer
