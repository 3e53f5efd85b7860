/// Row-wise stages of a decode step, each fused with the quantisation that its reader wants.
#include "hopper.hpp"
#include "row_stages.hpp"
#include "row_values.cuh"
#include "run.cuh"

namespace dsinfer::hopper {
namespace {

/// Sum over the block; the same value in every thread. Order fixed by the block's shape.
template <int kThreads>
__device__ float block_sum(float v, float* scratch) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) total += scratch[i];
  return total;
}

// residual[t,:] += x, out = residual / rms · w.  A block a token, 8 channels a thread; dim = 8 · kThreads.
// x is a bf16 row, or the routed sum: Σ_k weight[t,k] · y[slot[t,k]] in the order of k, then y[shared_first + t].
template <int kThreads, bool kMoe>
__global__ void __launch_bounds__(kThreads) add_norm_kernel(const __grid_constant__ AddNorm a) {
  constexpr int kDim = 8 * kThreads;
  __shared__ float scratch[kThreads / 32];
  const size_t token = blockIdx.x, column = threadIdx.x * 8;
  float w[8], v[8], x[8];
  load8(a.weight + column, w);
  wait_for_producers();
  let_dependents_start();
  load8(a.residual + token * kDim + column, v);
  if constexpr (kMoe) {
    float sum[8] = {};
#pragma unroll 8
    for (int k = 0; k < a.top_k; ++k) {
      const int slot = a.slot[token * a.top_k + k];
      const float weight = a.route_weight[token * a.top_k + k];
      load8(a.x + size_t(max(slot, 0)) * kDim + column, x);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] = fmaf(weight, slot < 0 ? 0 : x[i], sum[i]);  // a padding row's pairs went nowhere
    }
    if (a.shared_first >= 0) {
      load8(a.x + (a.shared_first + token) * kDim + column, x);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] += x[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] += sum[i];
  } else if (a.x) {
    load8(a.x + token * kDim + column, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] += x[i];
  }
  float4* residual = reinterpret_cast<float4*>(a.residual + token * kDim + column);
  residual[0] = make_float4(v[0], v[1], v[2], v[3]);
  residual[1] = make_float4(v[4], v[5], v[6], v[7]);
  float square = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) square += v[i] * v[i];
  const float r = rsqrtf(block_sum<kThreads>(square, scratch) / kDim + a.eps);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = v[i] * r * w[i];
  if (a.out) {
    uint4 packed{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
    *reinterpret_cast<uint4*>(a.out + token * kDim + column) = packed;
  }
  if (a.q) store_quantised(v, a.q + token * kDim + column, a.q_scale + token * (kDim / 128) + column / 128, a.ue8m0);
}

// x [rows, 128 · blocks] bf16 to E4M3 with a scale a block of 128; 16 lanes a block.
__global__ void __launch_bounds__(256) quantise_kernel(uint8_t* q, float* scale, const bf16* x, int64_t num_blocks, bool ue8m0) {
  wait_for_producers();
  let_dependents_start();
  const int64_t block = int64_t(blockIdx.x) * 16 + threadIdx.x / 16;
  if (block - threadIdx.x / 16 % 2 >= num_blocks) return;  // a whole warp, or none of it, takes part in the shuffles
  const int64_t mine = min(block, num_blocks - 1);
  float v[8];
  load8(x + mine * 128 + threadIdx.x % 16 * 8, v);
  store_quantised(v, q + mine * 128 + threadIdx.x % 16 * 8, scale + mine, ue8m0);
}

/// Eight latents of a block of 128 to an FP8 cache row; the rounding of the scale is told at Latent::format.
__device__ void store_latents_fp8(const float (&v)[8], uint8_t* row, int column, bool ue8m0) {
  float amax = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(v[i]));
