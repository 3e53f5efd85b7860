/// Absorbed MLA attention of a decode step over the paged latent cache (64 rows a page, 512 latents and 64 rope channels a row, bf16).
#include "device.cuh"
#include "hopper.hpp"
#include "wgmma.cuh"

namespace dsinfer::hopper {
namespace {

constexpr int kHeads = 64, kPage = 64, kRow = 576, kLatent = 512;  // of one block
constexpr int kColumnBytes = 64 * 128;                             // 64 rows of one 128-byte column: the unit of the swizzle
constexpr int kTileBytes = kRow / 64 * kColumnBytes;               // q, or one page
constexpr int kScoreBytes = kHeads * 128;
constexpr int kSharedBytes = 3 * kTileBytes + kScoreBytes + 4 * kHeads * int(sizeof(float)) + 1024;  // 1024: alignment of the swizzle

__device__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
/// 16 bytes to shared memory, or zeros.
__device__ void copy16(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
/// Place of 16-byte unit `unit` (0 … 7) of row `row` in a swizzled column.
__device__ uint32_t place(int row, int unit) { return uint32_t(row * 128 + (unit ^ (row % 8)) * 16); }
/// 64 rows of 576 to a swizzled tile, those from `valid` on as zeros. A warp copies eight rows, a quarter of it a row's 128 bytes at a
/// time.
__device__ void copy_tile(uint32_t to, const bf16* from, int valid) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 8 + lane / 8, unit = lane % 8;
  const bf16* low = from + row * kRow + unit * 8;
  const uint32_t to_low = to + place(row, unit), to_high = to + place(row + 4, unit);
  const bool low_valid = row < valid, high_valid = row + 4 < valid;
#pragma unroll
  for (int c = 0; c < kRow / 64; ++c) {
    copy16(to_low + c * kColumnBytes, low + c * 64, low_valid);
    copy16(to_high + c * kColumnBytes, low + 4 * kRow + c * 64, high_valid);
  }
}

// A block: 64 heads of one token, one part of its pages. Two warpgroups: each scores half the keys of a page, then owns half the latents of
// the output. Online softmax over the pages (Milakov & Gimelshein 2018); scores and output sums in f32, probabilities bf16.
__global__ void __launch_bounds__(256, 1) mla_kernel(const __grid_constant__ MlaDecode a) {
  extern __shared__ uint8_t raw[];
  const uint32_t base = (shared_address(raw) + 1023) / 1024 * 1024;
  uint8_t* generic = raw + (base - shared_address(raw));
  const uint32_t q_tile = base, pages = base + kTileBytes, scores = base + 3 * kTileBytes;
  float* row_max = reinterpret_cast<float*>(generic + 3 * kTileBytes + kScoreBytes);  // [2][64]
  float* row_sum = row_max + 2 * kHeads;                                              // [2][64]

  const int part = blockIdx.x, head0 = blockIdx.y * kHeads, token = blockIdx.z;
  const int thread = threadIdx.x, half = thread / 128, warp = thread / 32 % 4, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int position = a.positions[token], num_pages = position < 0 ? 0 : position / kPage + 1;
  const int each = (num_pages + a.parts - 1) / a.parts, first = part * each, last = min(num_pages, first + each);
  const int* table = a.block_table + size_t(token) * a.max_pages;

  auto load_page = [&](int page, int stage) {
    copy_tile(pages + stage * kTileBytes, static_cast<const bf16*>(a.cache) + size_t(table[page]) * kPage * kRow,
              position + 1 - page * kPage);
  };
  // The cache was written by an earlier kernel than the one just before this: it may be read at once.
  if (first < last) load_page(first, 0);
  wait_for_producers();
  let_dependents_start();
  if (first >= last) {
    if (a.parts == 1)
      for (int i = thread; i < min(kHeads, a.heads - head0) * kLatent / 8; i += 256)  // a padding row
        reinterpret_cast<uint4*>(a.u + (size_t(token) * a.heads + head0) * kLatent)[i] = uint4{};
    else if (thread < kHeads && head0 + thread < a.heads)
      a.partial[(size_t(token) * a.parts + part) * a.heads + head0 + thread] = -INFINITY;
    return;
  }
  copy_tile(q_tile, a.q + (size_t(token) * a.heads + head0) * kRow, a.heads - head0);
  asm volatile("cp.async.commit_group;" ::: "memory");

  float out[128];
#pragma unroll
  for (int i = 0; i < 128; ++i) out[i] = 0;
  float max0 = -INFINITY, max1 = -INFINITY, sum0 = 0, sum1 = 0;  // of rows 16 · warp + g and + 8
  const float scale = a.scale * 1.44269504f;                     // exp(x) = 2^(x log2 e)
  const int row0 = warp * 16 + g;

  for (int page = first; page < last; ++page) {
    const int stage = (page - first) % 2;
    const uint32_t tile = pages + stage * kTileBytes;
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    publish_to_wgmma();
    __syncthreads();

    float s[16];
    wgmma_begin();
#pragma unroll
    for (int c = 0; c < kRow / 64; ++c)
#pragma unroll
      for (int k = 0; k < 4; ++k)
        wgmma_32<0>(s, tile_descriptor(q_tile + c * kColumnBytes + k * 32, 16),
                    tile_descriptor(tile + c * kColumnBytes + half * 32 * 128 + k * 32, 16), c + k > 0);
    wgmma_commit();
    if (page + 1 < last) load_page(page + 1, stage ^ 1);  // while the matrix unit works
    asm volatile("cp.async.commit_group;" ::: "memory");
    wgmma_finish();

    const int key0 = page * kPage + half * 32 + t * 2;
    float new0 = max0, new1 = max1;
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (key0 + j * 8 + i > position) s[j * 4 + i] = s[j * 4 + 2 + i] = -INFINITY;
        new0 = fmaxf(new0, s[j * 4 + i]);
        new1 = fmaxf(new1, s[j * 4 + 2 + i]);
      }
#pragma unroll
    for (int offset = 1; offset < 4; offset <<= 1) {
      new0 = fmaxf(new0, __shfl_xor_sync(~0u, new0, offset));
      new1 = fmaxf(new1, __shfl_xor_sync(~0u, new1, offset));
    }
    if (t == 0) row_max[half * kHeads + row0] = new0, row_max[half * kHeads + row0 + 8] = new1;
    __syncthreads();
    new0 = fmaxf(row_max[row0], row_max[kHeads + row0]);
    new1 = fmaxf(row_max[row0 + 8], row_max[kHeads + row0 + 8]);
    const float shrink0 = exp2f((max0 - new0) * scale), shrink1 = exp2f((max1 - new1) * scale);
    max0 = new0, max1 = new1;
    sum0 *= shrink0, sum1 *= shrink1;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float p0 = exp2f((s[j * 4] - max0) * scale), p1 = exp2f((s[j * 4 + 1] - max0) * scale);
      const float p2 = exp2f((s[j * 4 + 2] - max1) * scale), p3 = exp2f((s[j * 4 + 3] - max1) * scale);
      sum0 += p0 + p1, sum1 += p2 + p3;
      uint8_t* score_tile = generic + 3 * kTileBytes;  // a unit: eight keys
      *reinterpret_cast<uint32_t*>(score_tile + place(row0, half * 4 + j) + t * 4) = pack_bf16(p0, p1);
      *reinterpret_cast<uint32_t*>(score_tile + place(row0 + 8, half * 4 + j) + t * 4) = pack_bf16(p2, p3);
    }
    publish_to_wgmma();
    if (__any_sync(~0u, shrink0 != 1.0f || shrink1 != 1.0f)) {
#pragma unroll
      for (int i = 0; i < 128; i += 4) out[i] *= shrink0, out[i + 1] *= shrink0, out[i + 2] *= shrink1, out[i + 3] *= shrink1;
    }
    __syncthreads();
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k)  // 16 keys: two groups of eight rows of the page
      wgmma_256<1>(out, tile_descriptor(scores + k * 32, 16), tile_descriptor(tile + half * 4 * kColumnBytes + k * 2048, kColumnBytes),
                   true);
    wgmma_commit();
    wgmma_finish();
  }

