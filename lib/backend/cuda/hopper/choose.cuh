/// What routing of few and of many tokens share: group-limited top-k of one token, and sums over a block.
#pragma once
#include "device.cuh"
#include "hopper.hpp"

namespace dsinfer::hopper {

/// Bits that order like the floats they come from.
__device__ inline uint32_t ordered(float v) {
  const uint32_t bits = __float_as_uint(v);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// Sum over the threads before this one, of the first kWarps warps; all of the block call it. scratch: one number a warp; total: of those
/// warps.
template <int kWarps>
__device__ inline int exclusive_scan(int value, int* scratch, int& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) {
    const int other = __shfl_up_sync(~0u, sum, offset);
    if (lane >= offset) sum += other;
  }
  if (lane == 31) scratch[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp) before += scratch[i];
    total += scratch[i];
  }
  __syncthreads();
  return before + sum - value;
}

// A warp chooses one token's experts: lane l holds experts 8l … 8l+7, four lanes a group of 32. Source: DeepSeek-V3 report, section 2.1.2.
template <int kParts>
__device__ inline void choose(const Routed& out, const float* partial, const float* bias, const int* forced, int token, int tokens,
                              const RouteOptions& o, int lane) {
  constexpr int kExperts = 256, kEach = kExperts / 32;
  float score[kEach] = {}, biased[kEach];
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const float4* row = reinterpret_cast<const float4*>(partial + (size_t(p) * tokens + token) * kExperts + lane * kEach);
    const float4 a = row[0], b = row[1];
    score[0] += a.x, score[1] += a.y, score[2] += a.z, score[3] += a.w;
    score[4] += b.x, score[5] += b.y, score[6] += b.z, score[7] += b.w;
  }
  float first = -INFINITY, second = -INFINITY;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    score[i] = 1.0f / (1.0f + expf(-score[i]));
    biased[i] = score[i] + bias[lane * kEach + i];
    second = fmaxf(second, fminf(first, biased[i]));
    first = fmaxf(first, biased[i]);
  }
#pragma unroll
  for (int offset = 1; offset < 4; offset <<= 1) {  // the two best of four lanes
    const float f = __shfl_xor_sync(~0u, first, offset), s = __shfl_xor_sync(~0u, second, offset);
    second = fmaxf(fminf(first, f), fmaxf(second, s));
    first = fmaxf(first, f);
  }
  const float group_score = first + second;
  int ahead = 0;  // groups that go before mine
#pragma unroll
  for (int other = 0; other < 8; ++other) {
    const float theirs = __shfl_sync(~0u, group_score, other * 4);
    ahead += theirs > group_score || (theirs == group_score && other < lane / 4);
  }
  uint32_t key[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) key[i] = ahead >= o.topk_group ? 0 : ordered(biased[i]);
  float total = 0, weight = 0;
  int expert = 0;
  for (int k = 0; k < o.top_k; ++k) {
    int pick;
    if (forced) {
      pick = forced[token * o.top_k + k];
    } else {
      uint32_t best = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) best = max(best, key[i]);
      best = __reduce_max_sync(~0u, best);
      uint32_t index = kExperts - 1;
#pragma unroll
      for (int i = kEach - 1; i >= 0; --i)
        if (key[i] == best) index = uint32_t(lane * kEach + i);
      pick = int(__reduce_min_sync(~0u, index));
    }
    float value = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (pick == lane * kEach + i) value = score[i], key[i] = 0;
    value = __shfl_sync(~0u, value, pick / kEach);
    total += value;
    if (lane == k) weight = value, expert = pick;
  }
  if (o.positions && o.positions[token] < 0) expert = -1, weight = 0;
  if (lane < o.top_k) {
    out.experts[token * o.top_k + lane] = expert;
    out.weights[token * o.top_k + lane] = (o.normalise ? weight / (total + 1e-20f) : weight) * o.scale;
  }
}

}  // namespace dsinfer::hopper