#pragma unroll
  for (int offset = 8; offset > 0; offset >>= 1) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset, 16));
  const float exact = fminf(activation_scale(amax, ue8m0), 255.0f);
  const float s = __uint_as_float((__float_as_uint(exact) + 0xffffu) & 0xffff0000u);
  *reinterpret_cast<uint2*>(row + column) =
      uint2{pack_e4m3(v[0] / s, v[1] / s, v[2] / s, v[3] / s), pack_e4m3(v[4] / s, v[5] / s, v[6] / s, v[7] / s)};
  if (threadIdx.x % 16 == 0) reinterpret_cast<float*>(row + 512)[column / 128] = s;
}

// What follows q_a + kv_a: one block a token. Threads 0–191: norm and quantisation of the 1536 query latents; 192–255: norm of the 512
// cached latents, rotation of the 64 rope channels, both to the token's cache row.
__global__ void __launch_bounds__(256) latent_kernel(const __grid_constant__ Latent a) {
  __shared__ float scratch[8];
  const int token = blockIdx.x, thread = threadIdx.x, warp = thread / 32;
  const bool query = thread < 192;
  const int column = query ? thread * 8 : (thread - 192) * 8;
  float w[8], v[8];
  load8((query ? a.q_norm : a.kv_norm) + column, w);
  wait_for_producers();
  let_dependents_start();
  const bf16* row = a.a + size_t(token) * 2112;
  load8(row + (query ? 0 : 1536) + column, v);
  const int position = a.positions[token];
  const bool append = position >= 0;
  const bool fp8 = a.format == KvFormat::kFp8;
  const size_t slot = append ? size_t(a.block_table[size_t(token) * a.max_pages + position / 64]) * 64 + position % 64 : 0;
  uint8_t* cached = static_cast<uint8_t*>(a.cache) + slot * (fp8 ? kFp8KvRowBytes : kBf16KvRowBytes);
  float square = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) square += v[i] * v[i];
  square = warp_sum(square);
  if (thread % 32 == 0) scratch[warp] = square;
  __syncthreads();
  if (query) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < 6; ++i) total += scratch[i];
    const float r = rsqrtf(total / 1536 + a.eps);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = v[i] * r * w[i];
    store_quantised(v, a.q + size_t(token) * 1536 + column, a.q_scale + token * 12 + column / 128, a.ue8m0);
  } else if (append) {
    const float r = rsqrtf((scratch[6] + scratch[7]) / 512 + a.eps);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = v[i] * r * w[i];
    if (fp8)
      store_latents_fp8(v, cached, column, a.ue8m0);
    else
      *reinterpret_cast<uint4*>(cached + column * 2) =
          uint4{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
    if (thread < 224) {
      const int pair = thread - 192;
      const float2 turn = reinterpret_cast<const float2*>(a.rope + size_t(position) * 64)[pair];
      const uint32_t xy = reinterpret_cast<const uint32_t*>(row + 2048)[pair];
      const float x = bf16_low(xy), y = bf16_high(xy);
      reinterpret_cast<uint32_t*>(cached + (fp8 ? 528 : 1024))[pair] = pack_bf16(x * turn.x - y * turn.y, x * turn.y + y * turn.x);
    }
  }
}

}  // namespace

cudaError_t add_norm(const AddNorm& a, int tokens, int dim, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  if (dim != 7168) return cudaErrorInvalidValue;
  if (a.slot && tokens > kManyTokens) return routed_norm_many(a, tokens, dim, stream);
  return start(a.slot ? add_norm_kernel<896, true> : add_norm_kernel<896, false>, dim3(unsigned(tokens)), 896, 0, stream, true, a);
}

cudaError_t quantise(uint8_t* q, float* scale, const bf16* x, int64_t rows, int64_t dim, bool ue8m0, cudaStream_t stream) {
  if (dim % 128 != 0) return cudaErrorInvalidValue;
  const int64_t num_blocks = rows * (dim / 128);
  if (num_blocks == 0) return cudaSuccess;
  return start(quantise_kernel, dim3(unsigned((num_blocks + 15) / 16)), 256, 0, stream, true, q, scale, x, num_blocks, ue8m0);
}

cudaError_t latents(const Latent& a, int tokens, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  return start(latent_kernel, dim3(unsigned(tokens)), 256, 0, stream, true, a);
}

}  // namespace dsinfer::hopper
