/// The kernel behind the FP8 linears of a prefill chunk: tokens are the 64-row operand of the warpgroup matrix units, weights the other.
#pragma once
#include "device.cuh"
#include "run.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace dsinfer::hopper {

struct GemmArgs {
  CUtensorMap x, w, shared_w;  // boxes of kTokenBox and of 64 rows; w: [experts · N, K]
  bf16* out;                   // plain: [positions, N]; gated: [positions, N/2] = silu(gate) · up
  const uint8_t* x_rows;       // gathered: [tokens, K]
  const float* x_scale;        // [rows, K/128]
  const float* w_scale;        // [experts, ceil(N/128), K/128]
  const float* shared_scale;
  const ExpertRun* runs;  // grouped: [*num_runs], of at most kGemmRunTokens positions
  const int* num_runs;
  const int* rows;  // gathered: row of x of each position
  int tokens, n, k, experts;
  int tile_rows;  // not grouped: rows of a tile, a multiple of 64 up to kRows
};

/// A box that no other block reads: first to leave L2, so that tokens stay there.
__device__ inline void copy_box_once(uint32_t to, const CUtensorMap& map, int column, int row, uint32_t barrier) {
  constexpr uint64_t kEvictFirst = 0x12f0000000000000;  // what createpolicy.fractional.L2::evict_first gives for all of it
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(
          to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(kEvictFirst)
      : "memory");
}

template <bool kGrouped>
struct GemmShape {
  static constexpr int kThreads = 384, kRows = kGrouped ? kGemmRunTokens : 256, kTokenBox = kGrouped ? 32 : 64;
  static constexpr int kStages = kGrouped ? 6 : 4, kTokenBytes = kRows * 128, kWeightBytes = 128 * 128,
                       kStageBytes = kTokenBytes + kWeightBytes;
  static constexpr size_t kSharedBytes = 1024 + kStages * (kStageBytes + 16);
  static constexpr int kBand = 16;  // row tiles that are neighbours in the order of tiles: they share weights in L2
  static_assert(kSharedBytes <= 227 * 1024);
};

