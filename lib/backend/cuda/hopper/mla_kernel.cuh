/// Absorbed MLA attention of a decode step over the paged latent cache: the kernel of one block, 64 heads of one token and one part of its
/// pages.
///
/// Two warpgroups hold 256 of the 512 output latents each, and take the pages in turns: while one scores its page and takes the softmax,
/// the other's products run; each page's probabilities go through shared memory to the other half of the latents (the "seesaw" of
/// FlashMLA's deep-dive, 2025-04-22). A third warpgroup fills the two places for pages: by the copy engine for bf16, or
/// widening FP8 rows. Online softmax (Milakov & Gimelshein 2018); scores and sums in f32, probabilities bf16. The blocks of a cluster are
/// parts of the same sequence: they add up through distributed shared memory, in their order.
#pragma once
#include <cooperative_groups.h>

#include "device.cuh"
#include "hopper.hpp"
#include "tma.cuh"
#include "wgmma_mla.cuh"

namespace dsinfer::hopper {

struct MlaShape {
  static constexpr int kHeads = 64, kPage = 64, kRow = 576, kLatent = 512, kColumns = kRow / 64;
  static constexpr int kColumnBytes = 64 * 128;  // 64 rows of one 128-byte column: the unit of the swizzle
  static constexpr int kTileBytes = kColumns * kColumnBytes;
  // In shared memory, from a multiple of 1024: q (its rope column gives way to the odd pages' probabilities), two pages, the even pages'
  // probabilities, running maxima and corrections of rows by the half that wrote them, barriers.
  static constexpr int kPages = kTileBytes, kScores = 3 * kTileBytes, kStats = kScores + kColumnBytes,
                       kBarriers = kStats + 4 * kHeads * int(sizeof(float)), kShared = kBarriers + 256 + 1024;
  static constexpr int kSumStride = kLatent + 8;  // floats; where blocks of a cluster add, in place of the pages
  static_assert(kHeads * kSumStride * int(sizeof(float)) <= 2 * kTileBytes && kShared <= 227 * 1024);
};

enum MlaBarrier { kEvenReady = 1, kOddReady, kHalf, kBothHalves = kHalf + 2 };

/// Place of 16-byte unit `unit` (0 … 7) of row `row` in a swizzled column.
__device__ inline uint32_t swizzled(int row, int unit) { return uint32_t(row * 128 + (unit ^ (row % 8)) * 16); }

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// What a thread of the block knows about its part.
struct MlaPart {
  uint32_t base;     // shared memory, aligned
  uint8_t* generic;  // the same place
  int position, first, pages;
  const int* table;
  __device__ uint32_t tile(int page) const { return base + MlaShape::kPages + uint32_t(page % 2) * MlaShape::kTileBytes; }
  __device__ uint32_t full(int page, int column) const { return base + MlaShape::kBarriers + uint32_t(page % 2 * 9 + column) * 8; }
  __device__ uint32_t empty(int page, int half) const { return base + MlaShape::kBarriers + uint32_t(18 + page % 2 * 2 + half) * 8; }
  __device__ uint32_t q_full() const { return base + MlaShape::kBarriers + 22 * 8; }
  __device__ int valid_rows(int page) const { return min(MlaShape::kPage, position + 1 - (first + page) * MlaShape::kPage); }
  __device__ float* stats(int which) const { return reinterpret_cast<float*>(generic + MlaShape::kStats) + which * MlaShape::kHeads; }
};

/// One warpgroup of the two: its half of the output, and the scores of every second page.
template <int kHalfIndex, bool kBf16Cache>
struct MlaHalf {
  using S = MlaShape;
  const MlaPart& part;
  int warp, lane, g, t, row;  // rows `row` and `row` + 8 of the 64
  float scale;                // of scores, times log2 e
  uint32_t rope[16];          // q's rope channels
  float out[128], scores[32];
  uint32_t weights[kBf16Cache ? 16 : 1];  // probabilities of my page; the FP8 kernel lacks the registers
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};

