/// The head's product: a large bf16 matrix, read once, by up to 128 tokens.
#include "device.cuh"
#include "edges.hpp"
#include "wgmma.cuh"

namespace dsinfer::hopper {
namespace {

template <int kColumns>
struct HeadShape {
  // Warpgroups of a block: they take the 64-wide blocks of K in turns. Two row tiles each where tokens are many: half as much of x is read
  // again.
  static constexpr int kGroups = kColumns >= 64 ? 2 : 4, kRowTiles = kColumns >= 64 ? 2 : 1, kRows = 64 * kRowTiles;
  static constexpr int kThreads = 128 * kGroups;
  static constexpr int kWeightBytes = kRows * 128, kStageBytes = kWeightBytes + kColumns * 128;
  static constexpr int kChunk = kColumns < 16 ? kColumns : 16;  // columns summed at a time
  static constexpr int kStride = kRows + 4;
  static constexpr size_t shared_bytes(int stages) {
    return 1024 + size_t(kGroups) * stages * kStageBytes + size_t(kGroups) * kChunk * kStride * sizeof(float);
  }
};

struct HeadArgs {
  float* out;     // [tokens, n]
  const bf16* x;  // [tokens, k]
  const bf16* w;  // [n, k]
  int tokens, k;
  int64_t n;
};

// A block: kRows rows of w and all tokens; its warpgroups split K, each with a ring of kStages tiles of 64 channels that its own threads
// fill. Order of sums: blocks of a warpgroup, then warpgroups.
template <int kColumns, int kStages>
__global__ void __launch_bounds__(HeadShape<kColumns>::kThreads, 1) head_kernel(const __grid_constant__ HeadArgs a) {
  using Shape = HeadShape<kColumns>;
  constexpr int kGroups = Shape::kGroups, kRowTiles = Shape::kRowTiles, kRows = Shape::kRows, kStride = Shape::kStride,
                kChunk = Shape::kChunk;
  constexpr int kXUnits = kColumns * 8, kXLoads = (kXUnits + 127) / 128, kWLoads = kRows / 16;
  extern __shared__ uint8_t raw[];
  const uint32_t raw_address = uint32_t(__cvta_generic_to_shared(raw)), base = (raw_address + 1023) / 1024 * 1024;
  float* const partial = reinterpret_cast<float*>(raw + (base - raw_address) + size_t(kGroups) * kStages * Shape::kStageBytes);
  const int group = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int steps = (a.k / 64 - group + kGroups - 1) / kGroups;
  const int64_t num_tiles = (a.n + kRows - 1) / kRows, row_bytes = int64_t(a.k) * 2;
  const uint32_t ring = base + uint32_t(group) * kStages * Shape::kStageBytes;
  const int unit = thread % 8;

  // Filling the ring: a thread copies 16-byte unit (thread % 8) of rows thread / 8 + 16 i.
  auto commit = [] { asm volatile("cp.async.commit_group;" ::: "memory"); };
  const char* const w_bytes = reinterpret_cast<const char*>(a.w) + group * 128 + unit * 16;
  const char* const x_bytes = reinterpret_cast<const char*>(a.x) + group * 128 + unit * 16;
  auto copy_weights = [&](int64_t tile, int stage, int step) {
    const uint32_t to = ring + uint32_t(stage) * Shape::kStageBytes;
#pragma unroll
    for (int i = 0; i < kWLoads; ++i) {
      const int row = thread / 8 + 16 * i;
      const int64_t from = min(tile * kRows + row, a.n - 1);
      copy16(to + row * 128 + ((unit ^ (row % 8)) * 16), w_bytes + from * row_bytes + int64_t(step) * kGroups * 128, true);
    }
  };
  auto copy_tokens = [&](int stage, int step) {
    const uint32_t to = ring + uint32_t(stage) * Shape::kStageBytes + Shape::kWeightBytes;
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) {
      const int row = thread / 8 + 16 * i;
      if (kXUnits >= 128 || thread < kXUnits)
        copy16(to + row * 128 + ((unit ^ (row % 8)) * 16), x_bytes + min(row, a.tokens - 1) * row_bytes + int64_t(step) * kGroups * 128,
               row < a.tokens);
    }
  };
  int64_t issue_tile = blockIdx.x;
  int issue_step = 0;
  auto issue = [&](int stage) {
    if (issue_tile < num_tiles) {
      copy_weights(issue_tile, stage, issue_step), copy_tokens(stage, issue_step);
      if (++issue_step == steps) issue_step = 0, issue_tile += gridDim.x;
    }
    commit();
  };
  // The weights of the first stages do not wait for the kernel before. (steps ≥ kStages - 1 would be a limit on K: stages beyond wait.)
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s)
    if (s < steps && issue_tile < num_tiles) copy_weights(issue_tile, s, s);
  wait_for_producers();
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps && blockIdx.x < num_tiles) {
      copy_tokens(s, s);
      if (++issue_step == steps) issue_step = 0, issue_tile += gridDim.x;
      commit();
    } else {
      issue(s);
    }
  }
  let_dependents_start();

  int stage = 0;
  for (int64_t tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
    float sum[kRowTiles][kColumns / 2];
    for (int step = 0; step < steps; ++step) {
      asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
      fence_async_proxy();
      named_sync(group + 1, 128);
      const uint32_t weights = ring + uint32_t(stage) * Shape::kStageBytes, tokens = weights + Shape::kWeightBytes;
      wgmma_begin();
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
        for (int k = 0; k < 4; ++k)
          wgmma_bf16(sum[r], tile_descriptor(weights + r * 8192 + k * 32, 16), tile_descriptor(tokens + k * 32, 16), step > 0 || k > 0);
      wgmma_commit();
      issue(stage == 0 ? kStages - 1 : stage - 1);  // the stage that all had finished with at the barrier
      wgmma_finish();
      if (++stage == kStages) stage = 0;
    }
#pragma unroll
    for (int c = 0; c < kColumns; c += kChunk) {
      if (c > 0 && c >= a.tokens) break;
      float* slot = partial + group * kChunk * kStride + warp * 16 + g;
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
        for (int n = 0; n < kChunk / 8; ++n) {
          float* column = slot + r * 64 + (n * 8 + t * 2) * kStride;
          const float* s = sum[r] + (c / 8 + n) * 4;
          column[0] = s[0], column[kStride] = s[1], column[8] = s[2], column[kStride + 8] = s[3];
        }
      __syncthreads();
      for (int i = threadIdx.x; i < min(kChunk, a.tokens - c) * (kRows / 2); i += Shape::kThreads) {
        const int column = i / (kRows / 2), row = i % (kRows / 2) * 2;
        float2 v{0, 0};
#pragma unroll
        for (int p = 0; p < kGroups; ++p) {
          const float2 q = *reinterpret_cast<const float2*>(partial + (p * kChunk + column) * kStride + row);
          v.x += q.x, v.y += q.y;
        }
        if (tile * kRows + row < a.n) *reinterpret_cast<float2*>(a.out + (c + column) * a.n + tile * kRows + row) = v;
      }
      __syncthreads();
    }
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
}

