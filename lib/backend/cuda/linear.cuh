/// The one product kernel. A warp makes C outputs for R rows; its lanes split the depth, so that weights are read once, 16 bytes a lane.
/// Order of a sum: lane l adds the numbers of its 16-byte groups l, l+32, … of each chunk in order, then lanes are folded by 16, 8, 4, 2, 1.
/// It depends on the weight alone: R and C, chosen by what else is in the call, change no bit.
#pragma once
#include "backend/cuda/decode.cuh"
#include "backend/cuda/warp.cuh"

namespace dsinfer::cuda {

inline constexpr int kWarps = 8, kChunk = 1024;  // columns of x in shared memory at a time: 32 KiB for 8 rows

// Where column k of a chunk lies in shared memory: so that the lanes' float4 reads of one quad lie side by side.
template <int V> __device__ inline int place_of(int k) {
  if constexpr (V == 1) return k;
  const int group = k / V, in_group = k % V;
  return (group / 32 * V + in_group / 4 * 4) * 32 + group % 32 * 4 + in_group % 4;
}

// Columns [k0, k0 + length) of R rows to shared memory. Four at a time, neighbouring threads taking neighbouring groups, so that what they write lies side by side.
template <int V, int R> __device__ inline void stage(float (&xs)[R][kChunk], const float* const (&x)[R], int rows, int k0, int length, bool by_four) {
  if constexpr (V > 1) {
    if (by_four) {
      const int groups = length / V;
      for (int i = threadIdx.x; i < groups * (V / 4); i += kWarps * 32) {
        const int k = i % groups * V + i / groups * 4;
#pragma unroll
        for (int r = 0; r < R; ++r) *reinterpret_cast<float4*>(&xs[r][place_of<V>(k)]) = r < rows ? *reinterpret_cast<const float4*>(x[r] + k0 + k) : float4{0, 0, 0, 0};
      }
      return;
    }
  }
  for (int i = threadIdx.x; i < length; i += kWarps * 32) {
#pragma unroll
    for (int r = 0; r < R; ++r) xs[r][place_of<V>(i)] = r < rows ? x[r][k0 + i] : 0.0f;
  }
}

template <Format F, int R, int C, bool kAligned>
__global__ void __launch_bounds__(kWarps * 32, 2) linear_kernel(const LinearCall call) {
  constexpr int V = kAligned ? kPerLoad<F> : 1;
  __shared__ __align__(16) float xs[R][kChunk];
  const LinearShape& s = call.shape;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  LinearWeight w = call.weight;
  int row = blockIdx.y * R, rows = min(R, call.rows - row);
  if (call.tiles) {
    const LinearTile tile = call.tiles[blockIdx.y];
    if (tile.rows == 0) return;
    w = call.experts[tile.expert];
    row = tile.row;
    rows = tile.rows;
  }
  w.data += blockIdx.z * call.head_stride;
  const float* x[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int from = row + min(r, rows - 1);
    x[r] = call.x.data + (call.gather ? call.gather[from] : from) * call.x.stride + blockIdx.z * call.x.inner;
  }
  const int first = (blockIdx.x * kWarps + warp) * C;
  const std::byte* data[C];
#pragma unroll
  for (int c = 0; c < C; ++c) data[c] = w.data + min(first + c, s.n - 1) * s.stride;
  float acc[R][C] = {};
  for (int k0 = 0; k0 < s.k; k0 += kChunk) {
    const int length = min(kChunk, s.k - k0);
    __syncthreads();
    stage<V, R>(xs, x, rows, k0, length, call.x_aligned);
    __syncthreads();
    if (first >= s.n) continue;
#pragma unroll(R == 1 ? 2 : 1)
    for (int g = lane; g * V < length; g += 32) {
      const int k = k0 + g * V;
      const unsigned block = static_cast<unsigned>(k) / static_cast<unsigned>(s.block_cols);
      if constexpr (kAligned) {
        uint4 raw[C];
        BlockScale scale[C];
#pragma unroll
        for (int c = 0; c < C; ++c) raw[c] = __ldg(reinterpret_cast<const uint4*>(data[c]) + k / V);
#pragma unroll
        for (int c = 0; c < C; ++c) scale[c] = block_scale<F>(w, s, min(first + c, s.n - 1), block);
#pragma unroll
        for (int q = 0; q < V / 4; ++q) {
          float ws[C][4];
#pragma unroll
          for (int c = 0; c < C; ++c) decode4<F>(ws[c], raw[c], q, scale[c]);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            const float4 v = *reinterpret_cast<const float4*>(&xs[r][place_of<V>(g * V + 4 * q)]);
#pragma unroll
            for (int c = 0; c < C; ++c) {
              acc[r][c] = fmaf(v.x, ws[c][0], acc[r][c]);
              acc[r][c] = fmaf(v.y, ws[c][1], acc[r][c]);
              acc[r][c] = fmaf(v.z, ws[c][2], acc[r][c]);
              acc[r][c] = fmaf(v.w, ws[c][3], acc[r][c]);
            }
          }
        }
      } else {
#pragma unroll
        for (int c = 0; c < C; ++c) {
          const float value = decode1<F>(data[c], k, block_scale<F>(w, s, min(first + c, s.n - 1), block));
#pragma unroll
          for (int r = 0; r < R; ++r) acc[r][c] = fmaf(xs[r][g], value, acc[r][c]);
        }
      }
    }
  }
  if (first >= s.n) return;
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int c = 0; c < C; ++c) {
      const float total = warp_sum(acc[r][c]);
      if (lane == (r * C + c) % 32 && r < rows && first + c < s.n) call.out.data[(row + r) * call.out.stride + blockIdx.z * call.out.inner + first + c] = total;
    }
  }
}

template <Format F, int R, int C, bool kAligned> void launch_linear(const LinearCall& call, cudaStream_t stream) {
  const unsigned tiles = call.tiles ? static_cast<unsigned>(call.num_tiles) : blocks_of(call.rows, R);
  constexpr unsigned kMostTiles = 65535;  // of grid.y
  for (unsigned begin = 0; begin < tiles; begin += kMostTiles) {
    LinearCall part = call;
    const unsigned count = tiles - begin < kMostTiles ? tiles - begin : kMostTiles;
    if (call.tiles) {
      part.tiles += begin;
    } else {
      part.x.data += int64_t{begin} * R * call.x.stride;
      part.out.data += int64_t{begin} * R * call.out.stride;
      part.rows -= static_cast<int32_t>(begin) * R;
    }
    linear_kernel<F, R, C, kAligned><<<dim3(blocks_of(call.shape.n, kWarps * C), count, static_cast<unsigned>(call.heads)), kWarps * 32, 0, stream>>>(part);
  }
}

/// One row alone, or tiles of kTileRows; C so that all multiprocessors have work. (More shapes would gain little and compile long.)
template <Format F> void linear_of(const LinearCall& call, int multiprocessors, cudaStream_t stream) {
  if (!call.shape.aligned) return launch_linear<F, kTileRows, 1, false>(call, stream);
  const int64_t tiles = call.tiles ? call.num_tiles : blocks_of(call.rows, kTileRows);
  const bool wide = int64_t{blocks_of(call.shape.n, kWarps * 4)} * tiles * call.heads >= 2 * multiprocessors;
  if (call.tiles || call.rows > 1) return wide ? launch_linear<F, kTileRows, 4, true>(call, stream) : launch_linear<F, kTileRows, 1, true>(call, stream);
  return wide ? launch_linear<F, 1, 4, true>(call, stream) : launch_linear<F, 1, 1, true>(call, stream);
}

}  // namespace dsinfer::cuda
