/// Warpgroup matrix steps of the attention kernel, beside those of wgmma.cuh.
#pragma once
#include "wgmma.cuh"

namespace dsinfer::hopper {

/// d[64,64] += a[64,16] · b[16,64]; b K-major, or N-major with kTransposed. a in registers: row g of a warp's 16, channels 2t and 2t + 1;
/// row g + 8; then channels 8 further.
template <int kTransposed>
__device__ inline void wgmma_64(float (&d)[32], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" DSINFER_REGISTERS_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}"
      : DSINFER_SUMS_32(d, 0)
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(int(accumulate)), "n"(kTransposed));
}

/// The same for 256 columns.
template <int kTransposed>
__device__ inline void wgmma_256(float (&d)[128], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" DSINFER_REGISTERS_128 "}, {%128, %129, %130, %131}, %132, p, 1, 1, %134;\n}"
      : DSINFER_SUMS_128(d, 0)
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(int(accumulate)), "n"(kTransposed));
}

}  // namespace dsinfer::hopper
