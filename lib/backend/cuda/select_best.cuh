/// The best logits of a whole row by one block: a radix select over the bits of the logits, whatever they are; and the sort that puts candidates in order.
#pragma once
#include "backend/cuda/warp.cuh"
#include "backend/logit_survey.hpp"

namespace dsinfer::cuda {

inline constexpr int kFinish = 1024;      // threads of the block
inline constexpr int kBins = 2048;        // of a radix digit: 11 bits, 11 bits, 10 bits
inline constexpr int kMostSorted = 4096;

// As unsigned numbers in the order of the logits; −0 as 0. No finite logit's is 0.
__device__ inline uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A logit and its id as one number: the better, the greater; on a tie the lower id is the better. No two of a row are equal.
using Entry = unsigned long long;
__device__ inline Entry entry_of(uint32_t key, int32_t id) { return static_cast<Entry>(key) << 32 | (0xffffffffu - static_cast<uint32_t>(id)); }
__device__ inline int32_t id_of(Entry entry) { return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(entry)); }

// The bin, from the highest on, in which the want-th key lies; how many lie above it; and how many in it.
struct Bin {
  uint32_t digit;
  int32_t above, in;
};

struct Select {
  int32_t bins[kBins];
  int32_t sums[kBins / 32];
  Bin found;
  int32_t taken;
  int32_t warp_counts[kFinish / 32];
  Entry sorted[kMostSorted];
};

__device__ inline Bin find_bin(Select& shared, int32_t want) {
  __syncthreads();
  if (threadIdx.x < kBins / 32) {
    int32_t sum = 0;
    for (int j = 0; j < 32; ++j) sum += shared.bins[threadIdx.x * 32 + (j + threadIdx.x) % 32];  // turned, so that each thread reads another bank
    shared.sums[threadIdx.x] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t above = 0;
    int group = kBins / 32 - 1;
    while (group > 0 && above + shared.sums[group] < want) above += shared.sums[group--];
    int bin = group * 32 + 31;
    while (bin > group * 32 && above + shared.bins[bin] < want) above += shared.bins[bin--];
    shared.found = {static_cast<uint32_t>(bin), above, shared.bins[bin]};
  }
  __syncthreads();
  return shared.found;
}

// One step of the sort below on the entry at place i, whose partner another lane holds.
__device__ inline Entry sort_step(Entry mine, int i, int span, int step) {
  const Entry other = __shfl_xor_sync(kAll, mine, step);
  return ((i & span) == 0) == ((i & step) == 0) ? max(mine, other) : min(mine, other);
}

// Bitonic sort of the first `size` entries, a power of two from 64 on; what atomics put in any order comes in one. Steps within 64 entries are a warp's, in registers.
// Source: Batcher, "Sorting networks and their applications", 1968.
__device__ inline void sort_falling(Select& shared, int size) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  auto sort_tiles = [&](int first_span, int last_span) {
    for (int tile = warp * 64; tile < size; tile += kFinish / 32 * 64) {
      const int i = tile + lane, j = i + 32;
      Entry a = shared.sorted[i], b = shared.sorted[j];
      for (int span = first_span; span <= last_span; span *= 2) {
        if (span >= 64) {
          const Entry high = max(a, b), low = min(a, b);
          a = (i & span) == 0 ? high : low, b = (i & span) == 0 ? low : high;
        }
        for (int step = min(span / 2, 16); step > 0; step /= 2) a = sort_step(a, i, span, step), b = sort_step(b, j, span, step);
      }
      shared.sorted[i] = a, shared.sorted[j] = b;
    }
    __syncthreads();
  };
  __syncthreads();
  sort_tiles(2, 64);
  for (int span = 128; span <= size; span *= 2) {
    for (int step = span / 2; step >= 64; step /= 2) {
      for (int pair = threadIdx.x; pair < size / 2; pair += kFinish) {
        const int i = pair / step * (2 * step) + pair % step, j = i + step;
        const Entry a = shared.sorted[i], b = shared.sorted[j];
        if ((i & span) == 0 ? a < b : a > b) shared.sorted[i] = b, shared.sorted[j] = a;
      }
      __syncthreads();
    }
    sort_tiles(span, span);
  }
}

// Of the keys equal to `border`, the `need` with the lowest ids, by tiles in the order of ids.
__device__ inline void take_lowest(Select& shared, const float* logits, int64_t ids, uint32_t border, int32_t need) {
  int32_t before = 0;  // the same in every thread
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t base = 0; base < ids && before < need; base += kFinish) {
    const int64_t i = base + threadIdx.x;
    const bool equal = i < ids && key_of(logits[i]) == border;
    const unsigned ballot = __ballot_sync(kAll, equal);
    if (lane == 0) shared.warp_counts[warp] = __popc(ballot);
    __syncthreads();
    int32_t rank = before + __popc(ballot & ((1u << lane) - 1)), all = 0;
    for (int w = 0; w < kFinish / 32; ++w) {
      if (w < warp) rank += shared.warp_counts[w];
      all += shared.warp_counts[w];
    }
    if (equal && rank < need) shared.sorted[atomicAdd(&shared.taken, 1)] = entry_of(border, static_cast<int32_t>(i));
    before += all;
    __syncthreads();
  }
}

// use(id, logit) for this thread's logits, of which many are asked for at a time.
template <class Use> __device__ void each_logit(const float* logits, int64_t ids, Use use) {
  constexpr int kAtOnce = 8;
  for (int64_t base = threadIdx.x; base < ids; base += kAtOnce * kFinish) {
    float x[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) x[j] = base + j * kFinish < ids ? __ldg(logits + base + j * kFinish) : 0;
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (base + j * kFinish < ids) use(static_cast<int32_t>(base + j * kFinish), x[j]);
  }
}

// The want best of ids logits into shared.sorted, best first, the lower id first on a tie.
__device__ inline void select_best(Select& shared, const float* logits, int64_t ids, int32_t want) {
  constexpr int kShift[] = {21, 10, 0}, kBits[] = {11, 11, 10};
  uint32_t border = 0, mask = 0;
  int32_t need = want;
  Bin bin{};
  for (int level = 0; level < 3; ++level) {
    for (int i = threadIdx.x; i < kBins; i += kFinish) shared.bins[i] = 0;
    __syncthreads();
    each_logit(logits, ids, [&](int32_t, float x) {
      const uint32_t key = key_of(x);
      if ((key & mask) == border) atomicAdd(&shared.bins[key >> kShift[level] & ((1u << kBits[level]) - 1)], 1);
    });
    bin = find_bin(shared, need);
    need -= bin.above;
    border |= bin.digit << kShift[level];
    mask |= ((1u << kBits[level]) - 1) << kShift[level];
  }
  const bool all_equals = bin.in == need;
  int size = 64;
  while (size < want) size *= 2;
  for (int i = threadIdx.x; i < size; i += kFinish) shared.sorted[i] = 0;
  if (threadIdx.x == 0) shared.taken = 0;
  __syncthreads();
  each_logit(logits, ids, [&](int32_t id, float x) {
    const uint32_t key = key_of(x);
    if (key > border || (all_equals && key == border)) shared.sorted[atomicAdd(&shared.taken, 1)] = entry_of(key, id);
  });
  __syncthreads();
  if (!all_equals) take_lowest(shared, logits, ids, border, need);
  sort_falling(shared, size);
}

}  // namespace dsinfer::cuda
