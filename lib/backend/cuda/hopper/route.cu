/// The gate: logits, group-limited top-k, and the compact list of experts that have work. All on the device; nothing is read back.
#include "choose.cuh"
#include "device.cuh"
#include "hopper.hpp"
#include "route_many.hpp"
#include "run.cuh"

namespace dsinfer::hopper {
namespace {

// partial[part][t][e] = Σ_{k in part} x[t,k] · w[e,k], bf16 products in f32.  A block: 16 experts (A rows), one of kGateParts parts of K,
// up to 8 tokens at a time; 8 warps cut the part again; warps are added in their order.
constexpr int kGateWarps = 7;
__global__ void __launch_bounds__(32 * kGateWarps)
    gate_kernel(float* partial, const bf16* x, const bf16* w, int tokens, int experts, int hidden) {
  __shared__ float shared[kGateWarps][8][20];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int part_k = hidden / kGateParts, warp_k = part_k / kGateWarps;  // V3: 896, 128
  const int k0 = blockIdx.y * part_k + warp * warp_k + t * 8;
  const bf16* w0 = w + size_t(blockIdx.x * 16 + g) * hidden + k0;
  constexpr int kSteps = 4;  // of 32 channels: 128 channels a warp at a time
  uint4 a0[kSteps], a1[kSteps];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    a0[s] = load_once(w0 + s * 32);
    a1[s] = load_once(w0 + size_t(8) * hidden + s * 32);
  }
  wait_for_producers();
  let_dependents_start();
  uint4 b[kSteps];
  auto load = [&](int first) {
    const bf16* row = x + size_t(min(first + g, tokens - 1)) * hidden + k0;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) b[s] = *reinterpret_cast<const uint4*>(row + s * 32);
  };
  load(0);
  for (int first = 0; first < tokens; first += 8) {
    float sum[4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      mma_bf16(sum, a0[s].x, a1[s].x, a0[s].y, a1[s].y, b[s].x, b[s].y);
      mma_bf16(sum, a0[s].z, a1[s].z, a0[s].w, a1[s].w, b[s].z, b[s].w);
    }
    if (first + 8 < tokens) load(first + 8);  // the next tokens arrive while these are added up
    shared[warp][t * 2][g] = sum[0], shared[warp][t * 2 + 1][g] = sum[1];
    shared[warp][t * 2][g + 8] = sum[2], shared[warp][t * 2 + 1][g + 8] = sum[3];
    __syncthreads();
    if (threadIdx.x < 128) {
      const int column = threadIdx.x / 16, e = threadIdx.x % 16;
      float total = 0;
#pragma unroll
      for (int i = 0; i < kGateWarps; ++i) total += shared[i][column][e];
      if (first + column < tokens) partial[(size_t(blockIdx.y) * tokens + first + column) * experts + blockIdx.x * 16 + e] = total;
    }
    __syncthreads();
  }
}

constexpr int kRouteThreads = 256, kRouteWarps = kRouteThreads / 32;

