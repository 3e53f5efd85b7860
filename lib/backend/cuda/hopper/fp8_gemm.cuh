/// The kernel behind the FP8 linears of a prefill chunk: tokens are the 64-row operand of the warpgroup matrix units, weights the other.
#pragma once
#include "fp8_gemm_fill.cuh"
#include "fp8_gemm_store.cuh"
#include "wgmma.cuh"

namespace dsinfer::hopper {

template <class Shape>
__device__ inline void start_together() {
  if constexpr (Shape::kCluster > 1)
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
  else
    __syncthreads();
}
/// At the same barrier of block `rank` of the cluster.
__device__ inline void barrier_arrive_at(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

/// y[m,n] = Σ_b sx[m,b] · sw[n/128,b] · Σ_{k in block b} x[m,k] · w[n,k], b over blocks of 128, in their order.
/// A block, as long as there are tiles: up to kRows tokens and 128 rows of weights (gated: 64 of the gate and the same 64 of up). The last
/// warpgroup's first thread fills a ring of K blocks. The others take the tile's groups of 64 tokens in turns, each block of 128 summed by
/// the matrix unit (E4M3, its own accumulator), then scaled into f32: one scales while another multiplies. A row's bits depend on its own
/// values alone.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) fp8_gemm_kernel(const __grid_constant__ GemmArgs a) {
  constexpr int kStages = Shape::kStages, kColumns = Shape::kColumns, kConsumers = Shape::kConsumers, kCluster = Shape::kCluster;
  constexpr bool kGated = Shape::kGated;
  extern __shared__ uint8_t raw[];
  const uint32_t ring = (uint32_t(__cvta_generic_to_shared(raw)) + 1023) / 1024 * 1024, buffers = ring + kStages * Shape::kStageBytes,
                 full = buffers + Shape::kOutBytes, empty = full + kStages * 8;
  const int warp_of_block = __shfl_sync(~0u, int(threadIdx.x / 32), 0);  // uniform: descriptors stay in uniform registers
  const int group = warp_of_block / 4, warp = warp_of_block % 4, thread = threadIdx.x % 128, lane = thread % 32, g = lane / 4, t = lane % 4;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + s * 8, 1);
      barrier_init(empty + s * 8, 4 * kConsumers * kCluster);  // a lane of each consuming warp
    }
    publish_barriers();
  }
  start_together<Shape>();
  wait_for_producers();
  let_dependents_start();

  const int blocks = a.k / 128, width = kGated ? a.n / 2 : a.n;
  const TileOrder<Shape> order(a, width, blockIdx.x % kCluster);
  const int first_tile = blockIdx.x / kCluster, step = gridDim.x / kCluster;
  if (group == kConsumers) {
    give_registers<Shape::kFillerRegisters>();
    if (thread == 0) fill_ring(a, order, width, first_tile, step, ring, full, empty);
  } else {
    take_registers<Shape::kConsumerRegisters>();
    RingPlace<kStages> place;
    const uint32_t tokens0 = (ring + group * 64 * 128) >> 4, weights0 = (ring + Shape::kTokenBytes) >> 4;
    auto release = [&] {
      if constexpr (kCluster > 1) {
        if (lane < kCluster) barrier_arrive_at(empty + place.stage * 8, uint32_t(lane));
      } else if (lane == 0) {
        barrier_arrive(empty + place.stage * 8);
      }
      place.next();
    };
    // All blocks of K for kMine groups of 64 rows. The scales of four blocks lie in the four lanes that share rows, those of the next four
    // are on their way.
    auto multiply = [&]<int kMine>(auto& sum, const auto& sx, const float* sw, int up_scale) {
      constexpr int kHalves = kGated ? 2 : 1;  // gate, up
      float x_next[kMine * 2], w_next[kHalves], scale[kMine * 2][kHalves];
      auto load_scales = [&](int b) {
        if (b + t >= blocks) return;
#pragma unroll
        for (int i = 0; i < kMine * 2; ++i) x_next[i] = a.x_scale[sx[i] + uint32_t(b + t)];
        w_next[0] = sw[b + t];
        if constexpr (kGated) w_next[1] = sw[up_scale * blocks + b + t];
      };
      load_scales(0);
      for (int b = 0; b < blocks; ++b) {
        if (b % 4 == 0) {
#pragma unroll
          for (int i = 0; i < kMine * 2; ++i)
#pragma unroll
            for (int h = 0; h < kHalves; ++h) scale[i][h] = x_next[i] * w_next[h];
          load_scales(b + 4);
        }
        const uint32_t offset = uint32_t(place.stage * (Shape::kStageBytes / 16)), x_tile = tokens0 + offset, w_tile = weights0 + offset;
        barrier_wait(full + place.stage * 8, place.parity);
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
          float dot[64];
          wgmma_begin();
#pragma unroll
          for (int k = 0; k < 4; ++k)  // i: the group kConsumers further on
            wgmma_fp8(dot, tile_descriptor(x_tile + i * kConsumers * 512 + k * 2), tile_descriptor(w_tile + k * 2), k > 0);
          wgmma_commit();
          float r[2][2];  // row half, then gate or up
#pragma unroll
          for (int h = 0; h < 4; ++h)
            r[h / 2][h % 2] = h % 2 < kHalves ? __shfl_sync(~0u, scale[i * 2 + h / 2][h % kHalves], b % 4, 4) : r[h / 2][0];
          wgmma_finish();
          if (i + 1 == kMine) release();
#pragma unroll
          for (int j = 0; j < 16; ++j) {
            const float low = r[0][j / 8], high = r[1][j / 8];
            sum[i][j * 4] += dot[j * 4] * low, sum[i][j * 4 + 1] += dot[j * 4 + 1] * low;
            sum[i][j * 4 + 2] += dot[j * 4 + 2] * high, sum[i][j * 4 + 3] += dot[j * 4 + 3] * high;
          }
        }
      }
    };
    for (int tile = first_tile; tile < order.num_tiles; tile += step) {
      const auto p = order(a, tile);
      const int mine = (p.count - group * 64 + kConsumers * 64 - 1) / (kConsumers * 64);  // groups: group, group + kConsumers
      uint32_t sx[Shape::kGroups * 2];                                                    // rows g, g + 8 of each: their scales
#pragma unroll
      for (int i = 0; i < Shape::kGroups * 2; ++i) {
        const int row = p.first + min((group + i / 2 * kConsumers) * 64 + warp * 16 + g + i % 2 * 8, p.count - 1);
        sx[i] = uint32_t(row) * uint32_t(blocks);
      }
      const int last_scale = (a.n + 127) / 128 - 1;  // of a column tile that only fills up its cluster, too
      const int scale_row = min(p.column * kColumns / 128, last_scale);
      const int up_scale = min((p.column * kColumns + width) / 128, last_scale) - scale_row;
      const float* sw =
          (Shape::kGrouped && p.expert == a.experts ? a.shared_scale : a.w_scale + size_t(p.expert) * (last_scale + 1) * blocks) +
          size_t(scale_row) * blocks;
      float sum[Shape::kGroups][64];
#pragma unroll
      for (int i = 0; i < Shape::kGroups; ++i)
#pragma unroll
        for (float& s : sum[i]) s = 0;
      if (mine == Shape::kGroups)
        multiply.template operator()<Shape::kGroups>(sum, sx, sw, up_scale);
      else if (Shape::kGroups == 2 && mine == 1)
        multiply.template operator()<1>(sum, sx, sw, up_scale);
      else
        for (int b = 0; b < blocks; ++b) {
          barrier_wait(full + place.stage * 8, place.parity);
          __syncwarp();  // no matrix step holds the lanes together here: one left behind a whole ring would wait for a phase long over
          release();
        }
      const uint32_t buffer = buffers + (group * 4 + warp) * Shape::kOutBoxes * Shape::kOutBoxBytes;
#pragma unroll
      for (int i = 0; i < Shape::kGroups; ++i) {
        const int row = (group + i * kConsumers) * 64 + warp * 16;
        store_rows<Shape>(a, sum[i], p.first + row, p.count - row, p.column * kColumns, width, lane, buffer);
      }
    }
    if (lane == 0) finish_stores();
  }
  // A block of a cluster stays until the other has sent it its last tokens and arrivals.
  if constexpr (kCluster > 1) asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

}  // namespace dsinfer::hopper
