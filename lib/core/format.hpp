/// How a weight matrix is stored, and the reference decode of each format.
#pragma once
#include "core/tensor.hpp"

namespace dsinfer {

enum class Format : uint8_t { f32, bf16, f16, fp8_block, int4_group };

/// A linear layer's weight as stored: [out, in] (experts and per-head weights are lists or views of these).
/// `data` may be strided in dimension 0 (a column slice). fp8_block: data is e4m3, scale is f32 [⌈out/block_rows⌉, ⌈in/block_cols⌉];
/// this slice starts at a block edge in both dimensions.
/// int4_group: data is u8 [out, in / 2], two numbers in a byte, the one of the lower column in the low half; scale is f16, bf16 or f32 [out, in / block_cols],
/// block_cols being the group; zeros is u8 [⌈out · in / block_cols / 2⌉], laid out as scale, two in a byte; no tensor: all are 8. weight = (number − zero) · scale.
struct Weight {
  TensorView data, scale;
  Format format = Format::f32;
  int64_t block_rows = 128, block_cols = 128;
  TensorView zeros = {};

  explicit operator bool() const { return static_cast<bool>(data); }
  int64_t out_dim() const { return data.dim(0); }
  int64_t in_dim() const { return format == Format::int4_group ? 2 * data.dim(1) : data.dim(1); }
};

DSINFER_INTERNAL const char* format_name(Format format);

/// Reference decode of rows [begin, end) into out, [end - begin, in] f32 dense.
DSINFER_INTERNAL void decode_rows(float* out, const Weight& weight, int64_t begin, int64_t end);

/// Columns [begin, end) of one row of an int4_group weight into out. begin is even.
DSINFER_INTERNAL void decode_int4(float* out, const Weight& weight, int64_t row, int64_t begin, int64_t end);

}  // namespace dsinfer