#pragma unroll
  for (int offset = 1; offset < 4; offset <<= 1) {
    sum0 += __shfl_xor_sync(~0u, sum0, offset);
    sum1 += __shfl_xor_sync(~0u, sum1, offset);
  }
  if (t == 0) row_sum[half * kHeads + row0] = sum0, row_sum[half * kHeads + row0 + 8] = sum1;
  __syncthreads();
  sum0 = row_sum[row0] + row_sum[kHeads + row0];
  sum1 = row_sum[row0 + 8] + row_sum[kHeads + row0 + 8];
  const float inverse0 = 1.0f / sum0, inverse1 = 1.0f / sum1;
  const int column = half * 256 + t * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int head = head0 + row0 + r * 8;
    if (head >= a.heads) continue;
    const float inverse = r ? inverse1 : inverse0;
    if (a.parts == 1) {
      bf16* u = a.u + (size_t(token) * a.heads + head) * kLatent + column;
#pragma unroll
      for (int j = 0; j < 32; ++j)
        *reinterpret_cast<uint32_t*>(u + j * 8) = pack_bf16(out[j * 4 + r * 2] * inverse, out[j * 4 + r * 2 + 1] * inverse);
    } else {
      const size_t row = (size_t(token) * a.parts + part) * a.heads + head;
      float* u = a.partial + size_t(a.tokens) * a.parts * a.heads + row * kLatent + column;
#pragma unroll
      for (int j = 0; j < 32; ++j)
        *reinterpret_cast<float2*>(u + j * 8) = make_float2(out[j * 4 + r * 2] * inverse, out[j * 4 + r * 2 + 1] * inverse);
      if (t == 0 && half == 0) a.partial[row] = (r ? max1 : max0) * scale + log2f(r ? sum1 : sum0);
    }
  }
}

