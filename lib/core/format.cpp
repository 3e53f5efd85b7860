#include "core/format.hpp"

#include <algorithm>

namespace dsinfer {

const char* format_name(Format format) {
  switch (format) {
    case Format::f32: return "f32";
    case Format::bf16: return "bf16";
    case Format::f16: return "f16";
    case Format::fp8_block: return "fp8_block";
    case Format::int4_group: return "int4_group";
  }
  return "?";
}

namespace {

float scale_of(const TensorView& scale, int64_t row, int64_t group) {
  const std::byte* at = scale.at(row) + group * dtype_size(scale.dtype);
  if (scale.dtype == DType::f32) { float value; std::memcpy(&value, at, sizeof value); return value; }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return scale.dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

// Number `i` of two in a byte.
int nibble(const std::byte* bytes, int64_t i) { return static_cast<int>(bytes[i / 2]) >> (i % 2 * 4) & 0xf; }

constexpr int kMiddle = 8;  // where there are no zero points

}  // namespace

void decode_int4(float* out, const Weight& weight, int64_t row, int64_t begin, int64_t end) {
  const std::byte* stored = weight.data.at(row);
  const int64_t group_size = weight.block_cols, groups = weight.scale.dim(1);
  for (int64_t c = begin; c < end;) {
    const int64_t group = c / group_size, stop = std::min(end, (group + 1) * group_size);
    const float scale = scale_of(weight.scale, row, group);
    const int zero = weight.zeros ? nibble(weight.zeros.data, row * groups + group) : kMiddle;
    const std::byte* pair = stored + c / 2;
    for (; c + 1 < stop; c += 2, ++pair, out += 2) {  // groups are even
      const int both = static_cast<int>(*pair);
      out[0] = static_cast<float>((both & 0xf) - zero) * scale;
      out[1] = static_cast<float>((both >> 4) - zero) * scale;
    }
    if (c < stop) {
      *out++ = static_cast<float>((static_cast<int>(*pair) & 0xf) - zero) * scale;
      ++c;
    }
  }
}

void decode_rows(float* out, const Weight& weight, int64_t begin, int64_t end) {
  const int64_t cols = weight.in_dim();
  for (int64_t row = begin; row < end; ++row, out += cols) {
    const std::byte* stored = weight.data.at(row);
    switch (weight.format) {
      case Format::f32: std::memcpy(out, stored, static_cast<size_t>(cols) * 4); break;
      case Format::bf16:
        for (int64_t c = 0; c < cols; ++c) out[c] = bf16_to_f32(reinterpret_cast<const uint16_t*>(stored)[c]);
        break;
      case Format::f16:
        for (int64_t c = 0; c < cols; ++c) out[c] = f16_to_f32(reinterpret_cast<const uint16_t*>(stored)[c]);
        break;
      case Format::int4_group: decode_int4(out, weight, row, 0, cols); break;
      case Format::fp8_block: {
        const float *values = e4m3_table(), *scales = weight.scale.row<const float>(row / weight.block_rows);
        for (int64_t first = 0; first < cols; first += weight.block_cols) {
          const float scale = scales[first / weight.block_cols];
          for (int64_t c = first; c < std::min(first + weight.block_cols, cols); ++c) out[c] = values[static_cast<uint8_t>(stored[c])] * scale;
        }
        break;
      }
    }
  }
}

}  // namespace dsinfer
