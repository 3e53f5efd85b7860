/// What the plain attention kernels share: the online softmax of a query, and where the cache's rows lie.
#pragma once
#include <type_traits>

#include "backend/cuda/decode.cuh"
#include "backend/cuda/warp.cuh"

namespace dsinfer::cuda {

inline constexpr int kAttendWarps = 8;  // queries (head or row) that share a tile of keys
inline constexpr int kTile = 16;        // keys in shared memory at a time; part of the result's bits, so never a matter of load

/// Online softmax of one query, by a warp. Lane l holds dimensions l, l+32, … of the query and of the sum.
template <int KL, int VL> struct Query {
  float q[KL], sum[VL], top = -INFINITY, total = 0;

  /// n keys of a tile in shared memory, rows of `width`; values at `value_at`.
  __device__ void take(const float* tile, int width, int n, int key_dim, int value_at, int value_dim, float scale, int lane) {
    float mine = -INFINITY;  // the score of key `lane`
#pragma unroll 4
    for (int s = 0; s < n; ++s) {
      const float* row = tile + s * width;
      float dot = 0;
#pragma unroll
      for (int i = 0; i < KL; ++i) if (lane + 32 * i < key_dim) dot = fmaf(q[i], row[lane + 32 * i], dot);
      dot = warp_sum(dot) * scale;
      if (lane == s) mine = dot;
    }
    // max drops NaN; the weights below do not.
    const float now = fmaxf(top, warp_max(mine));
    const float weight = lane < n ? (now == -INFINITY && !isnan(mine) ? 0.0f : expf(mine - now)) : 0.0f;
    const float correction = now == -INFINITY ? 1.0f : expf(top - now);
    total = total * correction + warp_sum(weight);
    top = now;
#pragma unroll
    for (int i = 0; i < VL; ++i) sum[i] *= correction;
#pragma unroll 4
    for (int s = 0; s < n; ++s) {
      const float w = __shfl_sync(kAll, weight, s);
      const float* row = tile + s * width + value_at;
#pragma unroll
      for (int i = 0; i < VL; ++i) if (lane + 32 * i < value_dim) sum[i] = fmaf(w, row[lane + 32 * i], sum[i]);
    }
  }
  __device__ bool any() const { return total > 0 || isnan(total); }
  __device__ void store(float* out, int value_dim, int lane) const {
    const float factor = any() ? 1.0f / total : 0.0f;
#pragma unroll
    for (int i = 0; i < VL; ++i) if (lane + 32 * i < value_dim) out[lane + 32 * i] = sum[i] * factor;
  }
};

/// Where a position's row lies, in elements; -1 where its page is none of the cache.
__device__ inline int64_t cached_row(const Pages& pages, const int32_t* table, int64_t max_pages, int64_t position, int32_t* page) {
  const int64_t slot = position / pages.page_size;
  *page = position < 0 || slot >= max_pages ? -1 : table[slot];
  if (*page < 0 || *page >= pages.pages) return -1;
  return *page * pages.page_stride + position % pages.page_size * pages.width;
}

__device__ inline float cached(const Pages& pages, int64_t at) {
  return pages.bf16 ? bf16_float(reinterpret_cast<const uint16_t*>(pages.data)[at]) : reinterpret_cast<const float*>(pages.data)[at];
}

/// Tiles beyond the 48 KiB that every kernel may have must be asked for.
template <class Kernel> void allow_shared(Kernel kernel, size_t bytes) {
  if (bytes > size_t{48} << 10) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "shared memory of attention");
}

/// The smaller kernel that fits: of V3's expanded heads, or of its absorbed ones.
template <class Launch> void by_width(int64_t key_dim, int64_t value_dim, const Launch& launch) {
  if (key_dim <= 192 && value_dim <= 128) launch(std::integral_constant<int, 6>(), std::integral_constant<int, 4>());
  else launch(std::integral_constant<int, kMaxKeyDim / 32>(), std::integral_constant<int, kMaxValueDim / 32>());
}

}  // namespace dsinfer::cuda