  __device__ MlaHalf(const MlaPart& p, float score_scale) : part(p), scale(score_scale * 1.44269504f) {  // exp(x) = 2^(x log2 e)
    warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = warp * 16 + g;
#pragma unroll
    for (float& o : out) o = 0;
    barrier_wait(p.q_full(), 0);
    const uint8_t* column = p.generic + 8 * S::kColumnBytes;
#pragma unroll
    for (int i = 0; i < 16; ++i) rope[i] = *reinterpret_cast<const uint32_t*>(column + swizzled(row + i % 2 * 8, i / 2) + t * 4);
    named_sync(kBothHalves, 256);  // from here on the rope column of q is free
  }

  /// Keeps what follows from being computed ahead of the loop: descriptors held in registers would push others out.
  __device__ static uint32_t here(uint32_t address) {
    asm volatile("" : "+r"(address));
    return address;
  }

  /// scores = q · page, as its columns arrive.
  __device__ void score(int page) {
    const uint32_t tile = here(part.tile(page)), q = here(part.base), full = here(part.full(page, 0));
    wgmma_begin();
#pragma unroll
    for (int j = 0; j < S::kColumns; ++j) {
      const int c = kHalfIndex == 0 ? j : (j + 4) % S::kColumns;  // in the order of their coming
      barrier_wait(full + c * 8, page / 2 % 2);
      if constexpr (!kBf16Cache) fence_async_proxy();
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const uint64_t keys = tile_descriptor(tile + c * S::kColumnBytes + k * 32, 16);
        if (c < 8)
          wgmma_bf16(scores, tile_descriptor(q + c * S::kColumnBytes + k * 32, 16), keys, j + k > 0);
        else
          wgmma_64<0>(scores, rope[k * 4], rope[k * 4 + 1], rope[k * 4 + 2], rope[k * 4 + 3], keys, j + k > 0);
      }
    }
    wgmma_commit();
    wgmma_finish();
    if (part.first + page == part.position / S::kPage) hide_rest(page);
  }

  /// Keys past the position: no score, and no NaN among the values.
  __device__ void hide_rest(int page) {
    const int valid = part.valid_rows(page);
#pragma unroll
    for (int i = 0; i < 32; ++i)
      if (i / 4 * 8 + t * 2 + i % 2 >= valid) scores[i] = -INFINITY;
    if (!kBf16Cache) return;
    uint8_t* tile = part.generic + (part.tile(page) - part.base);
    for (int i = valid * 64 + int(threadIdx.x % 128); i < S::kPage * 64; i += 128)
      *reinterpret_cast<uint4*>(tile + i / 8 % 8 * S::kColumnBytes + i / 64 * 128 + i % 8 * 16) = uint4{};
    fence_async_proxy();
    named_sync(kHalf + kHalfIndex, 128);
  }

  /// Probabilities of my page against the new maxima, which everyone then takes on: to registers and to shared memory.
  __device__ void softmax(float (&shrink)[2]) {
    float peak[4] = {top[0], top[1], top[0], top[1]};  // two chains a row
#pragma unroll
    for (int i = 0; i < 32; ++i) peak[i / 2 % 2 + i % 2 * 2] = fmaxf(peak[i / 2 % 2 + i % 2 * 2], scores[i]);
    peak[0] = fmaxf(peak[0], peak[2]), peak[1] = fmaxf(peak[1], peak[3]);
#pragma unroll
    for (int r = 0; r < 2; ++r) peak[r] = fmaxf(peak[r], __shfl_xor_sync(~0u, peak[r], 1));
#pragma unroll
    for (int r = 0; r < 2; ++r) peak[r] = fmaxf(peak[r], __shfl_xor_sync(~0u, peak[r], 2));
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      shrink[r] = exp2_fast((top[r] - peak[r]) * scale);
      top[r] = peak[r];
      if (t == 0) part.stats(kHalfIndex * 2)[row + r * 8] = peak[r], part.stats(kHalfIndex * 2 + 1)[row + r * 8] = shrink[r];
    }
    const float bias[2] = {-top[0] * scale, -top[1] * scale};
    float more[2] = {0, 0};
    // Lane l stores row l % 16 of the warp's 16, keys 8 · (l / 16) of each 16.
    const int store_row = warp * 16 + lane % 16;
    const uint32_t shared = part.base + (kHalfIndex == 0 ? S::kScores : 8 * S::kColumnBytes) + store_row * 128, turn = lane % 8;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float p0 = exp2_fast(fmaf(scores[k * 8 + i * 2], scale, bias[i % 2])),
                    p1 = exp2_fast(fmaf(scores[k * 8 + i * 2 + 1], scale, bias[i % 2]));
        more[i % 2] += p0 + p1;
        w[i] = pack_bf16(p0, p1);
        if constexpr (kBf16Cache) weights[k * 4 + i] = w[i];
      }
      store_matrices(shared + ((k * 2 + lane / 16) ^ turn) * 16, w[0], w[1], w[2], w[3]);
    }
    sum[0] = sum[0] * shrink[0] + more[0], sum[1] = sum[1] * shrink[1] + more[1];
    fence_async_proxy();
    if constexpr (!kBf16Cache) named_sync(kHalf + kHalfIndex, 128);
    named_arrive(kHalfIndex == 0 ? kEvenReady : kOddReady, 256);
  }

  /// Waits for the other half's page, and takes on its maxima.
  __device__ void follow() {
    named_sync(kHalfIndex == 0 ? kOddReady : kEvenReady, 256);
    float shrink[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = part.stats((1 - kHalfIndex) * 2)[row + r * 8];
      shrink[r] = part.stats((1 - kHalfIndex) * 2 + 1)[row + r * 8];
      sum[r] *= shrink[r];
    }
    shrink_out(shrink);
  }

  __device__ void shrink_out(const float (&shrink)[2]) {
    if (!__any_sync(~0u, shrink[0] != 1.0f || shrink[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < 128; ++i) out[i] *= shrink[i / 2 % 2];
  }

  __device__ uint32_t values(int page) const { return here(part.tile(page)) + kHalfIndex * 4 * S::kColumnBytes; }
  __device__ static uint64_t sixteen_keys(uint32_t values, int k) {  // two groups of eight rows
    return tile_descriptor(values + k * 2048, S::kColumnBytes);
  }
  /// out += probabilities · values, of a page that the other half scored, or of my own.
  __device__ void add_shared(int page, int scored_by) {
    const uint32_t shared = here(part.base) + (scored_by == 0 ? S::kScores : 8 * S::kColumnBytes), from = values(page);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_256<1>(out, tile_descriptor(shared + k * 32, 16), sixteen_keys(from, k), true);
    wgmma_commit();
  }
  __device__ void add_other(int page) { add_shared(page, 1 - kHalfIndex); }
  __device__ void add_own(int page) {
    if constexpr (!kBf16Cache) {
      add_shared(page, kHalfIndex);
    } else {
      const uint32_t from = values(page);
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        wgmma_256<1>(out, weights[k * 4], weights[k * 4 + 1], weights[k * 4 + 2], weights[k * 4 + 3], sixteen_keys(from, k), true);
      wgmma_commit();
    }
  }
  __device__ void release(int page) {
    wgmma_finish();
    if (lane == 0) barrier_arrive(part.empty(page, kHalfIndex));
  }

  __device__ void run() {
    float shrink[2];
    if (part.pages > kHalfIndex) score(kHalfIndex);
    for (int page = 0; page < part.pages; page += 2) {
      const bool pair = page + 1 < part.pages;
      if (kHalfIndex == 0) {
        softmax(shrink);
        shrink_out(shrink);
        add_own(page);
        release(page);
        if (pair) {
          follow();
          add_other(page + 1);
          release(page + 1);
        }
        if (page + 2 < part.pages) score(page + 2);
      } else {
        follow();
        add_other(page);
        if (pair) softmax(shrink);  // while the matrix unit works
        release(page);
        if (pair) {
          shrink_out(shrink);
          add_own(page + 1);
          release(page + 1);
          if (page + 3 < part.pages) score(page + 3);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    }
    named_sync(kBothHalves, 256);  // nobody reads maxima, q or pages any more
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (t == 0) part.stats(kHalfIndex)[row + r * 8] = sum[r];
    named_sync(kBothHalves, 256);
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] = part.stats(0)[row + r * 8] + part.stats(1)[row + r * 8];
  }
};

}  // namespace dsinfer::hopper
