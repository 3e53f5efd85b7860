/// A block of the attention kernel from its roles to its sums.
#pragma once
#include "mla_pages.cuh"

namespace dsinfer::hopper {

constexpr int kMaxMlaCluster = 8;  // the portable limit

/// Where the sums of `groups` clusters of one token go, in `partial`: first log2 Σ 2^score of each row, then the rows.
__device__ inline float* group_lse(const MlaDecode& a, int groups, int token, int group) {
  return a.partial + (size_t(token) * groups + group) * a.heads;
}
__device__ inline float* group_rows(const MlaDecode& a, int groups, int token, int group) {
  return a.partial + size_t(a.tokens) * groups * a.heads + (size_t(token) * groups + group) * a.heads * MlaShape::kLatent;
}

/// The output of a block that shares its token with no other: straight from registers.
template <int kHalfIndex, bool kBf16Cache>
__device__ void store_alone(const MlaDecode& a, const MlaHalf<kHalfIndex, kBf16Cache>& half, int token, int head0) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int head = head0 + half.row + r * 8;
    const float inverse = 1.0f / half.sum[r];
    bf16* u = a.u + (size_t(token) * a.heads + head) * MlaShape::kLatent + kHalfIndex * 256 + half.t * 8;
#pragma unroll
    for (int j = 0; j < 32; j += 4) {
      uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = pack_bf16(half.out[(j + i) * 4 + r * 2] * inverse, half.out[(j + i) * 4 + r * 2 + 1] * inverse);
      transpose_quad(v, half.t);
      if (head < a.heads) *reinterpret_cast<uint4*>(u + j * 8) = uint4{v[0], v[1], v[2], v[3]};
    }
  }
}

/// Sums and maxima of a block to its shared memory, for its cluster.
template <int kHalfIndex, bool kBf16Cache>
__device__ void store_for_cluster(const MlaHalf<kHalfIndex, kBf16Cache>& half, const MlaPart& part) {
  float* rows = reinterpret_cast<float*>(part.generic + MlaShape::kPages) + kHalfIndex * 256 + half.t * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = half.row + r * 8;
#pragma unroll
    for (int j = 0; j < 32; ++j)
      *reinterpret_cast<float2*>(rows + row * MlaShape::kSumStride + j * 8) =
          make_float2(half.out[j * 4 + r * 2], half.out[j * 4 + r * 2 + 1]);
    if (half.t == 0 && kHalfIndex == 0) part.stats(2)[row] = half.top[r] * half.scale, part.stats(3)[row] = half.sum[r];
  }
}

/// Every block of the cluster sums its share of the columns over all blocks, in their order. 256 threads.
__device__ inline void add_cluster(const MlaDecode& a, const MlaPart& part, int token, int head0, int group, int groups) {
  auto cluster = cooperative_groups::this_cluster();
  const int blocks = int(cluster.num_blocks()), rank = int(cluster.block_rank()), thread = threadIdx.x;
  const int rows = min(MlaShape::kHeads, a.heads - head0);
  float* weight = reinterpret_cast<float*>(part.generic);  // [block][row], in place of q
  if (thread < rows) {
    float top[kMaxMlaCluster], sum[kMaxMlaCluster], peak = -INFINITY, total = 0;
#pragma unroll
    for (int b = 0; b < kMaxMlaCluster; ++b)
      if (b < blocks)
        top[b] = cluster.map_shared_rank(part.stats(2), b)[thread], sum[b] = cluster.map_shared_rank(part.stats(3), b)[thread];
#pragma unroll
    for (int b = 0; b < kMaxMlaCluster; ++b)
      if (b < blocks) peak = fmaxf(peak, top[b]);
#pragma unroll
    for (int b = 0; b < kMaxMlaCluster; ++b)
      if (b < blocks) top[b] = sum[b] > 0 ? exp2f(top[b] - peak) : 0, total += top[b] * sum[b];
    const float inverse = total > 0 ? 1.0f / total : 0;
#pragma unroll
    for (int b = 0; b < kMaxMlaCluster; ++b)
      if (b < blocks) weight[b * MlaShape::kHeads + thread] = top[b] * inverse;
    if (groups > 1 && rank == 0) group_lse(a, groups, token, group)[head0 + thread] = total > 0 ? peak + log2f(total) : -INFINITY;
  }
  named_sync(kBothHalves, 256);
  const int begin = rank * (MlaShape::kLatent / 4) / blocks,
            each = (rank + 1) * (MlaShape::kLatent / 4) / blocks - begin;  // of four columns
  const float* rows_here = reinterpret_cast<const float*>(part.generic + MlaShape::kPages);
  for (int i = thread; i < rows * each; i += 256) {
    const int row = i / each, column = (begin + i % each) * 4;
    float4 v[kMaxMlaCluster];
#pragma unroll
    for (int b = 0; b < kMaxMlaCluster; ++b)
      if (b < blocks) v[b] = *reinterpret_cast<const float4*>(cluster.map_shared_rank(rows_here, b) + row * MlaShape::kSumStride + column);
    float4 sum{};
#pragma unroll
    for (int b = 0; b < kMaxMlaCluster; ++b) {
      if (b >= blocks) continue;
      const float w = weight[b * MlaShape::kHeads + row];
      if (w != 0) sum.x += w * v[b].x, sum.y += w * v[b].y, sum.z += w * v[b].z, sum.w += w * v[b].w;  // w 0: nothing was written there
    }
    const size_t place = size_t(head0 + row) * MlaShape::kLatent + column;
    if (groups > 1)
      *reinterpret_cast<float4*>(group_rows(a, groups, token, group) + place) = sum;
    else
      *reinterpret_cast<uint2*>(a.u + size_t(token) * a.heads * MlaShape::kLatent + place) =
          uint2{pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w)};
  }
}