// u = Σ_p 2^(lse_p − max) u_p / Σ_p 2^(lse_p − max), parts in their order.  A warp: 128 of the 512 latents of one head of one token.
__global__ void __launch_bounds__(256) merge_kernel(const __grid_constant__ MlaDecode a) {
  wait_for_producers();
  let_dependents_start();
  const int warp = (blockIdx.x * 256 + threadIdx.x) / 32, lane = threadIdx.x % 32;
  const int row = warp / 4, column = warp % 4 * 128 + lane * 4;
  if (row >= a.tokens * a.heads) return;
  const int token = row / a.heads, head = row % a.heads;
  const float* lse = a.partial + size_t(token) * a.parts * a.heads + head;
  const float l0 = lane < a.parts ? lse[size_t(lane) * a.heads] : -INFINITY,
              l1 = lane + 32 < a.parts ? lse[size_t(lane + 32) * a.heads] : -INFINITY;
  float top = fmaxf(l0, l1);
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
  if (top == -INFINITY) {  // a padding row
    *reinterpret_cast<uint2*>(a.u + size_t(row) * kLatent + column) = uint2{};
    return;
  }
  const float w0 = exp2f(l0 - top), w1 = exp2f(l1 - top), inverse = 1.0f / warp_sum(w0 + w1);
  const float* u = a.partial + size_t(a.tokens) * a.parts * a.heads + (size_t(token) * a.parts * a.heads + head) * kLatent + column;
  float sum[4] = {};
  constexpr int kAhead = 8;  // loads in flight
  for (int p = 0; p < a.parts; p += kAhead) {
    float4 x[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (p + i < a.parts) x[i] = *reinterpret_cast<const float4*>(u + size_t(p + i) * a.heads * kLatent);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const float w = __shfl_sync(~0u, p + i < 32 ? w0 : w1, (p + i) % 32);
      if (p + i < a.parts && w != 0)
        sum[0] += w * x[i].x, sum[1] += w * x[i].y, sum[2] += w * x[i].z, sum[3] += w * x[i].w;  // w 0: nobody wrote that row
    }
  }
  *reinterpret_cast<uint2*>(a.u + size_t(row) * kLatent + column) =
      uint2{pack_bf16(sum[0] * inverse, sum[1] * inverse), pack_bf16(sum[2] * inverse, sum[3] * inverse)};
}

}  // namespace

int mla_parts(int tokens, int heads, int64_t max_positions) {
  const int64_t pages = (max_positions + kPage - 1) / kPage, blocks = int64_t(tokens) * ((heads + kHeads - 1) / kHeads),
                processors = multiprocessors();
  int best = 1;
  int64_t best_cost = INT64_MAX;
  for (int64_t parts = 1; parts <= kMaxMlaParts && parts <= pages; ++parts) {
    // Tenths of a microsecond, fitted to an H100: a block's start and end, its pages, what parts write and the merge reads, in megabytes
    // and in turn.
    const int64_t waves = (blocks * parts + processors - 1) / processors;
    const int64_t merge = parts > 1 ? 25 + parts * 12 / 10 + int64_t(tokens) * heads * parts / 100 : 0;
    const int64_t cost = waves * (40 + 23 * ((pages + parts - 1) / parts)) + merge;
    if (cost < best_cost) best_cost = cost, best = int(parts);
  }
  return best;
}

int64_t mla_workspace(int tokens, int heads, int parts) { return int64_t(tokens) * heads * parts * (kLatent + 1) * int64_t(sizeof(float)); }

cudaError_t mla_decode(const MlaDecode& a, cudaStream_t stream) {
  if (a.tokens == 0) return cudaSuccess;
  if (a.parts < 1 || a.parts > kMaxMlaParts || a.heads % 4 != 0) return cudaErrorInvalidValue;
  if (a.format != KvFormat::bf16) return cudaErrorNotSupported;
  const dim3 grid(unsigned(a.parts), unsigned((a.heads + kHeads - 1) / kHeads), unsigned(a.tokens));
  const cudaError_t started = start(mla_kernel, grid, 256, kSharedBytes, stream, true, a);
  if (started != cudaSuccess || a.parts == 1) return started;
  return start(merge_kernel, dim3(unsigned((a.tokens * a.heads * 4 + 7) / 8)), 256, 0, stream, true, a);
}

}  // namespace dsinfer::hopper
