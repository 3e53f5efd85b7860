/// The kernel behind the FP8 linears of many decode tokens: as fp8_tile.cuh's, with weights and tokens brought by the copy engine to one
/// ring that two warpgroups share.
#pragma once
#include "device.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace dsinfer::hopper {

struct WideArgs {
  CUtensorMap w, x, x_scale;  // boxes of 128 bytes: of 64 rows of weights, of all tokens; of 4 scales of all tokens
  bf16* out;                  // [tokens, N]
  const float* w_scale;       // [ceil(N/128), K/128]
  int tokens, n, k;
};

struct WideShape {
  static constexpr int kColumns = 128;  // tokens at most
  static constexpr int kThreads = 384, kWeightBytes = 64 * 128, kTokenBytes = kColumns * 128;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes, kStages = 6;
  static constexpr int kScaleSlots = 4, kScaleBytes = kColumns * 16;          // a slot: four blocks' scales of every token
  static constexpr int kMaxBlocks = 160, kWeightScaleBytes = kMaxBlocks * 4;  // of K; scales of a tile's weights
  static constexpr int kSumBytes = 64 * kColumns * 4, kOutStride = 64 + 8;
  static constexpr int kScales = kStages * kStageBytes, kSums = kScales + kScaleSlots * kScaleBytes, kWeightScales = kSums + kSumBytes,
                       kBarriers = kWeightScales + 2 * kWeightScaleBytes;
  static constexpr int kShared = 1024 + kBarriers + 2 * (kStages + kScaleSlots) * 8;
  // A stage belongs to one group, which sees every phase of its barriers: a skipped one would pass for the next.
  static_assert(kStages % 2 == 0);
  static_assert(kShared <= 227 * 1024 && kColumns * kOutStride * 2 <= kSumBytes);
};

