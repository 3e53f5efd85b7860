/// One sequence's chunk: keys and values of all heads made from the cached latents, then its attention.
#include "device.cuh"
#include "prefill.hpp"

namespace dsinfer::hopper {
namespace {

// A warp a key: 16 latents a lane; the rope key.
__global__ void __launch_bounds__(256) key_rows_kernel(const __grid_constant__ KeyRows a, int keys) {
  wait_for_producers();
  let_dependents_start();
  const int key = int(blockIdx.x) * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (key >= keys) return;
  const bool fp8 = a.format == KvFormat::kFp8;
  const uint8_t* row =
      static_cast<const uint8_t*>(a.cache) + (size_t(a.block_table[key / 64]) * 64 + key % 64) * (fp8 ? kFp8KvRowBytes : kBf16KvRowBytes);
  float v[16];
  if (fp8) {
    const uint4 u = *reinterpret_cast<const uint4*>(row + lane * 16);
    const float s = reinterpret_cast<const float*>(row + 512)[lane / 8];
    const uint32_t words[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      __nv_fp8_e4m3 bytes[4];
      *reinterpret_cast<uint32_t*>(bytes) = words[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) v[i * 4 + j] = float(bytes[j]) * s;
    }
  } else {
    const uint4* from = reinterpret_cast<const uint4*>(row + lane * 32);
    const uint4 u[2] = {from[0], from[1]};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t words[4] = {u[i].x, u[i].y, u[i].z, u[i].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) v[i * 8 + j * 2] = bf16_low(words[j]), v[i * 8 + j * 2 + 1] = bf16_high(words[j]);
    }
  }
  float amax = 0;
#pragma unroll
  for (const float x : v) amax = fmaxf(amax, fabsf(x));
#pragma unroll
  for (int offset = 4; offset > 0; offset >>= 1) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  const float s = activation_scale(amax, a.ue8m0);
  uint32_t packed[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) packed[i] = pack_e4m3(v[i * 4] / s, v[i * 4 + 1] / s, v[i * 4 + 2] / s, v[i * 4 + 3] / s);
  *reinterpret_cast<uint4*>(a.latent + size_t(key) * 512 + lane * 16) = uint4{packed[0], packed[1], packed[2], packed[3]};
  if (lane % 8 == 0) a.latent_scale[size_t(key) * 4 + lane / 8] = s;
  reinterpret_cast<uint32_t*>(a.rope_key + size_t(key) * 64)[lane] = reinterpret_cast<const uint32_t*>(row + (fp8 ? 528 : 1024))[lane];
}

constexpr int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

cudaError_t key_rows(const KeyRows& a, int keys, cudaStream_t stream) {
  if (keys == 0) return cudaSuccess;
  return start(key_rows_kernel, dim3(unsigned((keys + 7) / 8)), 256, 0, stream, true, a, keys);
}

int64_t prefill_workspace(int64_t keys, int heads) {
  return aligned(keys * heads * 512) + aligned(keys * 512) + aligned(keys * 16) + aligned(keys * 128);
}

cudaError_t prefill_segment(const PrefillSegment& a, cudaStream_t stream) {
  if (a.tokens == 0) return cudaSuccess;
  const int keys = a.q_first + a.tokens;
  auto* work = static_cast<uint8_t*>(a.work);
  auto take = [&](int64_t bytes) {
    uint8_t* taken = work;
    work += aligned(bytes);
    return taken;
  };
  auto* kv = reinterpret_cast<bf16*>(take(int64_t(keys) * a.heads * 512));
  uint8_t* latent = take(int64_t(keys) * 512);
  auto* latent_scale = reinterpret_cast<float*>(take(int64_t(keys) * 16));
  auto* rope_key = reinterpret_cast<bf16*>(take(int64_t(keys) * 128));
  cudaError_t status = key_rows({latent, latent_scale, rope_key, a.cache, a.block_table, a.ue8m0, a.format}, keys, stream);
  if (status == cudaSuccess) status = fp8_linear(kv, {latent, latent_scale}, a.kv_b, keys, a.heads * 256, 512, stream);
  if (status != cudaSuccess) return status;
  return chunk_attention({a.o, a.o_scale, a.q_b, kv, rope_key, a.tokens, a.heads, a.q_first, a.scale, a.ue8m0, a.rope, a.positions},
                         stream);
}

}  // namespace dsinfer::hopper
