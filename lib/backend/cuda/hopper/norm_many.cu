/// The routed sum, norm and quantisation of many tokens.
#include "row_stages.hpp"
#include "row_values.cuh"
#include "tma.cuh"

namespace dsinfer::hopper {
namespace {

constexpr int kDim = 7168, kThreads = kDim / 8, kWarps = kThreads / 32, kRowBytes = kDim * 2, kSlots = 15;
constexpr size_t kSharedBytes = 128 + kSlots * (kRowBytes + 16);
static_assert(kSharedBytes <= 226 * 1024);

// As add_norm_kernel of routed rows, the same bits. A block, as long as there are tokens: one warp keeps a ring full of rows (the experts',
// then the residual as two), so that memory is never waited for between tokens; the other 28 add them up as they come, 8 channels a thread.
__global__ void __launch_bounds__(kThreads + 32, 1) norm_many_kernel(const __grid_constant__ AddNorm a, int tokens) {
  extern __shared__ uint8_t raw[];
  __shared__ float scratch[2][kWarps];
  uint8_t* ring = raw + (128 - uint32_t(__cvta_generic_to_shared(raw)) % 128) % 128;
  const uint32_t ring_at = uint32_t(__cvta_generic_to_shared(ring)), full = ring_at + kSlots * kRowBytes, empty = full + kSlots * 8;
  const int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kSlots; ++s) barrier_init(full + s * 8, 1), barrier_init(empty + s * 8, kWarps);
    publish_barriers();
  }
  const size_t column = threadIdx.x % kThreads * 8;
  float w[8];
  load8(a.weight + column, w);
  __syncthreads();
  wait_for_producers();
  let_dependents_start();
  const bool shared_expert = a.shared_first >= 0;
  const int added = a.top_k + shared_expert;  // rows that come before the residual's two
  RingPlace<kSlots> place;
  // The pairs of a token, one a lane.
  auto slot_of = [&](int token) { return token < tokens && lane < a.top_k ? a.slot[size_t(token) * a.top_k + lane] : -1; };

  if (threadIdx.x >= kThreads) {
    int slot = slot_of(blockIdx.x);
    for (int token = blockIdx.x; token < tokens; token += gridDim.x) {
      const int next = slot_of(token + gridDim.x);
      for (int r = 0; r < added + 2; ++r, place.next()) {
        const int64_t row = r < a.top_k ? max(__shfl_sync(~0u, slot, r % 32), 0) : a.shared_first + token;
        if (lane == 0) {
          const void* from =
              r < added ? static_cast<const void*>(a.x + row * kDim) : a.residual + size_t(token) * kDim + (r - added) * (kDim / 2);
          const uint32_t ready = full + place.stage * 8;
          barrier_wait(empty + place.stage * 8, place.parity ^ 1);
          barrier_expect(ready, kRowBytes);
          copy_bytes(ring_at + place.stage * kRowBytes, from, kRowBytes, ready);
        }
        __syncwarp();
      }
      slot = next;
    }
    return;
  }

  auto weight_of = [&](int token) { return token < tokens && lane < a.top_k ? a.route_weight[size_t(token) * a.top_k + lane] : 0; };
  auto arrived = [&] {
    barrier_wait(full + place.stage * 8, place.parity);
    __syncwarp();  // lanes that saw it later than others
    return ring + place.stage * kRowBytes;
  };
  auto done = [&] {
    fence_async_proxy();  // what was read has arrived in registers before the copy engine writes there again
    __syncwarp();
    if (lane == 0) barrier_arrive(empty + place.stage * 8);
    place.next();
  };
  int slot = slot_of(blockIdx.x);
  float weight = weight_of(blockIdx.x);
  for (int token = blockIdx.x, turn = 0; token < tokens; token += gridDim.x, turn ^= 1) {
    const int next_slot = slot_of(token + gridDim.x);
    const float next_weight = weight_of(token + gridDim.x);
    float v[8], x[8], sum[8] = {};
    for (int k = 0; k < a.top_k; ++k) {
      load8(reinterpret_cast<const bf16*>(arrived()) + column, x);
      done();
      const float weight_here = __shfl_sync(~0u, weight, k);
      const bool routed = __shfl_sync(~0u, slot, k) >= 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] = fmaf(weight_here, routed ? x[i] : 0, sum[i]);  // a padding row's pairs went nowhere
    }
    if (shared_expert) {
      load8(reinterpret_cast<const bf16*>(arrived()) + column, x);
      done();
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] += x[i];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint8_t* row = arrived();
      if (int(threadIdx.x) / (kThreads / 2) == half) load8(reinterpret_cast<const float*>(row) + column % (kDim / 2), v);
      done();
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] += sum[i];
    float4* residual = reinterpret_cast<float4*>(a.residual + size_t(token) * kDim + column);
    residual[0] = make_float4(v[0], v[1], v[2], v[3]);
    residual[1] = make_float4(v[4], v[5], v[6], v[7]);
    float square = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) square += v[i] * v[i];
    square = warp_sum(square);
    if (lane == 0) scratch[turn][threadIdx.x / 32] = square;
    named_sync(1, kThreads);
    float total = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) total += scratch[turn][i];
    const float r = rsqrtf(total / kDim + a.eps);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = v[i] * r * w[i];
    if (a.out) {
      const uint4 packed{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
      *reinterpret_cast<uint4*>(a.out + size_t(token) * kDim + column) = packed;
    }
    if (a.q) store_quantised(v, a.q + size_t(token) * kDim + column, a.q_scale + size_t(token) * (kDim / 128) + column / 128, a.ue8m0);
    slot = next_slot, weight = next_weight;
  }
}

}  // namespace

cudaError_t routed_norm_many(const AddNorm& a, int tokens, int dim, cudaStream_t stream) {
  if (dim != kDim || !a.slot || a.top_k < 1 || a.top_k > 32) return cudaErrorInvalidValue;
  const int processors = multiprocessors();
  return start(norm_many_kernel, dim3(unsigned(tokens < processors ? tokens : processors)), kThreads + 32, kSharedBytes, stream, true, a,
               tokens);
}

}  // namespace dsinfer::hopper
