/// Weights of every format as f32, in registers.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "backend/cuda/kernels.hpp"

namespace dsinfer::cuda {

/// Numbers in 16 bytes.
template <Format F> inline constexpr int kPerLoad = F == Format::f32 ? 4 : F == Format::fp8_block ? 16 : F == Format::int4_group ? 32 : 8;

__device__ inline float bf16_float(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
__device__ inline float f16_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

__device__ inline float2 e4m3_pair(uint16_t codes) {
#if __CUDA_ARCH__ >= 890
  return __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(codes, __NV_E4M3)));
#else
  // E4M3's exponent and mantissa, shifted to where f16 has them, are the value / 256; its NaN is no NaN there.
  const auto one = [](uint32_t c) {
    const float value = f16_float(static_cast<uint16_t>((c & 0x80u) << 8 | (c & 0x7fu) << 7)) * 256.0f;
    return (c & 0x7fu) == 0x7fu ? __uint_as_float(0x7fc00000u) : value;
  };
  return {one(codes & 0xffu), one(codes >> 8)};
#endif
}

__device__ inline float scale_at(const std::byte* scale, DType dtype, int64_t i) {
  if (dtype == DType::f32) return reinterpret_cast<const float*>(scale)[i];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(scale)[i];
  return dtype == DType::bf16 ? bf16_float(bits) : f16_float(bits);
}

/// What turns stored numbers of one row and block into values: (number − zero) · scale.
struct BlockScale {
  float scale = 1, zero = 0;
};

template <Format F> __device__ inline BlockScale block_scale(const LinearWeight& w, const LinearShape& s, int64_t row, int64_t block) {
  if constexpr (F == Format::fp8_block) {
    return {reinterpret_cast<const float*>(w.scale)[row / s.block_rows * s.scale_stride + block], 0};
  } else if constexpr (F == Format::int4_group) {
    int zero = 8;  // where there are no zero points
    if (w.zeros) {
      const int64_t at = row * (s.k / s.block_cols) + block;
      zero = w.zeros[at / 2] >> (at % 2 * 4) & 0xf;
    }
    return {scale_at(w.scale, s.scale_dtype, row * s.scale_stride + block), static_cast<float>(zero)};
  }
  return {};
}

/// Numbers 4q … 4q+3 of 16 bytes.
template <Format F> __device__ inline void decode4(float (&out)[4], const uint4& raw, int q, BlockScale b) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  if constexpr (F == Format::f32) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = __uint_as_float(words[i]);
  } else if constexpr (F == Format::bf16) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      out[2 * i] = __uint_as_float(words[2 * q + i] << 16);
      out[2 * i + 1] = __uint_as_float(words[2 * q + i] & 0xffff0000u);
    }
  } else if constexpr (F == Format::f16) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      out[2 * i] = f16_float(static_cast<uint16_t>(words[2 * q + i]));
      out[2 * i + 1] = f16_float(static_cast<uint16_t>(words[2 * q + i] >> 16));
    }
  } else if constexpr (F == Format::fp8_block) {
    const float2 a = e4m3_pair(static_cast<uint16_t>(words[q])), c = e4m3_pair(static_cast<uint16_t>(words[q] >> 16));
    out[0] = a.x * b.scale;
    out[1] = a.y * b.scale;
    out[2] = c.x * b.scale;
    out[3] = c.y * b.scale;
  } else {
    const uint32_t nibbles = words[q / 2] >> (q % 2 * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = (static_cast<float>(nibbles >> (4 * i) & 0xfu) - b.zero) * b.scale;
  }
}

/// Number k of a row, wherever it lies.
template <Format F> __device__ inline float decode1(const std::byte* row, int64_t k, BlockScale b) {
  if constexpr (F == Format::f32) return reinterpret_cast<const float*>(row)[k];
  if constexpr (F == Format::bf16) return bf16_float(reinterpret_cast<const uint16_t*>(row)[k]);
  if constexpr (F == Format::f16) return f16_float(reinterpret_cast<const uint16_t*>(row)[k]);
  if constexpr (F == Format::fp8_block) return e4m3_pair(reinterpret_cast<const uint8_t*>(row)[k]).x * b.scale;
  if constexpr (F == Format::int4_group) return (static_cast<float>(reinterpret_cast<const uint8_t*>(row)[k / 2] >> (k % 2 * 4) & 0xf) - b.zero) * b.scale;
}

}  // namespace dsinfer::cuda