// A warp chooses for one token. The block that ends last makes the list: pairs in runs of 32, whose equal experts find each other by match;
// thread e then owns expert e: adds up its runs of 32, which gives each pair its position, and writes its ExpertRuns. Nothing depends on
// which block that is.
__global__ void __launch_bounds__(kRouteThreads)
    route_kernel(const __grid_constant__ Routed out, const float* partial, const float* bias, const int* forced, int tokens,
                 const __grid_constant__ RouteOptions o, int run_tokens) {
  extern __shared__ uint16_t before[];  // [chunks of 32 pairs][256]: pairs of that expert in the chunk, then in the chunks ahead
  __shared__ int scratch[kRouteWarps], expert_first[256];
  __shared__ bool last;
  wait_for_producers();
  let_dependents_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pairs = tokens * o.top_k, chunks = (pairs + 31) / 32;
  if (const int token = blockIdx.x * kRouteWarps + warp; token < tokens)
    choose<kGateParts>(out, partial, bias, forced, token, tokens, o, lane);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(out.num_runs + 1, 1) == int(gridDim.x) - 1;
  for (int i = threadIdx.x; i < chunks * 128; i += kRouteThreads) reinterpret_cast<uint32_t*>(before)[i] = 0;
  __syncthreads();
  if (!last) return;
  __threadfence();

  for (int chunk = warp; chunk < chunks; chunk += kRouteWarps) {
    const int pair = chunk * 32 + lane, expert = pair < pairs ? __ldcg(out.experts + pair) : -1 - lane;
    const uint32_t same = __match_any_sync(~0u, expert);
    if (expert >= 0 && __ffs(int(same)) - 1 == lane) before[chunk * 256 + expert] = uint16_t(__popc(same));
  }
  __syncthreads();
  const int expert = threadIdx.x;
  int count = 0;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int here = before[chunk * 256 + expert];
    before[chunk * 256 + expert] = uint16_t(count);
    count += here;
  }
  int all = 0;
  const int first = exclusive_scan<kRouteWarps>(count, scratch, all);
  expert_first[expert] = first;
  const int runs = (count + run_tokens - 1) / run_tokens, shared_runs = o.shared ? (tokens + run_tokens - 1) / run_tokens : 0;
  int run = shared_runs + exclusive_scan<kRouteWarps>(runs, scratch, all);  // its barriers also publish expert_first
  for (int i = 0; i < runs; ++i, ++run)
    out.runs[run] = ExpertRun{expert, first + i * run_tokens, min(run_tokens, count - i * run_tokens), 0};
  for (int i = threadIdx.x; i < shared_runs; i += kRouteThreads)
    out.runs[i] = ExpertRun{o.experts, pairs + i * run_tokens, min(run_tokens, tokens - i * run_tokens), 0};
  if (threadIdx.x == 0) out.num_runs[0] = shared_runs + all, out.num_runs[1] = 0;
  for (int chunk = warp; chunk < chunks; chunk += kRouteWarps) {
    const int pair = chunk * 32 + lane, mine = pair < pairs ? __ldcg(out.experts + pair) : -1 - lane;
    const uint32_t same = __match_any_sync(~0u, mine);
    if (mine < 0) {
      if (pair < pairs) out.slot[pair] = -1;
      continue;
    }
    const int position = expert_first[mine] + before[chunk * 256 + mine] + __popc(same & ((1u << lane) - 1));
    out.slot[pair] = position;
    out.rows[position] = pair / o.top_k;
  }
  for (int token = threadIdx.x; token < tokens; token += kRouteThreads) out.rows[pairs + token] = token;
}

}  // namespace

int64_t max_runs(int64_t tokens, int64_t top_k, int64_t experts) {
  if (tokens > kManyTokens) {  // never fewer than for fewer tokens: what holds a step of the most tokens holds every step
    const int64_t size = kGemmRunTokens, most = max_runs(kManyTokens, top_k, experts);
    const int64_t runs = experts + tokens * top_k / size + (tokens + size - 1) / size;
    return runs < most ? most : runs;
  }
  const int64_t pairs = tokens * top_k, size = run_tokens_for(tokens);
  return (pairs < experts ? pairs : experts) + pairs / size + (tokens + size - 1) / size;
}

cudaError_t gate_logits(float* partial, const bf16* x, const bf16* w, int tokens, int experts, int hidden, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  if (tokens > kManyTokens) return gate_logits_many(partial, x, w, tokens, experts, hidden, stream);
  if (experts % 16 != 0 || hidden != kGateParts * kGateWarps * 128) return cudaErrorInvalidValue;
  return start(gate_kernel, dim3(unsigned(experts / 16), kGateParts), 32 * kGateWarps, 0, stream, true, partial, x, w, tokens, experts,
               hidden);
}

cudaError_t route(const Routed& out, const float* partial, const float* bias, const int* forced, int tokens, const RouteOptions& options,
                  cudaStream_t stream) {
  static_assert(sizeof(ExpertRun) == kExpertRunBytes);
  if (tokens == 0) return cudaSuccess;
  if (options.experts != 256 || options.n_group != 8 || options.top_k > 32) return cudaErrorInvalidValue;
  if (tokens > kManyTokens) return route_many(out, partial, bias, forced, tokens, options, stream);
  const size_t shared = size_t((tokens * options.top_k + 31) / 32) * 256 * sizeof(uint16_t);
  if (shared > 200 * 1024) return cudaErrorInvalidValue;
  return start(route_kernel, dim3(unsigned((tokens + kRouteWarps - 1) / kRouteWarps)), kRouteThreads, shared, stream, true, out, partial,
               bias, forced, tokens, options, run_tokens_for(tokens));
}

}  // namespace dsinfer::hopper
