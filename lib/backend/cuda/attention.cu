#include "backend/cuda/attention.cuh"

namespace dsinfer::cuda {
namespace {

// kv rows hold a head's key part, then its value; the rope part of the key is shared by all heads.
template <int KL, int VL>
__global__ void __launch_bounds__(kAttendWarps * 32) attend_expanded_kernel(Rows<float> out, Rows<float> lse, Rows<const float> q, Rows<const float> kv, Rows<const float> key_rope, int queries,
                                                                      int keys, int nope, int rope, int value, int64_t q_first, int64_t k_first, float scale) {
  extern __shared__ float tile[];  // [kTile, nope + rope + value]
  const int lane = threadIdx.x % 32, h = blockIdx.y, width = nope + rope + value;
  const int64_t t0 = int64_t{blockIdx.x} * kAttendWarps, t = t0 + threadIdx.x / 32;
  const auto visible = [&](int64_t row) { return min(max(q_first + row - k_first + 1, int64_t{0}), int64_t{keys}); };
  const int64_t last = visible(min(t0 + kAttendWarps, int64_t{queries}) - 1), mine = t < queries ? visible(t) : 0;
  Query<KL, VL> query;
#pragma unroll
  for (int i = 0; i < KL; ++i) query.q[i] = t < queries && lane + 32 * i < nope + rope ? q.data[t * q.stride + h * q.inner + lane + 32 * i] : 0.0f;
#pragma unroll
  for (int i = 0; i < VL; ++i) query.sum[i] = 0;
  for (int64_t start = 0; start < last; start += kTile) {
    const int n = static_cast<int>(min(last - start, int64_t{kTile}));
    __syncthreads();
    for (int i = threadIdx.x; i < n * width; i += kAttendWarps * 32) {
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
  const int lane = threadIdx.x % 32, h = blockIdx.y * kAttendWarps + threadIdx.x / 32;
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

}  // namespace

void attend_expanded(Rows<float> out, Rows<float> lse, Rows<const float> q, Rows<const float> kv, Rows<const float> key_rope, int64_t queries, int64_t heads, int64_t keys, int64_t nope,
                     int64_t rope, int64_t value, int64_t q_first, int64_t k_first, float scale, cudaStream_t stream) {
  const size_t shared = static_cast<size_t>(kTile * (nope + rope + value)) * sizeof(float);
  by_width(nope + rope, value, [&](auto kl, auto vl) {
    const auto kernel = attend_expanded_kernel<kl(), vl()>;
    allow_shared(kernel, shared);
    kernel<<<dim3(blocks_of(queries, kAttendWarps), static_cast<unsigned>(heads)), kAttendWarps * 32, shared, stream>>>(
        out, lse, q, kv, key_rope, static_cast<int>(queries), static_cast<int>(keys), static_cast<int>(nope), static_cast<int>(rope), static_cast<int>(value), q_first, k_first, scale);
  });
  check_launch("attend_expanded");
}

void merge_attention(Rows<float> out, Rows<float> lse, Rows<const float> part, Rows<const float> part_lse, int64_t rows, int64_t heads, int64_t width, cudaStream_t stream) {
  merge_kernel<<<dim3(static_cast<unsigned>(rows), blocks_of(heads, kAttendWarps)), kAttendWarps * 32, 0, stream>>>(out, lse, part, part_lse, static_cast<int>(heads), static_cast<int>(width));
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
