/// Attention of a decode step: parts of a sequence's pages, and their sum.
#include <algorithm>

#include "mla_block.cuh"

namespace dsinfer::hopper {
namespace {

using S = MlaShape;

/// Blocks that the device holds at once in clusters of 1 … 8: a cluster stays within one of its groups of multiprocessors, whose sizes
/// differ.
struct Resident {
  int blocks[kMaxMlaCluster + 1];
  Resident() {
    for (int size = 1; size <= kMaxMlaCluster; ++size) {
      cudaLaunchAttribute attribute{};
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = unsigned(size), attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(unsigned(size)), config.blockDim = dim3(384), config.dynamicSmemBytes = S::kShared;
      config.attrs = &attribute, config.numAttrs = 1;
      int clusters = 0;
      if (cudaFuncSetAttribute(reinterpret_cast<const void*>(mla_kernel<true>), cudaFuncAttributeMaxDynamicSharedMemorySize, S::kShared) !=
              cudaSuccess ||
          cudaOccupancyMaxActiveClusters(&clusters, mla_kernel<true>, &config) != cudaSuccess)
        clusters = 1;
      blocks[size] = clusters * size;
    }
  }
};

/// How `parts` parts of each of `units` (tokens times blocks of heads) run: clusters of `size` blocks, which are parts of the same sequence
/// and leave one sum of theirs; the largest that costs no further wave.
struct Clusters {
  int size = 1;
  int64_t waves = 0;
};
Clusters clusters_of(int64_t units, int parts) {
  static const Resident resident;  // of the first device that asked: those of a machine are alike
  Clusters best;
  for (int size = 1; size <= kMaxMlaCluster; ++size) {
    if (parts % size != 0) continue;
    const int64_t held = resident.blocks[size] > 0 ? resident.blocks[size] : 1, waves = (units * parts + held - 1) / held;
    if (size == 1 || waves <= best.waves) best = {size, waves};
  }
  return best;
}
int64_t units_of(int64_t tokens, int heads) { return tokens * ((heads + S::kHeads - 1) / S::kHeads); }

// u = Σ_p 2^(lse_p − max) u_p / Σ_p 2^(lse_p − max), clusters in their order.  A warp: 128 of the 512 latents of one head of one token.
__global__ void __launch_bounds__(256) merge_kernel(const __grid_constant__ MlaDecode a, int groups) {
  wait_for_producers();
  let_dependents_start();
  const int warp = (blockIdx.x * 256 + threadIdx.x) / 32, lane = threadIdx.x % 32;
  const int row = warp / 4, column = warp % 4 * 128 + lane * 4;
  if (row >= a.tokens * a.heads) return;
  const int token = row / a.heads, head = row % a.heads;
  const float* lse = group_lse(a, groups, token, 0) + head;
  const float l0 = lane < groups ? lse[size_t(lane) * a.heads] : -INFINITY,
              l1 = lane + 32 < groups ? lse[size_t(lane + 32) * a.heads] : -INFINITY;
  float top = fmaxf(l0, l1);
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
  const float w0 = top > -INFINITY ? exp2f(l0 - top) : 0, w1 = top > -INFINITY ? exp2f(l1 - top) : 0, total = warp_sum(w0 + w1),
              inverse = total > 0 ? 1.0f / total : 0;
  const float* u = group_rows(a, groups, token, 0) + size_t(head) * S::kLatent + column;
  float sum[4] = {};
  constexpr int kAhead = 8;  // loads in flight
  for (int p = 0; p < groups; p += kAhead) {
    float4 x[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (p + i < groups) x[i] = *reinterpret_cast<const float4*>(u + size_t(p + i) * a.heads * S::kLatent);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const float w = __shfl_sync(~0u, p + i < 32 ? w0 : w1, (p + i) % 32);
      if (p + i < groups) sum[0] += w * x[i].x, sum[1] += w * x[i].y, sum[2] += w * x[i].z, sum[3] += w * x[i].w;
    }
  }
  *reinterpret_cast<uint2*>(a.u + size_t(row) * S::kLatent + column) =
      uint2{pack_bf16(sum[0] * inverse, sum[1] * inverse), pack_bf16(sum[2] * inverse, sum[3] * inverse)};
}

}  // namespace

int mla_parts(int tokens, int heads, int64_t max_positions) {
  const int64_t pages = (max_positions + S::kPage - 1) / S::kPage, head_blocks = units_of(1, heads), units = tokens * head_blocks,
                processors = multiprocessors();
  int best = 1;
  int64_t best_cost = INT64_MAX;
  for (int parts = 1; parts <= kMaxMlaParts && parts <= pages; ++parts) {
    // Tenths of a microsecond, fitted to an H100: a block's start and end; its pages, by their products or by what memory gives so many
    // sequences' parts at once; the sum over the cluster; and over clusters: a launch, megabytes written and read.
    const Clusters clusters = clusters_of(units, parts);
    const int64_t groups = parts / clusters.size, at_once = std::min<int64_t>(units * parts, processors) / head_blocks,
                  page = std::max<int64_t>(19, at_once * 24 / 100),
                  merge = (clusters.size > 1 ? 15 : 0) + (groups > 1 ? 60 + groups + int64_t(tokens) * heads * groups / 100 : 0),
                  cost = clusters.waves * (75 + page * ((pages + parts - 1) / parts)) + merge;
    if (cost < best_cost) best_cost = cost, best = parts;
  }
  return best;
}

int64_t mla_workspace(int tokens, int heads, int parts) {
  const int groups = parts / clusters_of(units_of(tokens, heads), parts).size;
  return groups == 1 ? 0 : int64_t(tokens) * heads * groups * (S::kLatent + 1) * int64_t(sizeof(float));
}

cudaError_t mla_decode(const MlaDecode& a, cudaStream_t stream) {
  if (a.tokens == 0) return cudaSuccess;
  if (a.parts < 1 || a.parts > kMaxMlaParts || a.heads % 4 != 0 || a.tokens > 65535) return cudaErrorInvalidValue;
  MlaMaps maps{};
  cudaError_t status = encode(maps.q, {a.q, int64_t(a.tokens) * a.heads, S::kRow, S::kRow * 2, 2, S::kHeads});
  // As many rows as coordinates reach: the table says which are there.
  if (status == cudaSuccess && a.format == KvFormat::kBf16)
    status = encode(maps.cache, {a.cache, INT32_MAX, S::kRow, S::kRow * 2, 2, S::kPage});
  if (status != cudaSuccess) return status;
  const int cluster = clusters_of(units_of(a.tokens, a.heads), a.parts).size, groups = a.parts / cluster;
  status = a.format == KvFormat::kBf16 ? start_mla<true>(a, maps, cluster, stream) : start_mla_fp8(a, maps, cluster, stream);
  if (status != cudaSuccess || groups == 1) return status;
  return start(merge_kernel, dim3(unsigned((a.tokens * a.heads * 4 + 7) / 8)), 256, 0, stream, true, a, groups);
}

}  // namespace dsinfer::hopper
