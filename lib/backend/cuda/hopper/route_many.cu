#include "route_many.hpp"

#include "choose.cuh"
#include "run.cuh"

namespace dsinfer::hopper {
namespace {

constexpr int kExperts = 256, kThreads = 256, kWarps = kThreads / 32, kChooseThreads = 1024;  // 32 tokens at once

/// Tokens in chunks of `size`, the last with up to 2 · size - 1. A chunk's count of pairs per expert stands in its own part of `slot` until
/// its positions do: size · top_k ≥ 256.
struct Chunks {
  int size, count;
  __device__ int first(int chunk) const { return chunk * size; }
  __device__ int tokens(int chunk, int all) const { return chunk + 1 == count ? all - chunk * size : size; }
};

// A block: the choices of one chunk's tokens, a warp a token, and how many went to each expert.
__global__ void __launch_bounds__(kChooseThreads)
    choose_kernel(const __grid_constant__ Routed out, const float* partial, const float* bias, const int* forced, int tokens,
                  const __grid_constant__ RouteOptions o, Chunks chunks) {
  __shared__ int counts[kExperts];
  if (threadIdx.x < kExperts) counts[threadIdx.x] = 0;
  wait_for_producers();
  let_dependents_start();
  const int first = chunks.first(blockIdx.x), here = chunks.tokens(blockIdx.x, tokens);
  for (int i = threadIdx.x / 32; i < here; i += kChooseThreads / 32)
    choose<kManyGateParts>(out, partial, bias, forced, first + i, tokens, o, threadIdx.x % 32);
  __syncthreads();
  for (int i = threadIdx.x; i < here * o.top_k; i += kChooseThreads)
    if (const int expert = out.experts[first * o.top_k + i]; expert >= 0) atomicAdd(&counts[expert], 1);
  __syncthreads();
  if (threadIdx.x < kExperts) out.slot[first * o.top_k + threadIdx.x] = counts[threadIdx.x];
}

// One block. Thread e of each quarter owns expert e in a quarter of the chunks: counts become the position of the chunk's first pair of
// that expert. Then the runs: the shared expert's, which are bound by arithmetic, stand evenly between the others, which are bound by
// memory.
__global__ void __launch_bounds__(1024)
    runs_kernel(const __grid_constant__ Routed out, int tokens, const __grid_constant__ RouteOptions o, Chunks chunks) {
  constexpr int kAhead = 8;  // loads in flight
  __shared__ int quarter_sum[4][kExperts], firsts[kExperts], scratch[32];
  wait_for_producers();
  let_dependents_start();
  const int expert = threadIdx.x % kExperts, quarter = threadIdx.x / kExperts;
  const int begin = chunks.count * quarter / 4, end = chunks.count * (quarter + 1) / 4, stride = chunks.size * o.top_k;
  int* counts = out.slot + expert;
  int sum = 0;
#pragma unroll kAhead
  for (int c = begin; c < end; ++c) sum += counts[size_t(c) * stride];
  quarter_sum[quarter][expert] = sum;
  __syncthreads();
  const int count = quarter == 0 ? quarter_sum[0][expert] + quarter_sum[1][expert] + quarter_sum[2][expert] + quarter_sum[3][expert] : 0;
  int all = 0;
  const int first = exclusive_scan<kExperts / 32>(count, scratch, all);
  if (quarter == 0) firsts[expert] = first;
  constexpr int kSize = kGemmRunTokens;
  const int runs = (count + kSize - 1) / kSize, shared_runs = o.shared ? (tokens + kSize - 1) / kSize : 0;
  const int before = exclusive_scan<kExperts / 32>(runs, scratch, all);      // its barriers also publish firsts
  const int step = shared_runs > 0 ? (all + shared_runs) / shared_runs : 0;  // shared run s is number s · step
  auto number = [&](int routed) { return routed + (step < 2 ? shared_runs : min(routed / (step - 1) + 1, shared_runs)); };
  for (int i = 0; i < runs; ++i) out.runs[number(before + i)] = ExpertRun{expert, first + i * kSize, min(kSize, count - i * kSize), 0};
  for (int i = threadIdx.x; i < shared_runs; i += 1024)
    out.runs[step < 2 ? i : i * step] = ExpertRun{o.experts, tokens * o.top_k + i * kSize, min(kSize, tokens - i * kSize), 0};
  if (threadIdx.x == 0) out.num_runs[0] = shared_runs + all, out.num_runs[1] = 0;
  int position = firsts[expert];
  for (int q = 0; q < quarter; ++q) position += quarter_sum[q][expert];
  for (int c = begin; c < end; c += kAhead) {
    int here[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) here[i] = c + i < end ? counts[size_t(c + i) * stride] : 0;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (c + i < end) counts[size_t(c + i) * stride] = position;
      position += here[i];
    }
  }
}

// A block: the positions of one chunk's pairs, in runs of 32 whose equal experts find each other by match.
__global__ void __launch_bounds__(kThreads)
    place_kernel(const __grid_constant__ Routed out, int tokens, const __grid_constant__ RouteOptions o, Chunks chunks) {
  extern __shared__ int before[];  // [runs of 32 pairs][256]
  wait_for_producers();
  let_dependents_start();
  const int first = chunks.first(blockIdx.x), here = chunks.tokens(blockIdx.x, tokens), pairs = here * o.top_k, groups = (pairs + 31) / 32,
            lane = threadIdx.x % 32;
  const int* experts = out.experts + first * o.top_k;
  int position = out.slot[first * o.top_k + threadIdx.x];
  for (int i = threadIdx.x; i < groups * kExperts; i += kThreads) before[i] = 0;
  __syncthreads();
  for (int group = threadIdx.x / 32; group < groups; group += kWarps) {
    const int pair = group * 32 + lane, expert = pair < pairs ? experts[pair] : -1;
    const uint32_t same = __match_any_sync(~0u, expert);
    if (expert >= 0 && __ffs(int(same)) - 1 == lane) before[group * kExperts + expert] = __popc(same);
  }
  __syncthreads();
  for (int group = 0; group < groups; ++group) {
    const int count = before[group * kExperts + threadIdx.x];
    before[group * kExperts + threadIdx.x] = position;
    position += count;
  }
  __syncthreads();
  for (int group = threadIdx.x / 32; group < groups; group += kWarps) {
    const int pair = group * 32 + lane, expert = pair < pairs ? experts[pair] : -1;
    const uint32_t same = __match_any_sync(~0u, expert);
    if (pair >= pairs) continue;
    const int at = expert < 0 ? -1 : before[group * kExperts + expert] + __popc(same & ((1u << lane) - 1));
    out.slot[first * o.top_k + pair] = at;
    if (at >= 0) out.rows[at] = first + pair / o.top_k;
  }
  for (int i = threadIdx.x; i < here; i += kThreads) out.rows[tokens * o.top_k + first + i] = first + i;
}

}  // namespace

cudaError_t route_many(const Routed& out, const float* partial, const float* bias, const int* forced, int tokens,
                       const RouteOptions& options, cudaStream_t stream) {
  const int size = max(32, (kExperts + options.top_k - 1) / options.top_k);
  const Chunks chunks{size, tokens / size};
  const size_t shared = size_t((2 * size * options.top_k + 31) / 32) * kExperts * sizeof(int);
  if (chunks.count < 1 || shared > 160 * 1024) return cudaErrorInvalidValue;
  cudaError_t status = start(choose_kernel, dim3(unsigned(chunks.count)), kChooseThreads, 0, stream, true, out, partial, bias, forced,
                             tokens, options, chunks);
  if (status == cudaSuccess) status = start(runs_kernel, dim3(1), 1024, 0, stream, true, out, tokens, options, chunks);
  if (status == cudaSuccess)
    status = start(place_kernel, dim3(unsigned(chunks.count)), kThreads, shared, stream, true, out, tokens, options, chunks);
  return status;
}

}  // namespace dsinfer::hopper
