/// Rows in the order of the experts that they go to.
#include "device.cuh"
#include "prefill.hpp"
#include "tma.cuh"

namespace dsinfer::hopper {
namespace {

// A block, one warp: a token's row and scales once into shared memory, from there to each of its positions, a lane a position. The copy
// engine moves the bytes; blocks are many, so that it always has some.
__global__ void __launch_bounds__(32)
    sort_kernel(uint8_t* sorted, float* sorted_scale, Fp8Rows x, const int* slot, int tokens, int top_k, bool shared_expert, int k) {
  extern __shared__ __align__(128) uint8_t raw[];
  __shared__ uint64_t landed;
  const int lane = threadIdx.x, blocks = k / 128;
  const size_t token = blockIdx.x;
  const uint32_t row = uint32_t(__cvta_generic_to_shared(raw)), barrier = uint32_t(__cvta_generic_to_shared(&landed));
  if (lane == 0) barrier_init(barrier, 1), publish_barriers();
  __syncwarp();
  wait_for_producers();
  let_dependents_start();
  if (lane == 0) {
    barrier_expect(barrier, k + blocks * 4);
    copy_bytes(row, x.data + token * k, k, barrier);
    copy_bytes(row + k, x.scale + token * blocks, blocks * 4, barrier);
  }
  const int64_t position = lane < top_k                     ? slot[token * top_k + lane]
                           : lane == top_k && shared_expert ? int64_t(tokens) * top_k + int64_t(token)
                                                            : -1;
  barrier_wait(barrier, 0);
  if (position < 0) return;  // a padding row's pairs go nowhere
  store_bytes(sorted + position * k, row, k);
  store_bytes(sorted_scale + position * blocks, row + k, blocks * 4);
  commit_stores();
  await_store_reads();
}

}  // namespace

cudaError_t sort_rows(uint8_t* sorted, float* sorted_scale, Fp8Rows x, const Routed& routed, int tokens, const RouteOptions& options, int k,
                      cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  if (k % 512 != 0 || k > 32768 || options.top_k > 31) return cudaErrorInvalidValue;
  return start(sort_kernel, dim3(unsigned(tokens)), 32, size_t(k) + size_t(k) / 32, stream, true, sorted, sorted_scale, x, routed.slot,
               tokens, options.top_k, options.shared, k);
}

}  // namespace dsinfer::hopper