/// y[m,n] = Σ_b sx[m,b] · sw[n/128,b] · Σ_{k in block b} x[m,k] · w[n,k], b over blocks of 128, in their order.
/// A block, as long as there are tiles: up to kRows tokens and 128 rows of weights (gated: 64 of the gate and the same 64 of up). The third
/// warpgroup fills a ring of K blocks: one warp by bulk tensor copies, where tokens are gathered the other three those by cp.async. The
/// first two take the tile's groups of 64 tokens in turns, each block of 128 summed by the matrix unit (E4M3, its own accumulator), then
/// scaled into f32: one scales while the other multiplies. A row's bits depend on its own values alone.
template <bool kGrouped, bool kGated, bool kGather>
__global__ void __launch_bounds__(GemmShape<kGrouped>::kThreads, 1) fp8_gemm_kernel(const __grid_constant__ GemmArgs a) {
  using Shape = GemmShape<kGrouped>;
  constexpr int kStages = Shape::kStages, kColumns = kGated ? 64 : 128;  // columns of the output
  constexpr int kCopiers = 96,
                kCopies = kGather ? (Shape::kRows * 8 + kCopiers - 1) / kCopiers : 1;  // threads that gather, 16-byte units of each
  extern __shared__ uint8_t raw[];
  const uint32_t ring = (uint32_t(__cvta_generic_to_shared(raw)) + 1023) / 1024 * 1024, full = ring + kStages * Shape::kStageBytes,
                 empty = full + kStages * 8;
  const int group = __shfl_sync(~0u, int(threadIdx.x / 128), 0);  // uniform: descriptors stay in uniform registers
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + s * 8, kGather ? 1 + kCopiers : 1);
      barrier_init(empty + s * 8, 8);  // a lane of each consuming warp
    }
    publish_barriers();
  }
  __syncthreads();
  wait_for_producers();
  let_dependents_start();

  const int blocks = a.k / 128, width = kGated ? a.n / 2 : a.n, column_tiles = (width + kColumns - 1) / kColumns;
  const int row_tiles = kGrouped ? *a.num_runs : (a.tokens + a.tile_rows - 1) / a.tile_rows, num_tiles = row_tiles * column_tiles;
  struct Place {
    int first, count, column, expert;
  };
  auto find = [&](int tile) {
    Place p;
    if constexpr (kGrouped) {
      const ExpertRun run = a.runs[tile / column_tiles];
      p.column = tile % column_tiles, p.first = run.first, p.count = run.count, p.expert = run.expert;
    } else {
      const int band = tile / (Shape::kBand * column_tiles), in_band = tile % (Shape::kBand * column_tiles);
      const int height = min(Shape::kBand, row_tiles - band * Shape::kBand);
      p.first = (band * Shape::kBand + in_band % height) * a.tile_rows, p.count = min(a.tile_rows, a.tokens - p.first);
      p.column = in_band / height, p.expert = 0;
    }
    return p;
  };

  RingPlace<kStages> place;
  if (group == 2) {
    give_registers<kGather ? 40 : 24>();
    if (warp == 0) {
      if (lane == 0)
        for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
          const Place p = find(tile);
          const bool shared = kGrouped && p.expert == a.experts;
          const CUtensorMap& w = shared ? a.shared_w : a.w;
          const int row = (kGrouped && !shared ? p.expert * a.n : 0) + p.column * kColumns;
          const int boxes = kGather ? 0 : (p.count + Shape::kTokenBox - 1) / Shape::kTokenBox;
          for (int b = 0; b < blocks; ++b, place.next()) {
            const uint32_t to = ring + place.stage * Shape::kStageBytes, to_w = to + Shape::kTokenBytes, ready = full + place.stage * 8;
            barrier_wait(empty + place.stage * 8, place.parity ^ 1);
            barrier_expect(ready, Shape::kWeightBytes + boxes * Shape::kTokenBox * 128);
            const uint32_t to_high = to_w + Shape::kWeightBytes / 2;
            const int row_high = row + (kGated ? width : 64);
            if (kGrouped && kGated && !shared) {  // measured: 3.06 instead of 3.23 ms; without gate the hint costs 3 %
              copy_box_once(to_w, w, b * 128, row, ready), copy_box_once(to_high, w, b * 128, row_high, ready);
            } else {
              copy_box(to_w, w, b * 128, row, ready), copy_box(to_high, w, b * 128, row_high, ready);
            }
            for (int i = 0; i < boxes * Shape::kTokenBox; i += Shape::kTokenBox) copy_box(to + i * 128, a.x, b * 128, p.first + i, ready);
          }
        }
    } else if constexpr (kGather) {
      RingPlace<kStages> landed;  // two behind
      int behind = 0;
      const int copier = thread - 32;  // copies unit (copier % 8) of rows copier / 8 + 12 i
      auto publish = [&] {
        publish_to_wgmma();
        barrier_arrive(full + landed.stage * 8);
        landed.next();
      };
      for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
        const Place p = find(tile);
        uint32_t from[kCopies];
#pragma unroll
        for (int i = 0; i < kCopies; ++i)
          from[i] = uint32_t(a.rows[p.first + min(copier / 8 + kCopiers / 8 * i, p.count - 1)]) * uint32_t(a.k) + copier % 8 * 16;
        for (int b = 0; b < blocks; ++b, place.next()) {
          barrier_wait(empty + place.stage * 8, place.parity ^ 1);
          const uint32_t to = ring + place.stage * Shape::kStageBytes + copier / 8 * 128;
          const uint32_t unit = ((copier % 8) ^ (copier / 8 % 8)) * 16;
#pragma unroll
          for (int i = 0; i < kCopies; ++i)
            if (copier / 8 + kCopiers / 8 * i < p.count)
              asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + kCopiers / 8 * i * 128 + (unit ^ (i % 2 * 64))),
                           "l"(a.x_rows + (from[i] + uint32_t(b) * 128))
                           : "memory");
          asm volatile("cp.async.commit_group;\ncp.async.wait_group 2;" ::: "memory");
          if (behind < 2)
            ++behind;
          else
            publish();
        }
      }
      asm volatile("cp.async.wait_group 0;" ::: "memory");
      for (; behind > 0; --behind) publish();
    }
    return;
  }

  take_registers<kGather ? 232 : 240>();
  const uint32_t tokens0 = (ring + group * 64 * 128) >> 4, weights0 = (ring + Shape::kTokenBytes) >> 4;
  auto descriptor = [](uint32_t sixteenths) { return uint64_t(1024 >> 4 | 1u << 30) << 32 | (sixteenths | 1u << 16); };
  auto release = [&] {
    if (lane == 0) barrier_arrive(empty + place.stage * 8);
    place.next();
  };
  // All blocks of K for kGroups groups of 64 rows. The scales of four blocks lie in the four lanes that share rows.
  auto multiply = [&]<int kGroups>(float(&sum)[2][64], const uint32_t(&sx)[4], const float* sw, int up_scale) {
    constexpr int kScales = kGated ? 2 : 1;
    float x_next[kGroups * 2], w_next[kScales], x_now[kGroups * 2], w_now[kScales];
    auto load_scales = [&](int b) {
      if (b + t >= blocks) return;
#pragma unroll
      for (int i = 0; i < kGroups * 2; ++i) x_next[i] = a.x_scale[sx[i] + uint32_t(b + t)];
      w_next[0] = sw[b + t];
      if constexpr (kGated) w_next[1] = sw[up_scale * blocks + b + t];
    };
    load_scales(0);
    for (int b = 0; b < blocks; ++b) {
      if (b % 4 == 0) {
#pragma unroll
        for (int i = 0; i < kGroups * 2; ++i) x_now[i] = x_next[i];
#pragma unroll
        for (int i = 0; i < kScales; ++i) w_now[i] = w_next[i];
        load_scales(b + 4);
      }
      const uint32_t offset = uint32_t(place.stage * (Shape::kStageBytes / 16)), x_tile = tokens0 + offset, w_tile = weights0 + offset;
      barrier_wait(full + place.stage * 8, place.parity);
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
        float dot[64];
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < 4; ++k)  // i: 128 rows on
          wgmma_fp8(dot, descriptor(x_tile + i * 1024 + k * 2), descriptor(w_tile + k * 2), k > 0);
        wgmma_commit();
        const float s0 = __shfl_sync(~0u, x_now[i * 2], b % 4, 4), s1 = __shfl_sync(~0u, x_now[i * 2 + 1], b % 4, 4);
        const float w0 = __shfl_sync(~0u, w_now[0], b % 4, 4), w1 = kGated ? __shfl_sync(~0u, w_now[kScales - 1], b % 4, 4) : w0;
        const float low0 = s0 * w0, low1 = s1 * w0, high0 = s0 * w1, high1 = s1 * w1;
        wgmma_finish();
        if (i + 1 == kGroups) release();
#pragma unroll
        for (int j = 0; j < 16; ++j) {
          const float r0 = j < 8 ? low0 : high0, r1 = j < 8 ? low1 : high1;
          sum[i][j * 4] += dot[j * 4] * r0, sum[i][j * 4 + 1] += dot[j * 4 + 1] * r0;
          sum[i][j * 4 + 2] += dot[j * 4 + 2] * r1, sum[i][j * 4 + 3] += dot[j * 4 + 3] * r1;
        }
      }
    }
  };
  for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
    const Place p = find(tile);
    const int mine = (p.count - group * 64 + 127) / 128;  // groups of 64 rows: group, group + 2 (at most two)
    uint32_t sx[4];                                       // rows g, g + 8 of each: their scales
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int row = p.first + min((group + i / 2 * 2) * 64 + warp * 16 + g + i % 2 * 8, p.count - 1);
      if constexpr (kGather) row = a.rows[row];
      sx[i] = uint32_t(row) * uint32_t(blocks);
    }
    const int scale_row = p.column * kColumns / 128, up_scale = (p.column * kColumns + width) / 128 - scale_row;
    const float* sw = (kGrouped && p.expert == a.experts ? a.shared_scale : a.w_scale + size_t(p.expert) * ((a.n + 127) / 128) * blocks) +
                      size_t(scale_row) * blocks;
    float sum[2][64];
