#include <algorithm>

#include "backend/cuda/attention.cuh"

namespace dsinfer::cuda {
namespace {

constexpr int kMostParts = 16;

// Where the parts' states go, each [latent_dim] sums, highest score and total, and the keys of a part.
struct Partials {
  float* data;
  int64_t keys;
};

// The state of a query over one part of its keys, joined with the parts before: sums of weights relative to the highest score.
template <int KL, int VL> __device__ void join(Query<KL, VL>& all, const Query<KL, VL>& part) {
  if (!part.any()) return;
  if (!all.any()) {
    all.top = part.top;
    all.total = part.total;
#pragma unroll
    for (int i = 0; i < VL; ++i) all.sum[i] = part.sum[i];
    return;
  }
  const float top = fmaxf(all.top, part.top), a = expf(all.top - top), b = expf(part.top - top);
  all.top = top;
  all.total = fmaf(all.total, a, __fmul_rn(part.total, b));
#pragma unroll
  for (int i = 0; i < VL; ++i) all.sum[i] = fmaf(all.sum[i], a, __fmul_rn(part.sum[i], b));
}

template <int KL, int VL> __device__ void clear(Query<KL, VL>& query) {
  query.top = -INFINITY;
  query.total = 0;
#pragma unroll
  for (int i = 0; i < VL; ++i) query.sum[i] = 0;
}

// A block: kAttendWarps heads of a row, over all parts of its keys in turn, or over the part of blockIdx.z, whose state goes to `partial`.
template <int KL, int VL, bool kSplit> __global__ void __launch_bounds__(kAttendWarps * 32) mla_attend_kernel(const MlaAttend a, Partials partials) {
  extern __shared__ float tile[];
  __shared__ int64_t place[kTile];
  const Pages& pages = a.pages;
  const int lane = threadIdx.x % 32, h = blockIdx.x * kAttendWarps + threadIdx.x / 32, width = static_cast<int>(pages.width), latent = static_cast<int>(a.latent_dim);
  const int64_t t = blockIdx.y, length = int64_t{a.positions[t]} + 1;
  const int32_t* table = a.table.data + t * a.table.stride;
  const bool here = h < a.heads;
  Query<KL, VL> query, all;
  clear(all);
#pragma unroll
  for (int i = 0; i < KL; ++i) {
    const int d = lane + 32 * i;
    query.q[i] = !here || d >= width ? 0.0f : d < latent ? a.q_latent.data[t * a.q_latent.stride + h * a.q_latent.inner + d] : a.q_rope.data[t * a.q_rope.stride + h * a.q_rope.inner + d - latent];
  }
  for (int64_t first = kSplit ? blockIdx.z * partials.keys : 0; first < length; first += partials.keys) {
    clear(query);
    const int64_t end = min(first + partials.keys, length);
    for (int64_t start = first; start < end; start += kTile) {
      const int n = static_cast<int>(min(end - start, int64_t{kTile}));
      __syncthreads();
      if (threadIdx.x < n) {
        int32_t page;
        place[threadIdx.x] = cached_row(pages, table, a.max_pages, start + threadIdx.x, &page);
        if (place[threadIdx.x] < 0) report(a.fault, FaultRecord::attend_page, page, pages.pages);
      }
      __syncthreads();
      for (int s = threadIdx.x / 32; s < n; s += kAttendWarps) {
        const int64_t from = place[s];
#pragma unroll 6
        for (int d = lane; d < width; d += 32) tile[s * width + d] = from < 0 ? 0.0f : cached(pages, from + d);
      }
      __syncthreads();
      if (here) query.take(tile, width, n, width, 0, latent, a.scale, lane);
    }
    join(all, query);
    if (kSplit) break;
  }
  if (!here) return;
  if (!kSplit) return all.store(a.out.data + t * a.out.stride + h * a.out.inner, latent, lane);
  float* to = partials.data + ((t * a.heads + h) * gridDim.z + blockIdx.z) * (latent + 2);
#pragma unroll
  for (int i = 0; i < VL; ++i) if (lane + 32 * i < latent) to[lane + 32 * i] = all.sum[i];
  if (lane == 0) to[latent] = all.top, to[latent + 1] = all.total;
}

template <int KL, int VL> __global__ void __launch_bounds__(kAttendWarps * 32) join_kernel(const MlaAttend a, Partials partials, int parts) {
  const int lane = threadIdx.x % 32, h = blockIdx.x * kAttendWarps + threadIdx.x / 32, latent = static_cast<int>(a.latent_dim);
  const int64_t t = blockIdx.y;
  if (h >= a.heads) return;
  Query<KL, VL> all, part;
  clear(all);
  for (int p = 0; p < parts; ++p) {
    const float* from = partials.data + ((t * a.heads + h) * parts + p) * (latent + 2);
    part.top = from[latent];
    part.total = from[latent + 1];
#pragma unroll
    for (int i = 0; i < VL; ++i) part.sum[i] = lane + 32 * i < latent ? from[lane + 32 * i] : 0.0f;
    join(all, part);
  }
  all.store(a.out.data + t * a.out.stride + h * a.out.inner, latent, lane);
}

}  // namespace

size_t mla_partial_bytes(int multiprocessors) { return size_t{2} * static_cast<size_t>(multiprocessors) * kAttendWarps * kMostParts * (kMaxValueDim + 2) * sizeof(float); }

void mla_attend(const MlaAttend& a, float* partial, int multiprocessors, cudaStream_t stream) {
  // Parts lie at fixed positions of what the table has room for: what else is in the call moves no sum between them, nor does whether blocks share them.
  constexpr int64_t kFewestKeys = 512;
  const int64_t room = a.max_pages * a.pages.page_size, parts = std::clamp<int64_t>((room + kFewestKeys - 1) / kFewestKeys, 1, kMostParts);
  const Partials partials{partial, ((room + parts - 1) / parts + kTile - 1) / kTile * kTile};
  const size_t shared = static_cast<size_t>(kTile * a.pages.width) * sizeof(float);
  const dim3 blocks(blocks_of(a.heads, kAttendWarps), static_cast<unsigned>(a.rows));
  const bool split = parts > 1 && int64_t{blocks.x} * a.rows < 2 * multiprocessors;
  by_width(a.pages.width, a.latent_dim, [&](auto kl, auto vl) {
    const auto kernel = split ? mla_attend_kernel<kl(), vl(), true> : mla_attend_kernel<kl(), vl(), false>;
    allow_shared(kernel, shared);
    kernel<<<dim3(blocks.x, blocks.y, split ? static_cast<unsigned>(parts) : 1), kAttendWarps * 32, shared, stream>>>(a, partials);
    if (split) join_kernel<kl(), vl()><<<blocks, kAttendWarps * 32, 0, stream>>>(a, partials, static_cast<int>(parts));
  });
  check_launch("mla_attend");
}

}  // namespace dsinfer::cuda