template <int kHalfIndex, bool kBf16Cache>
__device__ void attend_half(const MlaDecode& a, const MlaPart& part, int token, int head0, bool alone) {
  MlaHalf<kHalfIndex, kBf16Cache> half(part, a.scale);
  half.run();
  if (alone)
    store_alone(a, half, token, head0);
  else
    store_for_cluster(half, part);
}

// A block: 64 heads of one token, one part of its pages; three warpgroups: two halves of the latents, and who fills the pages.
template <bool kBf16Cache>
__global__ void __launch_bounds__(384, 1) mla_kernel(const __grid_constant__ MlaDecode a, const __grid_constant__ MlaMaps maps) {
  extern __shared__ uint8_t raw[];
  auto cluster = cooperative_groups::this_cluster();
  const int blocks = int(cluster.num_blocks()), groups = a.parts / blocks;
  const bool alone = a.parts == 1;
  const int token = blockIdx.z, head0 = blockIdx.y * MlaShape::kHeads;
  MlaPart part;
  const uint32_t start = uint32_t(__cvta_generic_to_shared(raw));
  part.base = (start + 1023) / 1024 * 1024, part.generic = raw + (part.base - start);
  part.position = a.positions[token], part.table = a.block_table + size_t(token) * a.max_pages;
  const int all = part.position < 0 ? 0 : part.position / MlaShape::kPage + 1, each = (all + a.parts - 1) / a.parts;
  part.first = blockIdx.x * each, part.pages = max(0, min(each, all - part.first));

  if (threadIdx.x == 0) {
    for (int page = 0; page < 2; ++page) {
      for (int c = 0; c < MlaShape::kColumns; ++c) barrier_init(part.full(page, c), kBf16Cache ? 1 : 4);
      for (int half = 0; half < 2; ++half) barrier_init(part.empty(page, half), 4);
    }
    barrier_init(part.q_full(), 1);
    publish_barriers();
  }
  __syncthreads();
  const int group = threadIdx.x / 128;
  if (group == 2) {
    give_registers<kBf16Cache ? 24 : 72>();
    if (part.pages > 0) {
      const int q_row = token * a.heads + head0;
      if constexpr (!kBf16Cache)
        MlaWidener{part, static_cast<const uint8_t*>(a.cache)}.run(maps, q_row);
      else if (threadIdx.x == 256)
        load_pages(maps, part, q_row);
    } else {
      wait_for_producers();
      let_dependents_start();
    }
    if (!alone) cluster.sync(), cluster.sync();
    return;
  }
  take_registers<kBf16Cache ? 240 : 216>();
  if (part.pages > 0) {
    if (group == 0)
      attend_half<0, kBf16Cache>(a, part, token, head0, alone);
    else
      attend_half<1, kBf16Cache>(a, part, token, head0, alone);
  } else if (alone) {  // a padding row
    for (int i = threadIdx.x; i < min(MlaShape::kHeads, a.heads - head0) * MlaShape::kLatent / 8; i += 256)
      reinterpret_cast<uint4*>(a.u + (size_t(token) * a.heads + head0) * MlaShape::kLatent)[i] = uint4{};
  } else if (threadIdx.x < MlaShape::kHeads) {
    part.stats(2)[threadIdx.x] = -INFINITY, part.stats(3)[threadIdx.x] = 0;
  }
  if (alone) return;
  cluster.sync();
  add_cluster(a, part, token, head0, blockIdx.x / blocks, groups);
  cluster.sync();  // nobody leaves while others read
}

/// Starts the kernel on clusters of `cluster` blocks; the one for each kind of cache stands in its own file.
template <bool kBf16Cache>
cudaError_t start_mla(const MlaDecode& a, const MlaMaps& maps, int cluster, cudaStream_t stream) {
  const dim3 grid(unsigned(a.parts), unsigned((a.heads + MlaShape::kHeads - 1) / MlaShape::kHeads), unsigned(a.tokens));
  const auto go = [&](auto launch) { return launch(mla_kernel<kBf16Cache>, grid, 384, MlaShape::kShared, stream, true, a, maps); };
  switch (cluster) {
    case 8: return go([](auto... x) { return start<8>(x...); });
    case 7: return go([](auto... x) { return start<7>(x...); });
    case 6: return go([](auto... x) { return start<6>(x...); });
    case 5: return go([](auto... x) { return start<5>(x...); });
    case 4: return go([](auto... x) { return start<4>(x...); });
    case 3: return go([](auto... x) { return start<3>(x...); });
    case 2: return go([](auto... x) { return start<2>(x...); });
    default: return go([](auto... x) { return start<1>(x...); });
  }
}
cudaError_t start_mla_fp8(const MlaDecode& a, const MlaMaps& maps, int cluster, cudaStream_t stream);

}  // namespace dsinfer::hopper