#pragma unroll
    for (float& s : sum[0]) s = 0;
#pragma unroll
    for (float& s : sum[1]) s = 0;
    if (mine == 2)
      multiply.template operator()<2>(sum, sx, sw, up_scale);
    else if (mine == 1)
      multiply.template operator()<1>(sum, sx, sw, up_scale);
    else
      for (int b = 0; b < blocks; ++b) {
        barrier_wait(full + place.stage * 8, place.parity);
        __syncwarp();  // no matrix step holds the lanes together here: one left behind a whole ring would wait for a phase long over
        release();
      }

#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = (group + i * 2) * 64 + warp * 16 + g + half * 8;
        bf16* out = a.out + size_t(p.first + row) * width + p.column * kColumns;
#pragma unroll
        for (int q = 0; q < kColumns / 32; ++q) {
          uint32_t word[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float* s = sum[i] + (q * 4 + j) * 4 + half * 2;
            if constexpr (kGated)
              word[j] = pack_bf16(__fdividef(s[0], 1.0f + __expf(-s[0])) * s[32], __fdividef(s[1], 1.0f + __expf(-s[1])) * s[33]);
            else
              word[j] = pack_bf16(s[0], s[1]);
          }
          transpose_quad(word, t);
          const int column = (q * 4 + t) * 8;
          if (row < p.count && p.column * kColumns + column < width)
            *reinterpret_cast<uint4*>(out + column) = uint4{word[0], word[1], word[2], word[3]};
        }
      }
  }
}

}  // namespace dsinfer::hopper
