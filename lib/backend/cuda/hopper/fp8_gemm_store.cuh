/// The end of a tile of fp8_gemm_kernel: sums to bf16 rows.
#pragma once
#include "fp8_gemm_tile.cuh"

namespace dsinfer::hopper {


/// A warp's 16 rows of the output from row `first`, of which `count` exist; columns from `column`. All there: through `buffer` and the copy
/// engine, while the warp goes on with the next tile. Otherwise the lanes write them, since what lies behind belongs to another run.
template <class Shape>
__device__ inline void store_rows(const GemmArgs& a, const float (&sum)[64], int first, int count, int column, int width, int lane,
                                  uint32_t buffer) {
  const int g = lane / 4, t = lane % 4;
  auto value = [&](int j, int half) {  // columns 8 j + 2 t and the next, row g + 8 · half
    const float* s = sum + j * 4 + half * 2;
    if constexpr (Shape::kGated)
      return swiglu(s, s + 32);
    else
      return pack_bf16(s[0], s[1]);
  };
  if (count >= 16) {
    constexpr int kAtATime = Shape::kOutBoxes * 64;
#pragma unroll
    for (int c = 0; c < Shape::kColumns; c += kAtATime) {
      if (lane == 0) await_store_reads();  // what was stored last has left the buffer
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kAtATime / 8; j += 2) {
        const int unit = (j + lane / 16) % 8 ^ lane % 8, tile = c / 8 + j;  // 16-byte units, swizzled as the copy engine does
        store_matrices(buffer + j / 8 * Shape::kOutBoxBytes + lane % 16 * 128 + unit * 16, value(tile, 0), value(tile, 1),
                       value(tile + 1, 0), value(tile + 1, 1));
      }
      fence_async_proxy();
      __syncwarp();
      if (lane == 0) {
#pragma unroll
        for (int i = 0; i < kAtATime; i += 64) store_box(a.y, column + c + i, first, buffer + i / 64 * Shape::kOutBoxBytes);
        commit_stores();
      }
    }
  } else if (count > 0) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = g + half * 8;
      bf16* out = a.out + size_t(first + row) * width + column;
#pragma unroll
      for (int q = 0; q < Shape::kColumns / 32; ++q) {
        uint32_t word[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) word[j] = value(q * 4 + j, half);
        transpose_quad(word, t);
        const int at = (q * 4 + t) * 8;
        if (row < count && column + at < width) *reinterpret_cast<uint4*>(out + at) = uint4{word[0], word[1], word[2], word[3]};
      }
    }
  }
}
/// Before the block ends: what it copies from is still its own.
__device__ inline void finish_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

}  // namespace dsinfer::hopper
