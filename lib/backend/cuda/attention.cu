#include "backend/cuda/decode.cuh"
#include <type_traits>

#include "backend/cuda/warp.cuh"

namespace dsinfer::cuda {
namespace {

constexpr int kWarps = 8;  // queries (head or row) that share a tile of keys
constexpr int kTile = 16;  // keys in shared memory at a time; part of the result's bits, so never a matter of load

// Online softmax of one query, by a warp. Lane l holds dimensions l, l+32, … of the query and of the sum.
template <int KL, int VL> struct Query {
  float q[KL], sum[VL], top = -INFINITY, total = 0;

  // n keys of a tile in shared memory, rows of `width`; values at `value_at`.
  __device__ void take(const float* tile, int width, int n, int key_dim, int value_at, int value_dim, float scale, int lane) {
    float mine = -INFINITY;  // the score of key `lane`
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

// Where a position's row lies, in elements; -1 where its page is none of the cache.
__device__ int64_t cached_row(const Pages& pages, const int32_t* table, int64_t max_pages, int64_t position, int32_t* page) {
  const int64_t slot = position / pages.page_size;
  *page = position < 0 || slot >= max_pages ? -1 : table[slot];
  if (*page < 0 || *page >= pages.pages) return -1;
  return *page * pages.page_stride + position % pages.page_size * pages.width;
}

__device__ float cached(const Pages& pages, int64_t at) {
  return pages.bf16 ? bf16_float(reinterpret_cast<const uint16_t*>(pages.data)[at]) : reinterpret_cast<const float*>(pages.data)[at];
}

template <int KL, int VL>
__global__ void __launch_bounds__(kWarps * 32) mla_attend_kernel(Rows<float> out, Rows<const float> q_latent, Rows<const float> q_rope, Pages pages, const int32_t* positions,
                                                                 Rows<const int32_t> table, int64_t max_pages, int heads, int latent, float scale, FaultSink fault) {
  extern __shared__ float tile[];
  __shared__ int64_t place[kTile];
  const int lane = threadIdx.x % 32, h = blockIdx.x * kWarps + threadIdx.x / 32, width = static_cast<int>(pages.width);
  const int64_t t = blockIdx.y, length = int64_t{positions[t]} + 1;
  const bool here = h < heads;
  Query<KL, VL> query;
#pragma unroll
  for (int i = 0; i < KL; ++i) {
    const int d = lane + 32 * i;
    query.q[i] = !here || d >= width ? 0.0f : d < latent ? q_latent.data[t * q_latent.stride + h * q_latent.inner + d] : q_rope.data[t * q_rope.stride + h * q_rope.inner + d - latent];
  }
#pragma unroll
  for (int i = 0; i < VL; ++i) query.sum[i] = 0;
  for (int64_t start = 0; start < length; start += kTile) {
    const int n = static_cast<int>(length - start < kTile ? length - start : kTile);
    __syncthreads();
    if (threadIdx.x < n) {
      int32_t page;
      place[threadIdx.x] = cached_row(pages, table.data + t * table.stride, max_pages, start + threadIdx.x, &page);
      if (place[threadIdx.x] < 0) report(fault, FaultRecord::attend_page, page, pages.pages);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n * width; i += kWarps * 32) tile[i] = place[i / width] < 0 ? 0.0f : cached(pages, place[i / width] + i % width);
    __syncthreads();
    if (here) query.take(tile, width, n, width, 0, latent, scale, lane);
  }
  if (here) query.store(out.data + t * out.stride + h * out.inner, latent, lane);
}

// kv rows hold a head's key part, then its value; the rope part of the key is shared by all heads.
template <int KL, int VL>
__global__ void __launch_bounds__(kWarps * 32) attend_expanded_kernel(Rows<float> out, Rows<float> lse, Rows<const float> q, Rows<const float> kv, Rows<const float> key_rope, int queries,
                                                                      int keys, int nope, int rope, int value, int64_t q_first, int64_t k_first, float scale) {
  extern __shared__ float tile[];  // [kTile, nope + rope + value]
  const int lane = threadIdx.x % 32, h = blockIdx.y, width = nope + rope + value;
  const int64_t t0 = int64_t{blockIdx.x} * kWarps, t = t0 + threadIdx.x / 32;
  const auto visible = [&](int64_t row) { return min(max(q_first + row - k_first + 1, int64_t{0}), int64_t{keys}); };
  const int64_t last = visible(min(t0 + kWarps, int64_t{queries}) - 1), mine = t < queries ? visible(t) : 0;
  Query<KL, VL> query;
#pragma unroll
  for (int i = 0; i < KL; ++i) query.q[i] = t < queries && lane + 32 * i < nope + rope ? q.data[t * q.stride + h * q.inner + lane + 32 * i] : 0.0f;
#pragma unroll
  for (int i = 0; i < VL; ++i) query.sum[i] = 0;
  for (int64_t start = 0; start < last; start += kTile) {
    const int n = static_cast<int>(min(last - start, int64_t{kTile}));
    __syncthreads();
    for (int i = threadIdx.x; i < n * width; i += kWarps * 32) {
      const int d = i % width;
      const int64_t s = start + i / width;
      const float* row = kv.data + s * kv.stride + h * kv.inner;
      tile[i] = d < nope ? row[d] : d < nope + rope ? key_rope.data[s * key_rope.stride + d - nope] : row[d - rope];
    }
    __syncthreads();
    const int seen = static_cast<int>(min(max(mine - start, int64_t{0}), int64_t{n}));  // what lies behind may be anything
    if (seen > 0) query.take(tile, width, seen, nope + rope, nope + rope, value, scale, lane);
  }
  if (t >= queries) return;
  query.store(out.data + t * out.stride + h * out.inner, value, lane);
  if (lane == 0) lse.data[t * lse.stride + h] = query.any() ? query.top + logf(query.total) : -INFINITY;
}

__global__ void merge_kernel(Rows<float> out, Rows<float> lse, Rows<const float> part, Rows<const float> part_lse, int heads, int width) {
  const int64_t t = blockIdx.x;
  const int lane = threadIdx.x % 32, h = blockIdx.y * kWarps + threadIdx.x / 32;
  if (h >= heads) return;
  float *a = out.data + t * out.stride + h * out.inner, *la = lse.data + t * lse.stride + h;
  const float *b = part.data + t * part.stride + h * part.inner, lb = part_lse.data[t * part_lse.stride + h], mine = *la;
  if (lb == -INFINITY) return;  // no key on that side: what it holds is not looked at
  __syncwarp();
  if (mine == -INFINITY) {
    for (int d = lane; d < width; d += 32) a[d] = b[d];
    if (lane == 0) *la = lb;
    return;
  }
  const float top = fmaxf(mine, lb), wa = expf(mine - top), wb = expf(lb - top), sum = wa + wb;
  for (int d = lane; d < width; d += 32) a[d] = fmaf(wb / sum, b[d], wa / sum * a[d]);
  if (lane == 0) *la = top + logf(sum);
}

__global__ void mla_append_kernel(Pages pages, Rows<const float> latent, Rows<const float> rope, int latent_dim, const int32_t* positions, Rows<const int32_t> table, int64_t max_pages,
                                  FaultSink fault) {
  const int64_t t = blockIdx.x;
  int32_t page;
  if (positions[t] == kPadding) return;
  const int64_t place = cached_row(pages, table.data + t * table.stride, max_pages, positions[t], &page);
  if (place < 0) {
    if (threadIdx.x == 0) report(fault, FaultRecord::append_page, page, pages.pages);
    return;
  }
  for (int d = threadIdx.x; d < pages.width; d += blockDim.x) {
    const float v = d < latent_dim ? latent.data[t * latent.stride + d] : rope.data[t * rope.stride + d - latent_dim];
    if (pages.bf16) reinterpret_cast<__nv_bfloat16*>(pages.data)[place + d] = __float2bfloat16_rn(v);
    else reinterpret_cast<float*>(pages.data)[place + d] = v;
  }
}

__global__ void mla_gather_kernel(Rows<float> out, Pages pages, const int32_t* table, int64_t max_pages, int64_t first, FaultSink fault) {
  const int64_t t = blockIdx.x;
  int32_t page;
  const int64_t place = cached_row(pages, table, max_pages, first + t, &page);
  if (place < 0) {
    if (threadIdx.x == 0) report(fault, FaultRecord::gather_page, page, pages.pages);
    return;
  }
  for (int d = threadIdx.x; d < pages.width; d += blockDim.x) out.data[t * out.stride + d] = cached(pages, place + d);
}

// Tiles beyond the 48 KiB that every kernel may have must be asked for.
template <class Kernel> void allow_shared(Kernel kernel, size_t bytes) {
  if (bytes > size_t{48} << 10) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "shared memory of attention");
}

// The smaller kernel that fits: of V3's expanded heads, or of its absorbed ones.
template <class Launch> void by_width(int64_t key_dim, int64_t value_dim, const Launch& launch) {
  if (key_dim <= 192 && value_dim <= 128) launch(std::integral_constant<int, 6>(), std::integral_constant<int, 4>());
  else launch(std::integral_constant<int, kMaxKeyDim / 32>(), std::integral_constant<int, kMaxValueDim / 32>());
}

}  // namespace

void mla_attend(Rows<float> out, Rows<const float> q_latent, Rows<const float> q_rope, const Pages& pages, const int32_t* positions, Rows<const int32_t> table, int64_t max_pages, int64_t rows,
                int64_t heads, int64_t latent_dim, float scale, FaultSink fault, cudaStream_t stream) {
  const size_t shared = static_cast<size_t>(kTile * pages.width) * sizeof(float);
  by_width(pages.width, latent_dim, [&](auto kl, auto vl) {
    const auto kernel = mla_attend_kernel<kl(), vl()>;
    allow_shared(kernel, shared);
    kernel<<<dim3(blocks_of(heads, kWarps), static_cast<unsigned>(rows)), kWarps * 32, shared, stream>>>(out, q_latent, q_rope, pages, positions, table, max_pages, static_cast<int>(heads),
                                                                                                        static_cast<int>(latent_dim), scale, fault);
  });
  check_launch("mla_attend");
}

void attend_expanded(Rows<float> out, Rows<float> lse, Rows<const float> q, Rows<const float> kv, Rows<const float> key_rope, int64_t queries, int64_t heads, int64_t keys, int64_t nope,
                     int64_t rope, int64_t value, int64_t q_first, int64_t k_first, float scale, cudaStream_t stream) {
  const size_t shared = static_cast<size_t>(kTile * (nope + rope + value)) * sizeof(float);
  by_width(nope + rope, value, [&](auto kl, auto vl) {
    const auto kernel = attend_expanded_kernel<kl(), vl()>;
    allow_shared(kernel, shared);
    kernel<<<dim3(blocks_of(queries, kWarps), static_cast<unsigned>(heads)), kWarps * 32, shared, stream>>>(
        out, lse, q, kv, key_rope, static_cast<int>(queries), static_cast<int>(keys), static_cast<int>(nope), static_cast<int>(rope), static_cast<int>(value), q_first, k_first, scale);
  });
  check_launch("attend_expanded");
}

void merge_attention(Rows<float> out, Rows<float> lse, Rows<const float> part, Rows<const float> part_lse, int64_t rows, int64_t heads, int64_t width, cudaStream_t stream) {
  merge_kernel<<<dim3(static_cast<unsigned>(rows), blocks_of(heads, kWarps)), kWarps * 32, 0, stream>>>(out, lse, part, part_lse, static_cast<int>(heads), static_cast<int>(width));
  check_launch("merge_attention");
}

void mla_append(const Pages& pages, Rows<const float> latent, Rows<const float> rope, int64_t rows, int64_t latent_dim, const int32_t* positions, Rows<const int32_t> table, int64_t max_pages,
                FaultSink fault, cudaStream_t stream) {
  mla_append_kernel<<<static_cast<unsigned>(rows), 128, 0, stream>>>(pages, latent, rope, static_cast<int>(latent_dim), positions, table, max_pages, fault);
  check_launch("mla_append");
}

void mla_gather(Rows<float> out, const Pages& pages, const int32_t* table, int64_t max_pages, int64_t first, int64_t rows, FaultSink fault, cudaStream_t stream) {
  mla_gather_kernel<<<static_cast<unsigned>(rows), 128, 0, stream>>>(out, pages, table, max_pages, first, fault);
  check_launch("mla_gather");
}

}  // namespace dsinfer::cuda