template <int kColumns, int kStages>
cudaError_t run(const HeadArgs& a, cudaStream_t stream) {
  using Shape = HeadShape<kColumns>;
  static_assert(Shape::shared_bytes(kStages) <= 227 * 1024);
  const int64_t tiles = (a.n + Shape::kRows - 1) / Shape::kRows, resident = multiprocessors();
  return start(head_kernel<kColumns, kStages>, dim3(unsigned(tiles < resident ? tiles : resident)), Shape::kThreads,
               Shape::shared_bytes(kStages), stream, true, a);
}

__global__ void __launch_bounds__(256) to_bf16_kernel(bf16* out, const float* x, int64_t stride, int64_t rows, int64_t dim) {
  wait_for_producers();
  let_dependents_start();
  const int64_t i = (int64_t(blockIdx.x) * 256 + threadIdx.x) * 4;
  if (i >= rows * dim) return;
  const float4 v = *reinterpret_cast<const float4*>(x + i / dim * stride + i % dim);
  *reinterpret_cast<uint2*>(out + i) = uint2{pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)};
}

__global__ void __launch_bounds__(256) combine_kernel(bf16* out, const bf16* y, const int* slot, const float* weight, int64_t shared_first,
                                                      int64_t rows, int top_k, int64_t dim) {
  wait_for_producers();
  let_dependents_start();
  const int64_t i = (int64_t(blockIdx.x) * 256 + threadIdx.x) * 8, row = i / dim, column = i % dim;
  if (row >= rows) return;
  float sum[8] = {};
  auto add = [&](int64_t from, float w) {
    const uint4 v = *reinterpret_cast<const uint4*>(y + from * dim + column);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[2 * j] += w * bf16_low(words[j]), sum[2 * j + 1] += w * bf16_high(words[j]);
  };
  for (int k = 0; k < top_k; ++k)
    if (const int at = slot[row * top_k + k]; at >= 0) add(at, weight[row * top_k + k]);
  if (shared_first >= 0) add(shared_first + row, 1.0f);
  *reinterpret_cast<uint4*>(out + row * dim + column) =
      uint4{pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]), pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7])};
}

}  // namespace

cudaError_t to_bf16(bf16* out, const float* x, int64_t stride, int64_t rows, int64_t dim, cudaStream_t stream) {
  if (dim % 4 != 0 || stride % 4 != 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  return start(to_bf16_kernel, dim3(unsigned((rows * dim + 1023) / 1024)), 256, 0, stream, true, out, x, stride, rows, dim);
}

cudaError_t combine(bf16* out, const bf16* y, const int* slot, const float* weight, int64_t shared_first, int64_t rows, int top_k,
                    int64_t dim, cudaStream_t stream) {
  if (dim % 8 != 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  return start(combine_kernel, dim3(unsigned((rows * dim + 2047) / 2048)), 256, 0, stream, true, out, y, slot, weight, shared_first, rows,
               top_k, dim);
}

cudaError_t bf16_linear(float* out, const bf16* x, const bf16* w, int m, int64_t n, int k, cudaStream_t stream) {
  if (m > 128 || m < 0 || n % 2 != 0 || k % 64 != 0 || k < 256) return cudaErrorInvalidValue;
  if (m == 0 || n == 0) return cudaSuccess;
  const HeadArgs a{out, x, w, m, k, n};
  if (m <= 8) return run<8, 5>(a, stream);
  if (m <= 16) return run<16, 5>(a, stream);
  if (m <= 32) return run<32, 4>(a, stream);
  if (m <= 64) return run<64, 4>(a, stream);
  return run<128, 3>(a, stream);
}

}  // namespace dsinfer::hopper
