/// Conversions of rows of weights on their way from the file to memory. Host memory on both sides; plain and bit-exact.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/dtype.hpp"

namespace dsinfer {

/// out := f32 of `count` elements stored as f32, bf16 or f16.
DSINFER_INTERNAL void widen(float* out, const std::byte* in, DType dtype, int64_t count);

/// First element that is not a finite number, if there is one.
DSINFER_INTERNAL std::optional<int64_t> first_not_finite(const float* values, int64_t count);

/// The scales of an FP8 tensor's blocks around some part of it.
struct BlockScales {
  std::vector<float> values;                ///< row-major
  int64_t first_row = 0, first_col = 0;     ///< block row and column that `values` begins with
  int64_t cols = 0;                         ///< blocks in a row of `values`
  int64_t block_rows = 128, block_cols = 128;
};

/// out[r, c] := bf16(float(code) · scale), nearest even, of E4M3 codes [rows, cols] whose first element is (row, col) of the whole tensor. Blocks may begin
/// anywhere in them. Gives the first element (of rows · cols) that is NaN, if there is one.
DSINFER_INTERNAL std::optional<int64_t> decode_blocks(uint16_t* out, const uint8_t* codes, int64_t rows, int64_t cols, int64_t row, int64_t col, const BlockScales& scales);

/// One band of blocks, rows ≤ block height: scale = amax / 448 of each block in f32 (1 where that is 0), code = E4M3 nearest to value / scale, ties to even,
/// at most ±448. codes [rows, cols], scales [⌈cols / block_cols⌉]. Values must be finite.
DSINFER_INTERNAL void quantise_band(uint8_t* codes, float* scales, const float* values, int64_t rows, int64_t cols, int64_t block_cols);

}  // namespace dsinfer