/// y[m,n] = Σ_b sx[m,b] · sw[n/128,b] · Σ_{k in block b} x[m,k] · w[n,k], b over blocks of 128.
/// A block, as long as there are tiles: 64 rows of weights and up to 128 tokens. Three threads of the third warpgroup fill a ring of
/// K blocks by the copy engine. The other two take the blocks of K in turns, each block summed by the matrix unit (E4M3, its own accumulator), then scaled into f32; the second's sums join the first's, which stores. The order of sums
/// is the same for every number of tokens. K a multiple of 512.
__global__ void __launch_bounds__(384, 1) fp8_wide_kernel(const __grid_constant__ WideArgs a) {
  using S = WideShape;
  constexpr int kTokenTiles = S::kColumns / 8;
  extern __shared__ uint8_t raw[];
  const uint32_t raw_address = uint32_t(__cvta_generic_to_shared(raw)), base = (raw_address + 1023) / 1024 * 1024;
  uint8_t* const generic = raw + (base - raw_address);
  const uint32_t full = base + S::kBarriers, empty = full + S::kStages * 8, scale_full = empty + S::kStages * 8,
                 scale_empty = scale_full + S::kScaleSlots * 8;
  const int group = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  if (threadIdx.x == 0) {
    for (int s = 0; s < S::kStages; ++s) barrier_init(full + s * 8, 1), barrier_init(empty + s * 8, 4);
    for (int s = 0; s < S::kScaleSlots; ++s) barrier_init(scale_full + s * 8, 1), barrier_init(scale_empty + s * 8, 8);
    publish_barriers();
  }
  __syncthreads();

  const int blocks = a.k / 128;
  const int num_tiles = a.n / 64;

  if (group == 2) {
    give_registers<40>();
    // Three threads: one issues too slowly for all. Each stage's first fetches weights and says how many bytes come.
    const bool leads = lane == 0;
    auto copy_weights = [&](int tile, int b, int stage) {
      barrier_expect(full + stage * 8, S::kWeightBytes + a.tokens * 128);
      const uint32_t to = base + stage * S::kStageBytes;
      copy_box(to, a.w, b * 128, tile * 64, full + stage * 8);
    };
    // The weights of the first stages do not wait for the kernel before.
    const int early = int(blockIdx.x) < num_tiles ? min(S::kStages, blocks) : 0;
    if (warp == 0 && leads)
      for (int b = 0; b < early; ++b) copy_weights(int(blockIdx.x), b, b);
    wait_for_producers();
    let_dependents_start();
    if (warp < 2 && leads) {
      RingPlace<S::kStages> place;
      int step = 0;
      for (int tile = int(blockIdx.x); tile < num_tiles; tile += int(gridDim.x))
        for (int b = 0; b < blocks; ++b, ++step, place.next()) {
          if (warp == 0 && step < early) continue;  // nor waits: the stage may be empty again already, and would be waited for in vain
          barrier_wait(empty + place.stage * 8, place.parity ^ 1);
          if (warp == 1)
            copy_box(base + place.stage * S::kStageBytes + S::kWeightBytes, a.x, b * 128, 0, full + place.stage * 8);
          else
            copy_weights(tile, b, place.stage);
        }
    } else if (warp == 2 && leads) {
      RingPlace<S::kScaleSlots> place;
      int turn = 0;
      for (int tile = int(blockIdx.x); tile < num_tiles; tile += int(gridDim.x), turn ^= 1)
        for (int b = 0; b < blocks; b += 4, place.next()) {
          const uint32_t ready = scale_full + place.stage * 8;
          barrier_wait(scale_empty + place.stage * 8, place.parity ^ 1);
          barrier_expect(ready, a.tokens * 16 + (b == 0 ? blocks * 4 : 0));
          if (b == 0)  // in place of the tile before the last's, which all have left: a tile has three slots' worth of blocks or more
            copy_bytes(base + S::kWeightScales + turn * S::kWeightScaleBytes, a.w_scale + size_t(tile / 2) * blocks, blocks * 4, ready);
          copy_box(base + S::kScales + place.stage * S::kScaleBytes, a.x_scale, b, 0, ready);
        }
    }
  } else {
    take_registers<232>();
    int step = 0, turn = 0;
    float* const sums = reinterpret_cast<float*>(generic + S::kSums);
    for (int tile = int(blockIdx.x); tile < num_tiles; tile += int(gridDim.x)) {
      const int tile_row = tile * 64;
      const float* w_scale = reinterpret_cast<const float*>(generic + S::kWeightScales + turn * S::kWeightScaleBytes);
      turn ^= 1;
      float sum[kTokenTiles * 4];
#pragma unroll
      for (float& s : sum) s = 0;
      for (int b = 0; b < blocks; ++b, ++step) {
        if (b % 2 != group) continue;
        const int stage = step % S::kStages;
        barrier_wait(full + stage * 8, step / S::kStages % 2);
        float dot[kTokenTiles * 4];
        const uint32_t weights = base + stage * S::kStageBytes, tokens = weights + S::kWeightBytes;
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < 4; ++k) wgmma_fp8(dot, tile_descriptor(weights + k * 32, 16), tile_descriptor(tokens + k * 32, 16), k > 0);
        wgmma_commit();
        const int four = step / 4, slot = four % S::kScaleSlots;
        if (b % 4 == group) barrier_wait(scale_full + slot * 8, four / S::kScaleSlots % 2);
        const float sw = w_scale[b];
        const float* sx = reinterpret_cast<const float*>(generic + S::kScales) + slot * S::kColumns * 4 + t * 8 + b % 4;
        wgmma_finish();
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          const float s0 = sx[n * 32] * sw, s1 = sx[n * 32 + 4] * sw;
          sum[n * 4] += dot[n * 4] * s0, sum[n * 4 + 1] += dot[n * 4 + 1] * s1;
          sum[n * 4 + 2] += dot[n * 4 + 2] * s0, sum[n * 4 + 3] += dot[n * 4 + 3] * s1;
        }
        __syncwarp();
        if (lane == 0) {
          if (b % 4 == 2 + group) barrier_arrive(scale_empty + slot * 8);
          barrier_arrive(empty + stage * 8);
        }
      }
      // Barriers 1: the sums of the second are there; 2: their place is free.
      if (group == 1) {
        if (tile != int(blockIdx.x)) asm volatile("bar.sync 2, 256;" ::: "memory");
#pragma unroll
        for (int i = 0; i < kTokenTiles * 4; ++i) sums[i * 128 + thread] = sum[i];
        asm volatile("bar.arrive 1, 256;" ::: "memory");
        continue;
      }
      asm volatile("bar.sync 1, 256;" ::: "memory");
#pragma unroll
      for (int i = 0; i < kTokenTiles * 4; ++i) sum[i] += sums[i * 128 + thread];
      asm volatile("bar.sync 3, 128;" ::: "memory");
      // [token][row] in the same place, then rows of neighbours together
      bf16* const turned = reinterpret_cast<bf16*>(sums);
#pragma unroll
      for (int i = 0; i < kTokenTiles * 4; ++i)
        turned[(i / 4 * 8 + t * 2 + i % 2) * S::kOutStride + warp * 16 + g + i % 4 / 2 * 8] = __float2bfloat16_rn(sum[i]);
      asm volatile("bar.sync 3, 128;" ::: "memory");
      constexpr int kUnits = 8;  // of 16 bytes, of a token's 64 rows
      for (int i = thread; i < a.tokens * kUnits; i += 128)
        *reinterpret_cast<uint4*>(a.out + size_t(i / kUnits) * a.n + tile_row + i % kUnits * 8) =
            *reinterpret_cast<const uint4*>(turned + i / kUnits * S::kOutStride + i % kUnits * 8);
      if (tile + int(gridDim.x) < num_tiles) asm volatile("bar.arrive 2, 256;" ::: "memory");
    }
  }
}

}  // namespace dsinfer::hopper
