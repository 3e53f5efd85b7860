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
/// Place of 16-byte unit `unit` (0 … 71) of row `row` in a swizzled tile.
__device__ uint32_t place(int row, int unit) { return uint32_t(unit / 8 * kColumnBytes + row * 128 + ((unit % 8) ^ (row % 8)) * 16); }

// A block: 64 heads of one token, one part of its pages. Two warpgroups: each scores half the keys of a page, then owns half the latents of the output.
// Online softmax over the pages (Milakov & Gimelshein 2018); scores and output sums in f32, probabilities bf16.
__global__ void __launch_bounds__(256, 1) mla_kernel(const __grid_constant__ MlaDecode a) {
  extern __shared__ uint8_t raw[];
  const uint32_t base = (shared_address(raw) + 1023) / 1024 * 1024;
  uint8_t* generic = raw + (base - shared_address(raw));
  const uint32_t q_tile = base, pages = base + kTileBytes, scores = base + 3 * kTileBytes;
  float* row_max = reinterpret_cast<float*>(generic + 3 * kTileBytes + kScoreBytes);  // [2][64]
  float* row_sum = row_max + 2 * kHeads;                                             // [2][64]

  const int part = blockIdx.x, head0 = blockIdx.y * kHeads, token = blockIdx.z;
  const int thread = threadIdx.x, half = thread / 128, warp = thread / 32 % 4, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int position = a.positions[token], num_pages = position / kPage + 1;
  const int each = (num_pages + a.parts - 1) / a.parts, first = part * each, last = min(num_pages, first + each);
  const int* table = a.block_table + size_t(token) * a.max_pages;

  auto load_page = [&](int page, int stage) {
    const bf16* from = a.cache + size_t(table[page]) * kPage * kRow;
    const int valid = position + 1 - page * kPage;
    for (int i = thread; i < kPage * (kRow / 8); i += 256) {
      const int row = i / (kRow / 8), unit = i % (kRow / 8);
      copy16(pages + stage * kTileBytes + place(row, unit), from + row * kRow + unit * 8, row < valid);
    }
  };
  // The cache was written by an earlier kernel than the one just before this: it may be read at once.
  if (first < last) load_page(first, 0);
  wait_for_producers();
  let_dependents_start();
  if (first >= last) {
    if (thread < kHeads && head0 + thread < a.heads)
      a.partial[(size_t(token) * a.parts + part) * a.heads + head0 + thread] = -INFINITY;
    return;
  }
  const bf16* q = a.q + (size_t(token) * a.heads + head0) * kRow;
  for (int i = thread; i < kHeads * (kRow / 8); i += 256) {
    const int row = i / (kRow / 8), unit = i % (kRow / 8);
    copy16(q_tile + place(row, unit), q + size_t(row) * kRow + unit * 8, head0 + row < a.heads);
  }
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
    if (page + 1 < last) load_page(page + 1, stage ^ 1);
    asm volatile("cp.async.commit_group;" ::: "memory");

    float s[16];
    wgmma_begin();
#pragma unroll
    for (int c = 0; c < kRow / 64; ++c)
#pragma unroll
      for (int k = 0; k < 4; ++k)
        wgmma_32<0>(s, tile_descriptor(q_tile + c * kColumnBytes + k * 32, 16), tile_descriptor(tile + c * kColumnBytes + half * 32 * 128 + k * 32, 16), c + k > 0);
    wgmma_commit();
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
      const uint32_t unit = uint32_t(half * 4 + j);  // 8 keys of 2 bytes
      uint8_t* score_tile = generic + 3 * kTileBytes;
      *reinterpret_cast<uint32_t*>(score_tile + place(row0, int(unit)) + t * 4) = pack_bf16(p0, p1);
      *reinterpret_cast<uint32_t*>(score_tile + place(row0 + 8, int(unit)) + t * 4) = pack_bf16(p2, p3);
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
      wgmma_256<1>(out, tile_descriptor(scores + k * 32, 16), tile_descriptor(tile + half * 4 * kColumnBytes + k * 2048, kColumnBytes), true);
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
      for (int j = 0; j < 32; ++j) *reinterpret_cast<uint32_t*>(u + j * 8) = pack_bf16(out[j * 4 + r * 2] * inverse, out[j * 4 + r * 2 + 1] * inverse);
    } else {
      const size_t row = (size_t(token) * a.parts + part) * a.heads + head;
      float* u = a.partial + size_t(a.tokens) * a.parts * a.heads + row * kLatent + column;
#pragma unroll
      for (int j = 0; j < 32; ++j) *reinterpret_cast<float2*>(u + j * 8) = make_float2(out[j * 4 + r * 2] * inverse, out[j * 4 + r * 2 + 1] * inverse);
      if (t == 0 && half == 0) a.partial[row] = (r ? max1 : max0) * scale + log2f(r ? sum1 : sum0);
    }
  }
}

