#include "device.cuh"
#include "route_many.hpp"
#include "tma.cuh"
#include "wgmma.cuh"

namespace dsinfer::hopper {
namespace {

struct GateArgs {
  CUtensorMap x, w;  // boxes of 64 channels by 128 tokens, by 128 experts
  float* partial;
  int tokens, part_blocks;  // 64 channels each
};

constexpr int kTokens = 128, kExperts = 256, kColumns = 128, kStages = 6, kTokenBytes = kTokens * 128,
              kStageBytes = kTokenBytes + kColumns * 128;
constexpr size_t kSharedBytes = 1024 + kStages * (kStageBytes + 16);

// partial[part][t][e] = Σ_{k in part} x[t,k] · w[e,k], bf16 products in f32.  A block: 128 tokens, half of the experts, one part of K; two
// warpgroups of 64 tokens by 128 experts, and one that fills the ring. Of 4096 tokens that is one wave of 128 blocks.
__global__ void __launch_bounds__(384, 1) gate_many_kernel(const __grid_constant__ GateArgs a) {
  extern __shared__ uint8_t raw[];
  const uint32_t ring = (uint32_t(__cvta_generic_to_shared(raw)) + 1023) / 1024 * 1024, full = ring + kStages * kStageBytes,
                 empty = full + kStages * 8;
  const int group = __shfl_sync(~0u, int(threadIdx.x / 128), 0), thread = threadIdx.x % 128, lane = thread % 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) barrier_init(full + s * 8, 1), barrier_init(empty + s * 8, 8);
    publish_barriers();
  }
  __syncthreads();
  wait_for_producers();
  let_dependents_start();
  const int first = blockIdx.x * kTokens, expert = blockIdx.y * kColumns, column = blockIdx.z * a.part_blocks * 64;
  RingPlace<kStages> place;
  if (group == 2) {
    give_registers<24>();
    if (thread == 0)
      for (int b = 0; b < a.part_blocks; ++b, place.next()) {
        const uint32_t to = ring + place.stage * kStageBytes, ready = full + place.stage * 8;
        barrier_wait(empty + place.stage * 8, place.parity ^ 1);
        barrier_expect(ready, kStageBytes);
        copy_box(to, a.x, column + b * 64, first, ready);
        copy_box(to + kTokenBytes, a.w, column + b * 64, expert, ready);
      }
    return;
  }
  take_registers<240>();
  float sum[64];
  for (int b = 0; b < a.part_blocks; ++b, place.next()) {
    const uint32_t x = ring + place.stage * kStageBytes + group * 64 * 128, w = ring + place.stage * kStageBytes + kTokenBytes;
    barrier_wait(full + place.stage * 8, place.parity);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_bf16(sum, tile_descriptor(x + k * 32, 16), tile_descriptor(w + k * 32, 16), b + k > 0);
    wgmma_commit();
    wgmma_finish();
    if (lane == 0) barrier_arrive(empty + place.stage * 8);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = first + group * 64 + thread / 32 * 16 + lane / 4 + half * 8;
    if (token >= a.tokens) continue;
    float* row = a.partial + (size_t(blockIdx.z) * a.tokens + token) * kExperts + expert + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < 16; ++j) *reinterpret_cast<float2*>(row + j * 8) = make_float2(sum[j * 4 + half * 2], sum[j * 4 + half * 2 + 1]);
  }
}

}  // namespace

cudaError_t gate_logits_many(float* partial, const bf16* x, const bf16* w, int tokens, int experts, int hidden, cudaStream_t stream) {
  if (experts != kExperts || hidden % (kManyGateParts * 64) != 0) return cudaErrorInvalidValue;
  GateArgs a{};
  a.partial = partial, a.tokens = tokens, a.part_blocks = hidden / kManyGateParts / 64;
  cudaError_t status = encode(a.x, {x, tokens, hidden, int64_t(hidden) * 2, 2, kTokens});
  if (status == cudaSuccess) status = encode(a.w, {w, experts, hidden, int64_t(hidden) * 2, 2, kColumns});
  if (status != cudaSuccess) return status;
  return start(gate_many_kernel, dim3(unsigned((tokens + kTokens - 1) / kTokens), kExperts / kColumns, kManyGateParts), 384, kSharedBytes,
               stream, true, a);
}

}  // namespace dsinfer::hopper
