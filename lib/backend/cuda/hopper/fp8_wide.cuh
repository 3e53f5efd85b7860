/// The kernel behind the FP8 linears of 65 to 128 tokens (gate and up together: from 33 on): tokens are the 64-row operand of the warpgroup
/// matrix units, the weights the other, as many rows of them as give every multiprocessor as much to read.
#pragma once
#include "device.cuh"
#include "tma.cuh"
#include "wgmma_wide.cuh"

namespace dsinfer::hopper {

struct WideArgs {
  CUtensorMap w, x;      // boxes of 128 bytes: of a tile's rows of weights (gated: half of them), of its tokens
  bf16* out;             // plain: [tokens, N]; gated: [tokens, N/2] = silu(gate) · up
  const float* x_scale;  // [tokens, K/128]
  const float* w_scale;  // [ceil(N/128), K/128]
  int tokens, n, k, box_tokens;
};

/// True in one lane of a whole warp; the compiler knows that it is one, and copies from uniform registers without a loop over lanes.
__device__ inline bool elect_one() {
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
  return elected != 0;
}

/// A tile: kRows of the weights and kTokens tokens. Of 128 tokens each warpgroup has 64; of 64 both have all, and take the blocks of K in
/// turns.
template <int kRows, int kTokens>
struct WideShape {
  static constexpr int kThreads = 384, kTurns = kTokens == 64 ? 2 : 1, kWeightBytes = kRows * 128;
  static constexpr int kStageBytes = kWeightBytes + kTokens * 128, kSumBytes = kTurns == 2 ? kRows * 64 * 4 : 0;
  static constexpr int kFit = (227 * 1024 - 1024 - kSumBytes) / (kStageBytes + 16), kMost = kFit < 16 ? kFit : 16;
  // In turns a stage belongs to one group, which sees every phase of its barriers: a skipped one would pass for the next.
  static constexpr int kStages = kMost / kTurns * kTurns, kSums = kStages * kStageBytes, kBarriers = kSums + kSumBytes;
  static constexpr size_t kSharedBytes = 1024 + kBarriers + kStages * 16;
  static_assert(kRows % 8 == 0 && kRows <= 192 && kStages >= 4 && kSharedBytes <= 227 * 1024);
};

/// y[m,n] = Σ_b sx[m,b] · sw[n/128,b] · Σ_{k in block b} x[m,k] · w[n,k], b over blocks of 128, in their order; in turns, the even ones'
/// sum and then the odd ones'. K a multiple of 128 · kTurns. A block, as long as there are tiles: kRows rows of weights (gated: half of the
/// gate, and the same of up) and kTokens tokens. Two threads of the third warpgroup fill a ring of K blocks by the copy engine. A block of
/// 128 is summed by the matrix unit (E4M3, its own accumulator), then scaled into f32. The scales of four blocks lie in the four lanes that
/// share rows.
template <int kRows, int kTokens, bool kGated>
__global__ void __launch_bounds__(384, 1) fp8_wide_kernel(const __grid_constant__ WideArgs a) {
  using S = WideShape<kRows, kTokens>;
  constexpr int kStages = S::kStages, kTurns = S::kTurns;
  constexpr int kHalf = kGated ? kRows / 2 : kRows;             // rows next to each other, columns of the output
  constexpr int kEights = kRows / 8, kScales = kGated ? 4 : 2;  // two blocks of weights' scales touch kHalf rows
  static_assert(kHalf % 8 == 0);
  extern __shared__ uint8_t raw[];
  const uint32_t raw_address = uint32_t(__cvta_generic_to_shared(raw)), ring = (raw_address + 1023) / 1024 * 1024;
  const uint32_t full = ring + S::kBarriers, empty = full + kStages * 8;
  const int group = __shfl_sync(~0u, int(threadIdx.x / 128), 0);  // uniform: descriptors stay in uniform registers
  const int warp = __shfl_sync(~0u, int(threadIdx.x % 128 / 32), 0), thread = threadIdx.x % 128, lane = thread % 32, g = lane / 4,
            t = lane % 4;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) barrier_init(full + s * 8, 2), barrier_init(empty + s * 8, 8 / kTurns);  // a lane of each warp
    publish_barriers();
  }
  __syncthreads();

  const int blocks = a.k / 128, width = kGated ? a.n / 2 : a.n;
  const int twice = kTokens == 64 && a.tokens > 64;  // two tiles of the same weights: neighbours, the second finds them in L2
  const int num_tiles = (width + kHalf - 1) / kHalf << twice;

  RingPlace<kStages> place;
  if (group == 2) {
    give_registers<24>();
    auto copy_weights = [&](int row, int b, int stage) {
      const uint32_t to = ring + stage * S::kStageBytes, ready = full + stage * 8;
      barrier_expect(ready, S::kWeightBytes);
      copy_box(to, a.w, b * 128, row, ready);
      if constexpr (kGated) copy_box(to + S::kWeightBytes / 2, a.w, b * 128, width + row, ready);
    };
    // The weights of the first stages do not wait for the kernel before.
    const int early = int(blockIdx.x) < num_tiles ? min(kStages, blocks) : 0;
    if (warp == 0 && elect_one())
      for (int b = 0; b < early; ++b) copy_weights((int(blockIdx.x) >> twice) * kHalf, b, b);
    __syncwarp();
    wait_for_producers();
    let_dependents_start();
    if (warp < 2 && elect_one()) {  // two threads: one issues too slowly for both
      int step = 0;
      for (int tile = int(blockIdx.x); tile < num_tiles; tile += int(gridDim.x)) {
        const int row = (tile >> twice) * kHalf, token = (tile & twice) * kTokens;
        for (int b = 0; b < blocks; ++b, ++step, place.next()) {
          if (warp == 0 && step < early) continue;  // nor waits: the stage may be empty again already, and would be waited for in vain
          const uint32_t ready = full + place.stage * 8;
          barrier_wait(empty + place.stage * 8, place.parity ^ 1);
          if (warp == 1) {
            barrier_expect(ready, a.box_tokens * 128);
            copy_box(ring + place.stage * S::kStageBytes + S::kWeightBytes, a.x, b * 128, token, ready);
          } else {
            copy_weights(row, b, place.stage);
          }
        }
      }
    }
    return;
  }

  take_registers<240>();
  wait_for_producers();
  const int turn = kTurns == 2 ? group : 0, my_blocks = blocks / kTurns;
  const uint32_t weights0 = ring >> 4, tokens0 = (ring + S::kWeightBytes + (kTurns == 1 ? group * 64 * 128 : 0)) >> 4;
  float* const sums = reinterpret_cast<float*>(raw + (ring - raw_address) + S::kSums) + thread;
  const int last_scale = (a.n - 1) / 128;
  place.stage = turn;
  for (int tile = int(blockIdx.x); tile < num_tiles; tile += int(gridDim.x)) {
    const int column = (tile >> twice) * kHalf, row = (tile & twice) * kTokens + (kTurns == 1 ? group * 64 : 0) + warp * 16 + g;
    const float* const sx0 = a.x_scale + size_t(min(row, a.tokens - 1)) * blocks + turn;  // and of row + 8
    const float* const sx1 = a.x_scale + size_t(min(row + 8, a.tokens - 1)) * blocks + turn;
    // Eights of rows before the border of a scale's block, and the scales of both sides.
    int before[kGated ? 2 : 1];
    const float* sw[kScales];
#pragma unroll
    for (int h = 0; h < (kGated ? 2 : 1); ++h) {
      const int first_row = h * width + column;
      before[h] = 16 - first_row % 128 / 8 + h * (kHalf / 8);
      sw[h * 2] = a.w_scale + size_t(first_row / 128) * blocks + turn;
      sw[h * 2 + 1] = a.w_scale + size_t(min(first_row / 128 + 1, last_scale)) * blocks + turn;
    }
    float x_next[2], w_next[kScales], x_now[2], w_now[kScales], sum[kEights * 4];
    auto load_scales = [&](int b) {
      if (b + t >= my_blocks) return;
      x_next[0] = sx0[(b + t) * kTurns], x_next[1] = sx1[(b + t) * kTurns];
#pragma unroll
      for (int i = 0; i < kScales; ++i) w_next[i] = sw[i][(b + t) * kTurns];
    };
#pragma unroll
    for (float& s : sum) s = 0;
    load_scales(0);
    for (int b = 0; b < my_blocks; ++b) {
      if (b % 4 == 0) {
        x_now[0] = x_next[0], x_now[1] = x_next[1];
#pragma unroll
        for (int i = 0; i < kScales; ++i) w_now[i] = w_next[i];
        load_scales(b + 4);
      }
      const uint32_t offset = uint32_t(place.stage * (S::kStageBytes / 16)), x_tile = tokens0 + offset, w_tile = weights0 + offset;
      barrier_wait(full + place.stage * 8, place.parity);
      float dot[kEights * 4];
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < 4; ++k) wgmma_fp8(dot, tile_descriptor(x_tile + k * 2), tile_descriptor(w_tile + k * 2), k > 0);
      wgmma_commit();
      const float s0 = __shfl_sync(~0u, x_now[0], b % 4, 4), s1 = __shfl_sync(~0u, x_now[1], b % 4, 4);
      float scale0[kScales], scale1[kScales];
#pragma unroll
      for (int i = 0; i < kScales; ++i) {
        const float w = __shfl_sync(~0u, w_now[i], b % 4, 4);
        scale0[i] = s0 * w, scale1[i] = s1 * w;
      }
      wgmma_finish();
      if (lane == 0) barrier_arrive(empty + place.stage * 8);
      place.next();
      if constexpr (kTurns == 2) place.next();
#pragma unroll
      for (int j = 0; j < kEights; ++j) {
        const int h = kGated && j >= kEights / 2;
        const bool low = j < before[h];
        const float r0 = low ? scale0[h * 2] : scale0[h * 2 + 1], r1 = low ? scale1[h * 2] : scale1[h * 2 + 1];
        sum[j * 4] += dot[j * 4] * r0, sum[j * 4 + 1] += dot[j * 4 + 1] * r0;
        sum[j * 4 + 2] += dot[j * 4 + 2] * r1, sum[j * 4 + 3] += dot[j * 4 + 3] * r1;
      }
    }

    if constexpr (kTurns == 2) {  // barriers 1: the sums of the second are there; 2: their place is free
      if (group == 1) {
        if (tile != int(blockIdx.x)) named_sync(2, 256);
#pragma unroll
        for (int i = 0; i < kEights * 4; ++i) sums[i * 128] = sum[i];
        named_arrive(1, 256);
        continue;
      }
      named_sync(1, 256);
#pragma unroll
      for (int i = 0; i < kEights * 4; ++i) sum[i] += sums[i * 128];
      if (tile + int(gridDim.x) < num_tiles) named_arrive(2, 256);
    }
    constexpr int kUnits = kHalf / 8;  // of 16 bytes of a token
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bf16* const out = a.out + size_t(row + half * 8) * width + column;
#pragma unroll
      for (int q = 0; q < kUnits; q += 4) {
        uint32_t word[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          word[j] = 0;
          if (q + j >= kUnits) continue;
          const float* s = sum + (q + j) * 4 + half * 2;
          if constexpr (kGated) {
            const float* up = s + kUnits * 4;
            word[j] = swiglu(s, up);
          } else {
            word[j] = pack_bf16(s[0], s[1]);
          }
        }
        transpose_quad(word, t);
        if (row + half * 8 < a.tokens && q + t < kUnits && column + (q + t) * 8 < width)
          *reinterpret_cast<uint4*>(out + (q + t) * 8) = uint4{word[0], word[1], word[2], word[3]};
      }
    }
  }
}

}  // namespace dsinfer::hopper
