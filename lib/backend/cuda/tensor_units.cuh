/// What goes into the matrix unit (mma.sync, sm_80 and later): stored weights as pairs of bf16 numbers, activations as sums of three, loads that do not wait.
#pragma once
#include "backend/cuda/decode.cuh"

namespace dsinfer::cuda {

inline constexpr int kDepth = 128;      // of a block

/// What the kernel's shapes follow from. A unit is 8 neighbouring numbers of a row: two steps of the matrix unit. A lane has four units of each block of a row.
template <Format F> struct Stored;
template <> struct Stored<Format::bf16> {
  static constexpr int kPieces = 4, kBytes = 256;  // 16-byte loads of a lane for a row's block; bytes of a row's block
  __device__ static int column(int t, int unit) { return unit * 32 + t * 8; }
  __device__ static int swizzle(int token, int) { return token & 1; }
  __device__ static constexpr int pair(int r, int half) { return 2 * r + half; }  // which of the unit's numbers register r holds, lower half first
};
template <> struct Stored<Format::fp8_block> {
  static constexpr int kPieces = 2, kBytes = 128;
  __device__ static int column(int t, int unit) { return unit / 2 * 64 + t * 16 + unit % 2 * 8; }
  __device__ static int swizzle(int token, int chunk) { return (chunk >> 3 & 1) | (token & 1) << 1; }
  __device__ static constexpr int pair(int r, int half) { return r / 2 * 4 + r % 2 + 2 * half; }
};
template <> struct Stored<Format::int4_group> {
  static constexpr int kPieces = 1, kBytes = 64;
  __device__ static int column(int t, int unit) { return t * 32 + unit * 8; }
  __device__ static int swizzle(int token, int chunk) { return (chunk >> 3 & 3) | (token & 1) << 2; }
  __device__ static constexpr int pair(int r, int half) { return r + 4 * half; }
};

__device__ inline uint32_t bf16x2_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}

/// A unit's numbers as bf16 pairs, exact. `words`: where the unit lies among a lane's loads.
template <Format F> __device__ inline void unit_of(uint32_t (&out)[4], const uint32_t* words, int unit, float zero) {
  if constexpr (F == Format::bf16) {
#pragma unroll
    for (int r = 0; r < 4; ++r) out[r] = words[unit * 4 + r];
  } else if constexpr (F == Format::fp8_block) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t w = words[unit * 2 + i];
      // E4M3's exponent and mantissa where bf16 has them are the value / 2^120. NaN has all seven bits set, as no number has.
      const uint32_t low = (w << 8 & 0x80008000u) | (w << 4 & 0x07f007f0u), high = (w & 0x80008000u) | (w >> 4 & 0x07f007f0u);
      constexpr uint32_t k2to120 = 0x7b807b80u, kMinusZero = 0x80008000u;
      out[2 * i] = bf16x2_fma(low, k2to120, kMinusZero);
      out[2 * i + 1] = bf16x2_fma(high, k2to120, kMinusZero);
      if (((w & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u) {
#pragma unroll
        for (int b = 0; b < 4; ++b) if ((w >> (8 * b) & 0x7fu) == 0x7fu) out[2 * i + b % 2] |= 0x7fffu << (b / 2 * 16);
      }
    }
  } else {
    const uint32_t w = words[unit];
    const uint32_t bias = 0x43004300u;  // 128: a nibble in the lowest bits is added to it
    const uint32_t one = 0x3f803f80u;
    const __nv_bfloat162 back = __float2bfloat162_rn(-128.0f - zero);
    const uint32_t less = *reinterpret_cast<const uint32_t*>(&back);
#pragma unroll
    for (int r = 0; r < 4; ++r) out[r] = bf16x2_fma((w >> (4 * r) & 0x000f000fu) | bias, one, less);
  }
}

/// The upper 8 significant bits of two numbers, as a pair; what is left of them stays, exact.
__device__ inline uint32_t take_upper(float& a, float& b) {
  const uint32_t ua = __float_as_uint(a), ub = __float_as_uint(b);
  a -= __uint_as_float(ua & 0xffff0000u);
  b -= __uint_as_float(ub & 0xffff0000u);
  return __byte_perm(ua, ub, 0x7632);
}

__device__ inline void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// 16 bytes to shared memory, zeros where there is nothing to read.
__device__ inline void load_async(void* to, const void* from, bool there) {
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(there ? 16 : 0));
}
__device__ inline void commit_loads() { asm volatile("cp.async.commit_group;"); }
template <int kLeft> __device__ inline void wait_loads() { asm volatile("cp.async.wait_group %0;" ::"n"(kLeft)); }

}  // namespace dsinfer::cuda
