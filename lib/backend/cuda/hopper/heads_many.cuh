/// MLA's absorbed products for many tokens: tokens are the 64-row operand of the warpgroup matrix units, a head's weights the other, both
/// brought by the copy engine.
#pragma once
#include "device.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace dsinfer::hopper {

struct AbsorbArgs {
  CUtensorMap w, x;  // boxes of 64 channels: of kRows rows of a head's weights [heads · 512, 128]; of all tokens' q_b [tokens, heads · 192]
  bf16* q;           // [tokens, heads, 576]
  const bf16* q_b;
  const float* rope;  // [positions, 64]
  const int* positions;
  int tokens, heads;
};

struct AbsorbShape {
  static constexpr int kThreads = 384, kRows = 64, kChunks = 512 / kRows;
  static constexpr int kTokenBytes = 128 * 128, kChunkBytes = kRows * 256;  // of 64 channels of all tokens; of a chunk's 128 channels
  static constexpr int kWeights = 2 * kTokenBytes, kBarriers = kWeights + kChunks * kChunkBytes;
  static constexpr size_t kSharedBytes = 1024 + kBarriers + (kChunks + 1) * 8;
};

/// q[t,h,n] = Σ_k w_uk[h,n,k] · q_b[t,h,k], and q[t,h,512:] = q_b[t,h,128:192] rotated.
/// A block a head, all of it asked for at once. Over 64 tokens the first two warpgroups have 64 each, of fewer each has all of them and
/// every other chunk of rows. The third brings what they read, then rotates.
__global__ void __launch_bounds__(384, 1) absorb_many_kernel(const __grid_constant__ AbsorbArgs a) {
  using S = AbsorbShape;
  extern __shared__ uint8_t raw[];
  const uint32_t base = (uint32_t(__cvta_generic_to_shared(raw)) + 1023) / 1024 * 1024, full = base + S::kBarriers;
  const int group = __shfl_sync(~0u, int(threadIdx.x / 128), 0), thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const int head = blockIdx.x;
  if (threadIdx.x == 0) {
    for (int i = 0; i <= S::kChunks; ++i) barrier_init(full + i * 8, 1);
    publish_barriers();
  }
  __syncthreads();

  if (group == 2) {
    if (thread == 0)
      for (int c = 0; c < S::kChunks; ++c) {
        const uint32_t to = base + S::kWeights + c * S::kChunkBytes, ready = full + c * 8;
        barrier_expect(ready, S::kChunkBytes);
        copy_box(to, a.w, 0, head * 512 + c * S::kRows, ready);
        copy_box(to + S::kChunkBytes / 2, a.w, 64, head * 512 + c * S::kRows, ready);
      }
    __syncwarp();
    wait_for_producers();
    let_dependents_start();
    if (thread == 0) {
      const uint32_t ready = full + S::kChunks * 8;
      barrier_expect(ready, a.tokens * 256);
      copy_box(base, a.x, head * 192, 0, ready);
      copy_box(base + S::kTokenBytes, a.x, head * 192 + 64, 0, ready);
    }
    __syncwarp();
    constexpr int kAhead = 4;  // tokens of a warp in flight
    for (int first = warp; first < a.tokens; first += 4 * kAhead) {
      uint32_t xy[kAhead];
      float2 turn[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int token = min(first + 4 * i, a.tokens - 1);
        xy[i] = reinterpret_cast<const uint32_t*>(a.q_b + (size_t(token) * a.heads + head) * 192 + 128)[lane];
        turn[i] = reinterpret_cast<const float2*>(a.rope + size_t(max(a.positions[token], 0)) * 64)[lane];
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int token = first + 4 * i;
        if (token >= a.tokens) break;
        const float u = bf16_low(xy[i]), v = bf16_high(xy[i]);
        reinterpret_cast<uint32_t*>(a.q + (size_t(token) * a.heads + head) * 576 + 512)[lane] =
            pack_bf16(u * turn[i].x - v * turn[i].y, u * turn[i].y + v * turn[i].x);
      }
    }
    return;
  }

  const bool apart = a.tokens > 64;  // the groups have different tokens
  const int g = lane / 4, t = lane % 4, row = (apart ? group * 64 : 0) + warp * 16 + g;
  const uint32_t tokens = base + (apart ? group * 64 * 128 : 0);
  wait_for_producers();
  barrier_wait(full + S::kChunks * 8, 0);
  for (int c = apart ? 0 : group; c < S::kChunks; c += apart ? 1 : 2) {
    const uint32_t weights = base + S::kWeights + c * S::kChunkBytes;
    barrier_wait(full + c * 8, 0);
    float sum[S::kRows / 2];
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < 8; ++k)
      wgmma_bf16(sum, tile_descriptor(tokens + k / 4 * S::kTokenBytes + k % 4 * 32, 16),
                 tile_descriptor(weights + k / 4 * (S::kChunkBytes / 2) + k % 4 * 32, 16), k > 0);
    wgmma_commit();
    wgmma_finish();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = row + half * 8;
      bf16* const out = a.q + (size_t(token) * a.heads + head) * 576 + c * S::kRows;
#pragma unroll
      for (int q = 0; q < S::kRows / 32; ++q) {
        uint32_t word[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) word[j] = pack_bf16(sum[(q * 4 + j) * 4 + half * 2], sum[(q * 4 + j) * 4 + half * 2 + 1]);
        transpose_quad(word, t);
        if (token < a.tokens) *reinterpret_cast<uint4*>(out + (q * 4 + t) * 8) = uint4{word[0], word[1], word[2], word[3]};
      }
    }
  }
}

