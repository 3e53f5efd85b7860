/// Eight channels a thread: what the kernels of rows share.
#pragma once
#include "device.cuh"

namespace dsinfer::hopper {

/// v / s for many v and one s: the quotient as IEEE division rounds it (Markstein 1990), without its checks. s is normal, and so is 1/s.
struct Divisor {
  float s, inverse;
  __device__ explicit Divisor(float divisor) { s = divisor, inverse = __frcp_rn(divisor); }
  __device__ float into(float v) const {
    const float q = v * inverse;
    return fmaf(fmaf(-q, s, v), inverse, q);
  }
};

/// Eight values of a block of 128 that 16 neighbouring lanes hold: E4M3 bytes and, from the first lane, the scale.
__device__ inline void store_quantised(const float (&y)[8], uint8_t* bytes, float* scale, bool ue8m0) {
  float amax = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(y[i]));
#pragma unroll
  for (int offset = 8; offset > 0; offset >>= 1) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset, 16));
  const float s = activation_scale(amax, ue8m0);
  uint2 packed;
  const Divisor by(s);
  packed.x = pack_e4m3(by.into(y[0]), by.into(y[1]), by.into(y[2]), by.into(y[3]));
  packed.y = pack_e4m3(by.into(y[4]), by.into(y[5]), by.into(y[6]), by.into(y[7]));
  *reinterpret_cast<uint2*>(bytes) = packed;
  if (threadIdx.x % 16 == 0) *scale = s;
}

__device__ inline void widen8(uint4 u, float (&v)[8]) {
  v[0] = bf16_low(u.x), v[1] = bf16_high(u.x), v[2] = bf16_low(u.y), v[3] = bf16_high(u.y);
  v[4] = bf16_low(u.z), v[5] = bf16_high(u.z), v[6] = bf16_low(u.w), v[7] = bf16_high(u.w);
}
__device__ inline void load8(const bf16* p, float (&v)[8]) { widen8(*reinterpret_cast<const uint4*>(p), v); }
__device__ inline void load8(const float* p, float (&v)[8]) {
  const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

}  // namespace dsinfer::hopper
