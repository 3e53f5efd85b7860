/// The kernel behind the FP8 linears of a decode step that fp8_wide.cuh does not take: weights are read once, by asynchronous copies that
/// stay in flight across tiles, and meet up to 128 tokens in the warpgroup matrix units, as their 64-row operand.
#pragma once
#include <cooperative_groups.h>

#include "device.cuh"
#include "run.cuh"
#include "wgmma.cuh"

namespace dsinfer::hopper {

struct LinearArgs {
  bf16* out;                // plain: [positions, N]; gated: [positions, N/2] = silu(gate) · up
  const uint8_t* x;         // [rows, K] e4m3
  const float* x_scale;     // [rows, K/128]
  const uint8_t* w;         // [experts, N, K] e4m3
  const float* w_scale;     // [experts, ceil(N/128), K/128]
  const uint8_t* shared_w;  // [N, K]: expert number `experts`, where there is one
  const float* shared_scale;
  const ExpertRun* runs;  // grouped: [*num_runs]
  const int* num_runs;
  const int* rows;  // grouped: row of x of each position, or null where x is in the order of positions
  int tokens, n, k, experts;
};

template <int kColumns>
struct TileShape {
  static constexpr int kGroups =
      kColumns > 64 ? 2 : 4;  // warpgroups of a block: they take the blocks of K in turns; 128 columns need the registers of two
  static constexpr int kThreads = 128 * kGroups;
  static constexpr int kWeightBytes = 64 * 128, kStageBytes = kWeightBytes + kColumns * 128;
  static constexpr int kChunk = kColumns < 16 ? kColumns : 16;  // columns summed at a time
  static constexpr int kStride = 64 + 4;
  static constexpr size_t shared_bytes(int stages) {
    return 1024 + size_t(kGroups) * stages * (kStageBytes + kColumns * sizeof(float)) +
           size_t(kGroups + 1) * kChunk * kStride * sizeof(float);
  }
};

/// y[m,n] = Σ_b sx[m,b] · sw[n/128,b] · Σ_{k in block b} x[m,k] · w[n,k], b over blocks of 128.
/// A block: 64 rows of the weights (gated: 32 gate rows and their up rows, in turns of 8) and kColumns tokens; its warpgroups split
/// K, each with a ring of kStages tiles of 128 channels that its own threads fill (cp.async); kCluster blocks split K further and add
/// through distributed shared memory. Each block of 128 is summed by the matrix unit (E4M3, its own accumulator), then scaled into f32.
/// Order of sums: blocks of a warpgroup, then warpgroups, then blocks of the cluster: the same for every number of tokens, as long as
/// kGroups and kCluster are.
template <int kColumns, int kStages, int kCluster, bool kGrouped, bool kGated>
__global__ void __launch_bounds__(TileShape<kColumns>::kThreads, 1) fp8_tile_kernel(const __grid_constant__ LinearArgs a) {
  using Shape = TileShape<kColumns>;
  constexpr int kGroups = Shape::kGroups, kParts = kGroups * kCluster, kTokenTiles = kColumns / 8, kStride = Shape::kStride,
                kChunk = Shape::kChunk;
  constexpr int kXUnits = kColumns * 8, kXLoads = (kXUnits + 127) / 128;  // 16-byte units of a token tile, and how many a thread copies
  extern __shared__ uint8_t raw[];
  const uint32_t raw_address = uint32_t(__cvta_generic_to_shared(raw)), base = (raw_address + 1023) / 1024 * 1024;
  float* const scales =
      reinterpret_cast<float*>(raw + (base - raw_address) + size_t(kGroups) * kStages * Shape::kStageBytes);  // [group][stage][column]
  float* const partial = scales + kGroups * kStages * kColumns;  // [group][chunk column][kStride]
  float* const total = partial + kGroups * kChunk * kStride;     // [chunk column][kStride]

  const int group = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int rank = kCluster > 1 ? int(blockIdx.x % kCluster) : 0, first_tile = blockIdx.x / kCluster, tile_step = gridDim.x / kCluster;
  const int part = rank * kGroups + group, blocks = a.k / 128, steps = (blocks - part + kParts - 1) / kParts;
  const int tiles_per_run = a.n / 64;
  const uint32_t ring = base + uint32_t(group) * kStages * Shape::kStageBytes;
  float* const my_scales = scales + group * kStages * kColumns;
  const uint32_t my_scales_address = uint32_t(__cvta_generic_to_shared(my_scales));

  int num_tiles = tiles_per_run;
  if constexpr (kGrouped) {
    wait_for_producers();
    num_tiles *= *a.num_runs;
  } else {
    num_tiles *= (a.tokens + kColumns - 1) / kColumns;  // tiles of the same rows are neighbours: the second finds them in L2
  }
  struct Place {
    int row_tile, first, count;
    const uint8_t* w;
    const float* scale;
  };
  auto find = [&](int tile) {
    Place p;
    if constexpr (kGrouped) {
      const ExpertRun run = a.runs[tile / tiles_per_run];
      p.row_tile = tile % tiles_per_run, p.first = run.first, p.count = run.count;
      const bool shared = run.expert == a.experts;
      p.w = shared ? a.shared_w : a.w + size_t(run.expert) * a.n * a.k;
      p.scale = shared ? a.shared_scale : a.w_scale + size_t(run.expert) * ((a.n + 127) / 128) * blocks;
    } else {
      const int columns = (a.tokens + kColumns - 1) / kColumns;
      p.row_tile = tile / columns, p.first = tile % columns * kColumns, p.count = min(kColumns, a.tokens - p.first);
      p.w = a.w, p.scale = a.w_scale;
    }
    return p;
  };
  auto weight_row = [&](int row_tile, int r) {  // of tile row r
    return kGated ? row_tile * 32 + r / 16 * 8 + r % 8 + (r / 8 % 2 ? a.n / 2 : 0) : row_tile * 64 + r;
  };

  // --- filling the ring: thread copies unit (thread % 8) of rows thread / 8 + 16 i
  int issue_tile = first_tile, issue_step = 0;
  const uint8_t* w_from[4];
  const uint8_t* x_from[kXLoads];
  const float* scale_from = nullptr;
  uint32_t x_valid = 0;
  const int unit = thread % 8;
  auto begin_weights = [&] {
    const Place p = find(issue_tile);
#pragma unroll
    for (int i = 0; i < 4; ++i) w_from[i] = p.w + size_t(weight_row(p.row_tile, thread / 8 + 16 * i)) * a.k + part * 128 + unit * 16;
  };
  auto begin_tokens = [&] {
    const Place p = find(issue_tile);
    x_valid = 0;
    auto row_of = [&](int column) {
      const int position = p.first + min(column, p.count - 1);
      return kGrouped && a.rows ? a.rows[position] : position;
    };
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) {
      const int column = thread / 8 + 16 * i;
      x_from[i] = a.x + size_t(row_of(column)) * a.k + part * 128 + unit * 16;
      x_valid |= uint32_t(column < p.count) << i;
    }
    scale_from = a.x_scale + size_t(row_of(thread % kColumns)) * blocks + part;
  };
  auto copy_weights = [&](int stage, int step) {
    const uint32_t to = ring + uint32_t(stage) * Shape::kStageBytes;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = thread / 8 + 16 * i;
      copy16(to + row * 128 + ((unit ^ (row % 8)) * 16), w_from[i] + size_t(step) * kParts * 128, true);
    }
  };
  auto copy_tokens = [&](int stage, int step) {
    const uint32_t to = ring + uint32_t(stage) * Shape::kStageBytes + Shape::kWeightBytes;
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) {
      const int row = thread / 8 + 16 * i;
      if (kXUnits >= 128 || thread < kXUnits)
        copy16(to + row * 128 + ((unit ^ (row % 8)) * 16), x_from[i] + size_t(step) * kParts * 128, x_valid >> i & 1);
    }
    if (thread < kColumns)
      asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(my_scales_address + uint32_t(stage * kColumns + thread) * 4),
                   "l"(scale_from + size_t(step) * kParts)
                   : "memory");
  };
  auto commit = [] { asm volatile("cp.async.commit_group;" ::: "memory"); };
  auto issue = [&](int stage) {
    if (issue_tile < num_tiles) {
      if (issue_step == 0) begin_weights(), begin_tokens();
      copy_weights(stage, issue_step), copy_tokens(stage, issue_step);
      if (++issue_step == steps) issue_step = 0, issue_tile += tile_step;
    }
    commit();
  };
  if constexpr (kGrouped) {
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) issue(s);
  } else {  // the weights of the first stages do not wait for the kernel before
    if (first_tile < num_tiles) {
      begin_weights();
#pragma unroll
      for (int s = 0; s < kStages - 1; ++s)
        if (s < steps) copy_weights(s, s);
    }
    wait_for_producers();
    if (first_tile < num_tiles) begin_tokens();
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (first_tile < num_tiles && s < steps)
        copy_tokens(s, s), ++issue_step;
      else if (s >= steps)
        issue(s);  // short K: the ring runs into the next tile
      if (s < steps) commit();
      if (issue_step == steps) issue_step = 0, issue_tile += tile_step;
    }
  }
  let_dependents_start();

  int stage = 0;
  for (int tile = first_tile; tile < num_tiles; tile += tile_step) {
    const Place p = find(tile);
    const int row0 = weight_row(p.row_tile, warp * 16), row1 = weight_row(p.row_tile, warp * 16 + 8);
    const float* scale0 = p.scale + size_t(row0 / 128) * blocks + part;
    const float* scale1 = p.scale + size_t(row1 / 128) * blocks + part;
    float sum[kTokenTiles * 4];
#pragma unroll
    for (float& s : sum) s = 0;
    for (int step = 0; step < steps; ++step) {
      const float sw0 = scale0[step * kParts], sw1 = scale1[step * kParts];
      asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
      fence_async_proxy();
      named_sync(group + 1, 128);
      float dot[kTokenTiles * 4];
      const uint32_t weights = ring + uint32_t(stage) * Shape::kStageBytes, tokens = weights + Shape::kWeightBytes;
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < 4; ++k) wgmma_fp8(dot, tile_descriptor(weights + k * 32, 16), tile_descriptor(tokens + k * 32, 16), k > 0);
      wgmma_commit();
      issue(stage == 0 ? kStages - 1 : stage - 1);  // the stage that all had finished with at the barrier
      wgmma_finish();
      const float* sx = my_scales + stage * kColumns + t * 2;
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const float2 s = *reinterpret_cast<const float2*>(sx + n * 8);
        sum[n * 4] += dot[n * 4] * (s.x * sw0), sum[n * 4 + 1] += dot[n * 4 + 1] * (s.y * sw0);
        sum[n * 4 + 2] += dot[n * 4 + 2] * (s.x * sw1), sum[n * 4 + 3] += dot[n * 4 + 3] * (s.y * sw1);
      }
      if (++stage == kStages) stage = 0;
    }