struct ExpandArgs {
  CUtensorMap w, u;  // boxes of 64 channels: of a head's 128 rows of [heads · 128, 512]; of all tokens' [tokens, heads · 512]
  uint8_t* o;        // [tokens, heads · 128]
  float* o_scale;    // [tokens, heads]
  int tokens, heads;
  bool ue8m0;
};

struct ExpandShape {
  static constexpr int kThreads = 384, kChunks = 8, kStages = 6, kWeightBytes = 128 * 128,
                       kStageBytes = 2 * kWeightBytes;  // chunk: 64 channels
  static constexpr int kBarriers = kStages * kStageBytes;
  static constexpr size_t kSharedBytes = 1024 + kBarriers + kStages * 16;
  static_assert(kSharedBytes <= 227 * 1024);
};

/// o[t,h,n] = Σ_k w_uv[h,n,k] · u[t,h,k], quantised: the 128 values of a head are one block of o_proj's input.
/// A block a head. The third warpgroup fills a ring of chunks of 64 channels, the other two have 64 tokens each.
__global__ void __launch_bounds__(384, 1) expand_many_kernel(const __grid_constant__ ExpandArgs a) {
  using S = ExpandShape;
  extern __shared__ uint8_t raw[];
  const uint32_t ring = (uint32_t(__cvta_generic_to_shared(raw)) + 1023) / 1024 * 1024, full = ring + S::kBarriers,
                 empty = full + S::kStages * 8;
  const int group = __shfl_sync(~0u, int(threadIdx.x / 128), 0), thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const int head = blockIdx.x, consumers = a.tokens > 64 ? 2 : 1;
  if (threadIdx.x == 0) {
    for (int s = 0; s < S::kStages; ++s) barrier_init(full + s * 8, 2), barrier_init(empty + s * 8, 4 * consumers);
    publish_barriers();
  }
  __syncthreads();

  if (group == 2) {
    auto copy_weights = [&](int c) {
      const uint32_t ready = full + c % S::kStages * 8;
      barrier_expect(ready, S::kWeightBytes);
      copy_box(ring + c % S::kStages * S::kStageBytes, a.w, c * 64, head * 128, ready);
    };
    if (thread == 0)  // the weights do not wait for the kernel before
      for (int c = 0; c < S::kStages; ++c) copy_weights(c);
    __syncwarp();
    wait_for_producers();
    let_dependents_start();
    if (thread == 0)
      for (int c = 0; c < S::kChunks; ++c) {
        const uint32_t ready = full + c % S::kStages * 8;
        if (c >= S::kStages) {
          barrier_wait(empty + c % S::kStages * 8, 0);
          copy_weights(c);
        }
        barrier_expect(ready, a.tokens * 128);
        copy_box(ring + c % S::kStages * S::kStageBytes + S::kWeightBytes, a.u, head * 512 + c * 64, 0, ready);
      }
    return;
  }
  wait_for_producers();
  if (group >= consumers) return;

  const int g = lane / 4, t = lane % 4;
  float sum[64];
  for (int c = 0; c < S::kChunks; ++c) {
    const uint32_t weights = ring + c % S::kStages * S::kStageBytes, tokens = weights + S::kWeightBytes + group * 64 * 128;
    barrier_wait(full + c % S::kStages * 8, c / S::kStages);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      wgmma_bf16(sum, tile_descriptor(tokens + k * 32, 16), tile_descriptor(weights + k * 32, 16), c > 0 || k > 0);
    wgmma_commit();
    wgmma_finish();
    if (lane == 0) barrier_arrive(empty + c % S::kStages * 8);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float amax = 0;
#pragma unroll
    for (int j = 0; j < 16; ++j) amax = fmaxf(amax, fmaxf(fabsf(sum[j * 4 + half * 2]), fabsf(sum[j * 4 + half * 2 + 1])));
    amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 1));
    amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 2));
    const float scale = activation_scale(amax, a.ue8m0);
    const int token = group * 64 + warp * 16 + g + half * 8;
    uint8_t* const out = a.o + (size_t(token) * a.heads + head) * 128;
#pragma unroll
    for (int q = 0; q < 2; ++q) {  // 64 columns: of eights 2 j and 2 j + 1 a lane has two bytes each
      uint32_t word[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* s = sum + (q * 8 + j * 2) * 4 + half * 2;
        word[j] = pack_e4m3(s[0] / scale, s[1] / scale, s[4] / scale, s[5] / scale);
      }
      const uint4 bytes = join_eights(word, t);
      if (token < a.tokens) *reinterpret_cast<uint4*>(out + q * 64 + t * 16) = bytes;
    }
    if (t == 0 && token < a.tokens) a.o_scale[size_t(token) * a.heads + head] = scale;
  }
}

}  // namespace dsinfer::hopper