// u = Σ_p 2^(lse_p − max) u_p / Σ_p 2^(lse_p − max), parts in their order.  A warp: 256 of the 512 latents of one head of one token.
__global__ void __launch_bounds__(256) merge_kernel(const __grid_constant__ MlaDecode a) {
  wait_for_producers();
  let_dependents_start();
  const int warp = (blockIdx.x * 256 + threadIdx.x) / 32, lane = threadIdx.x % 32;
  const int row = warp / 2, column = warp % 2 * 256 + lane * 8;
  if (row >= a.tokens * a.heads) return;
  const int token = row / a.heads, head = row % a.heads;
  const float* lse = a.partial + size_t(token) * a.parts * a.heads + head;
  const float l0 = lane < a.parts ? lse[size_t(lane) * a.heads] : -INFINITY, l1 = lane + 32 < a.parts ? lse[size_t(lane + 32) * a.heads] : -INFINITY;
  float top = fmaxf(l0, l1);
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
  const float w0 = exp2f(l0 - top), w1 = exp2f(l1 - top), inverse = 1.0f / warp_sum(w0 + w1);
  const float* u = a.partial + size_t(a.tokens) * a.parts * a.heads + (size_t(token) * a.parts * a.heads + head) * kLatent + column;
  float sum[8] = {};
#pragma unroll 4
  for (int p = 0; p < a.parts; ++p) {
    const float w = __shfl_sync(~0u, p < 32 ? w0 : w1, p % 32);
    if (w == 0) continue;  // also parts without pages, whose rows nobody wrote
    const float4* from = reinterpret_cast<const float4*>(u + size_t(p) * a.heads * kLatent);
    const float4 x = from[0], y = from[1];
    sum[0] += w * x.x, sum[1] += w * x.y, sum[2] += w * x.z, sum[3] += w * x.w;
    sum[4] += w * y.x, sum[5] += w * y.y, sum[6] += w * y.z, sum[7] += w * y.w;
  }
#pragma unroll
  for (float& s : sum) s *= inverse;
  const uint4 packed{pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]), pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7])};
  *reinterpret_cast<uint4*>(a.u + size_t(row) * kLatent + column) = packed;
}

}  // namespace

int mla_parts(int tokens, int heads, int64_t max_positions) {
  const int64_t pages = (max_positions + kPage - 1) / kPage, blocks = int64_t(tokens) * ((heads + kHeads - 1) / kHeads), processors = multiprocessors();
  int best = 1;
  int64_t best_cost = INT64_MAX;
  for (int64_t parts = 1; parts <= kMaxMlaParts && parts <= pages; ++parts) {
    // in pages: those of one block, and two for its start and end, and what the merge reads
    const int64_t waves = (blocks * parts + processors - 1) / processors;
    const int64_t cost = waves * (2 * ((pages + parts - 1) / parts) + 4) + (parts > 1 ? 4 : 0);
    if (cost < best_cost) best_cost = cost, best = int(parts);
  }
  return best;
}

int64_t mla_workspace(int tokens, int heads, int parts) { return int64_t(tokens) * heads * parts * (kLatent + 1) * int64_t(sizeof(float)); }

cudaError_t mla_decode(const MlaDecode& a, cudaStream_t stream) {
  if (a.tokens == 0) return cudaSuccess;
  if (a.parts < 1 || a.parts > kMaxMlaParts || a.heads % 4 != 0) return cudaErrorInvalidValue;
  const dim3 grid(unsigned(a.parts), unsigned((a.heads + kHeads - 1) / kHeads), unsigned(a.tokens));
  const cudaError_t started = start(mla_kernel, grid, 256, kSharedBytes, stream, true, a);
  if (started != cudaSuccess || a.parts == 1) return started;
  return start(merge_kernel, dim3(unsigned((a.tokens * a.heads * 2 + 7) / 8)), 256, 0, stream, true, a);
}

}  // namespace dsinfer::hopper