#pragma unroll
    for (int c = 0; c < kColumns; c += kChunk) {
      if (c > 0 && c >= p.count) break;
      float* slot = partial + group * kChunk * kStride + warp * 16 + g;
#pragma unroll
      for (int n = 0; n < kChunk / 8; ++n) {
        float* column = slot + (n * 8 + t * 2) * kStride;
        const float* s = sum + (c / 8 + n) * 4;
        column[0] = s[0], column[kStride] = s[1], column[8] = s[2], column[kStride + 8] = s[3];
      }
      __syncthreads();
      const int here = min(kChunk, p.count - c);
      auto groups_sum = [&](int column, int r) {
        float2 v{0, 0};
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
          const float2 q = *reinterpret_cast<const float2*>(partial + (i * kChunk + column) * kStride + r);
          v.x += q.x, v.y += q.y;
        }
        return v;
      };
      if constexpr (kCluster > 1) {
        for (int i = threadIdx.x; i < here * 32; i += Shape::kThreads)
          *reinterpret_cast<float2*>(total + i / 32 * kStride + i % 32 * 2) = groups_sum(i / 32, i % 32 * 2);
        cooperative_groups::this_cluster().sync();
      }
      auto whole = [&](int column, int r) {
        if constexpr (kCluster == 1) return groups_sum(column, r);
        float2 v{0, 0};
#pragma unroll
        for (int i = 0; i < kCluster; ++i) {
          const float2 q =
              *reinterpret_cast<const float2*>(cooperative_groups::this_cluster().map_shared_rank(total, i) + column * kStride + r);
          v.x += q.x, v.y += q.y;
        }
        return v;
      };
      constexpr int kPairs = kGated ? 16 : 32;
      for (int i = threadIdx.x + rank * Shape::kThreads; i < here * kPairs; i += Shape::kThreads * kCluster) {
        const int column = i / kPairs, pair = i % kPairs * 2;
        float2 y;
        if constexpr (kGated) {
          const int r = pair / 8 * 16 + pair % 8;
          const float2 gate = whole(column, r), up = whole(column, r + 8);
          y.x = gate.x / (1.0f + __expf(-gate.x)) * up.x;
          y.y = gate.y / (1.0f + __expf(-gate.y)) * up.y;
        } else {
          y = whole(column, pair);
        }
        const size_t width = kGated ? a.n / 2 : a.n;
        *reinterpret_cast<uint32_t*>(a.out + (p.first + c + column) * width + p.row_tile * (kPairs * 2) + pair) = pack_bf16(y.x, y.y);
      }
      if constexpr (kCluster > 1)
        cooperative_groups::this_cluster().sync();
      else
        __syncthreads();
    }
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
}

}  // namespace dsinfer::hopper
