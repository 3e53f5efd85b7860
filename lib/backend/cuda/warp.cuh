/// What a warp does together, and how a kernel reports an index that cannot be.
#pragma once
#include "backend/cuda/kernels.hpp"

namespace dsinfer::cuda {

inline constexpr unsigned kAll = 0xffffffffu;

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAll, x, step));
  return x;
}

__device__ inline void report(FaultSink sink, FaultRecord::Kind kind, int32_t value, int64_t limit) {
  if (atomicCAS(sink.elected, 0, 1) != 0) return;
  volatile FaultRecord* record = sink.record;
  record->value = value;
  record->limit = limit;
  __threadfence_system();
  record->kind = kind;
}

inline unsigned blocks_of(int64_t items, int64_t per_block) { return static_cast<unsigned>((items + per_block - 1) / per_block); }

}  // namespace dsinfer::cuda
