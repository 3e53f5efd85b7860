/// Products on the matrix unit (mma.sync, sm_80 and later) for weights whose numbers bf16 holds exactly: bf16, E4M3 and 4-bit numbers less their zero.
/// An activation goes in as three bf16 numbers whose sum it is, so products are exact. The depth goes in blocks of 128: a block's products are added in the
/// unit, times the block's scale where there is one, then block by block in f32; deep sums are cut into parts, added in order.
/// The order of a sum depends on the depth alone: neither tile shapes, chosen by what else is in the call, nor which outputs a rank holds change a bit.
#pragma once
#include "backend/cuda/tensor_units.cuh"
#include "backend/cuda/warp.cuh"

namespace dsinfer::cuda {

/// Eights of tokens and sixteens of outputs of a warp, warps of a block, stages of its pipeline, and whether its warps share the depth's parts (or outputs alone).
template <int kTokens, int kRows, int kWarps, int kStages, bool kShare> struct TensorTile {
  static constexpr int tokens = 8 * kTokens, rows = 16 * kRows, warps = kWarps, stages = kStages;
  static constexpr bool share = kShare;
};
/// So that a block takes no more than 96 KiB, which every GPU of sm_80 and later gives.
template <Format F> using NarrowTile = TensorTile<1, 1, 8, F == Format::bf16 ? 2 : F == Format::fp8_block ? 3 : 4, true>;
template <Format F> using MiddleTile = TensorTile<4, 1, 4, F == Format::bf16 ? 3 : 4, false>;
template <Format F> using WideTile = TensorTile<4, 2, 4, F == Format::bf16 ? 2 : F == Format::fp8_block ? 3 : 4, false>;

/// Parts of a depth of so many blocks.
__host__ __device__ inline int depth_parts(int blocks) { return blocks < 8 ? 1 : blocks < 32 ? 2 : 4; }

template <Format F, class Tile> constexpr int tensor_shared(int parts) {
  const int x = (Tile::share ? parts : 1) * Tile::tokens * kDepth * 4, w = Tile::warps * Tile::rows * Stored<F>::kBytes, sums = Tile::share ? Tile::warps * 32 * 16 : 0;
  return Tile::stages * (x + w) > sums ? Tile::stages * (x + w) : sums;
}

template <Format F, class Tile> struct TensorProduct {
  using S = Stored<F>;
  static constexpr int kTiles = Tile::rows / 16, kEights = Tile::tokens / 8, kThreads = Tile::warps * 32;
  static constexpr int kLoads = kTiles * 2 * S::kPieces;  // of a lane for a block
  static constexpr int kWeightBytes = kThreads * kLoads * 16, kPartBytes = Tile::tokens * kDepth * 4, kMyTokens = Tile::tokens / Tile::warps;
  static_assert(kDepth / 4 == 32, "a warp copies a token's block");

  const LinearCall& call;
  char* shared;
  int lane, warp, first_row, rows, first;  // first: output of this warp
  int blocks, parts, part, stage_bytes;    // of the depth; part: of this warp, where warps share the depth
  const float* x[kMyTokens];               // every Tile::warps-th token from `warp` on; their numbers 4 · lane …
  const std::byte* data[kTiles][2];        // this lane's rows and piece
  const std::byte* scale[kTiles][2];
  const uint8_t* zeros;
  int64_t zeros_at[kTiles][2];
  int ratio;                               // blocks of the depth that share a scale

  __device__ TensorProduct(const LinearCall& c, const LinearWeight& w, char* memory, int first_row_, int rows_, int row_block)
      : call(c), shared(memory), lane(threadIdx.x % 32), warp(threadIdx.x / 32), first_row(first_row_), rows(rows_), blocks(c.shape.k / kDepth), parts(depth_parts(blocks)) {
    const LinearShape& s = c.shape;
    const int sharing = Tile::share ? parts : 1;
    part = warp % sharing;
    first = (row_block * (Tile::warps / sharing) + warp / sharing) * Tile::rows;
    stage_bytes = sharing * kPartBytes + kWeightBytes;
    ratio = s.block_cols / kDepth;
    zeros = w.zeros;
#pragma unroll
    for (int i = 0; i < kMyTokens; ++i) {
      const int64_t row = first_row + min(warp + i * Tile::warps, rows - 1);
      x[i] = c.x.data + (c.gather ? c.gather[row] : row) * c.x.stride + blockIdx.z * c.x.inner + lane * 4;
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int n = min(first + tile * 16 + half * 8 + lane / 4, s.n - 1);
        data[tile][half] = w.data + n * s.stride + lane % 4 * 16;
        if constexpr (F == Format::fp8_block) scale[tile][half] = w.scale + n / s.block_rows * s.scale_stride * 4;
        if constexpr (F == Format::int4_group) {
          scale[tile][half] = w.scale + n * s.scale_stride * dtype_bytes(s.scale_dtype);
          zeros_at[tile][half] = int64_t{n} * (s.k / s.block_cols);
        }
      }
  }

  __device__ static int dtype_bytes(DType dtype) { return dtype == DType::f32 ? 4 : 2; }
  __device__ char* x_stage(int stage) const { return shared + stage * stage_bytes; }
  __device__ char* w_stage(int stage) const { return x_stage(stage) + stage_bytes - kWeightBytes; }
  __device__ int begin_of(int p) const { return static_cast<int>(static_cast<unsigned>(p * blocks) / static_cast<unsigned>(parts)); }
  // The blocks of this warp.
  __device__ int begin() const { return Tile::share ? begin_of(part) : 0; }
  __device__ int end() const { return Tile::share ? begin_of(part + 1) : blocks; }

  /// Block `block` of the depth, or of every part, to a stage. A lane loads its own weights, the block's threads the activations.
  __device__ void load(int stage, int block) const {
    const int swizzled = lane ^ S::swizzle(warp, lane);  // a thread's tokens are all odd or all even
    char* to_x = x_stage(stage) + (warp * 32 + swizzled) * 16;
    for (int p = 0; p < (Tile::share ? parts : 1); ++p) {
      const int at = (Tile::share ? begin_of(p) : 0) + block;
      const bool in_part = at < (Tile::share ? begin_of(p + 1) : blocks);
#pragma unroll
      for (int i = 0; i < kMyTokens; ++i) {
        load_async(to_x + p * kPartBytes + i * kThreads * 16, x[i] + (in_part ? at * kDepth : 0), in_part && warp + i * Tile::warps < rows);
      }
    }
    const int at = begin() + block;
    if (at < end()) {
      char* to = w_stage(stage) + threadIdx.x * 16;
#pragma unroll
      for (int l = 0; l < kLoads; ++l) load_async(to + l * kThreads * 16, data[l / S::kPieces / 2][l / S::kPieces % 2] + at * S::kBytes + l % S::kPieces * 64, true);
    }
    commit_loads();
  }

  __device__ void scales(BlockScale (&out)[kTiles][2], int at) const {
    if constexpr (F == Format::bf16) return;
    const int block = ratio == 1 ? at : at / ratio;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        out[tile][half].scale = F == Format::fp8_block ? __ldg(reinterpret_cast<const float*>(scale[tile][half]) + block) : scale_at(scale[tile][half], call.shape.scale_dtype, block);
        if constexpr (F == Format::int4_group) {
          const int64_t i = zeros_at[tile][half] + block;
          out[tile][half].zero = static_cast<float>(zeros ? zeros[i / 2] >> (i % 2 * 4) & 0xf : 8);
        }
      }
  }

  /// sum += a block's products, of all tokens or of the eights that are there.
  template <bool kWhole> __device__ void take(float (&sum)[kTiles][kEights][4], int stage, const BlockScale (&scale)[kTiles][2]) const {
    float of_lower[kTiles][kEights][4] = {}, of_upper[kTiles][kEights][4] = {};
    const char *x = x_stage(stage) + (Tile::share ? part * kPartBytes : 0), *mine = w_stage(stage) + threadIdx.x * 16;
    const int t = lane % 4, g = lane / 4;
    uint4 raw[kTiles][2][S::kPieces];
#pragma unroll
    for (int l = 0; l < kLoads; ++l) raw[l / S::kPieces / 2][l / S::kPieces % 2][l % S::kPieces] = *reinterpret_cast<const uint4*>(mine + l * kThreads * 16);
#pragma unroll
    for (int unit = 0; unit < 4; ++unit) {
      uint32_t a[kTiles][2][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half) unit_of<F>(a[tile][half], reinterpret_cast<const uint32_t*>(raw[tile][half]), unit, scale[tile][half].zero);
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
        if (!kWhole && 8 * e >= rows) break;
        const int token = 8 * e + g, chunk = S::column(t, unit) / 4;
        float v[8];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float4 four = *reinterpret_cast<const float4*>(x + (token * (kDepth / 4) + ((chunk + i) ^ S::swizzle(token, chunk + i))) * 16);
          v[4 * i] = four.x, v[4 * i + 1] = four.y, v[4 * i + 2] = four.z, v[4 * i + 3] = four.w;
        }
        uint32_t upper[4], middle[4], lower[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          float &first_of = v[S::pair(r, 0)], &second_of = v[S::pair(r, 1)];
          upper[r] = take_upper(first_of, second_of);
          middle[r] = take_upper(first_of, second_of);
          lower[r] = take_upper(first_of, second_of);
        }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const auto& m = a[tile];
          mma(of_lower[tile][e], m[0][0], m[1][0], m[0][1], m[1][1], lower[0], lower[1]);
          mma(of_lower[tile][e], m[0][2], m[1][2], m[0][3], m[1][3], lower[2], lower[3]);
          mma(of_lower[tile][e], m[0][0], m[1][0], m[0][1], m[1][1], middle[0], middle[1]);
          mma(of_lower[tile][e], m[0][2], m[1][2], m[0][3], m[1][3], middle[2], middle[3]);
          mma(of_upper[tile][e], m[0][0], m[1][0], m[0][1], m[1][1], upper[0], upper[1]);
          mma(of_upper[tile][e], m[0][2], m[1][2], m[0][3], m[1][3], upper[2], upper[3]);
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int e = 0; e < kEights; ++e)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float products = of_lower[tile][e][i] + of_upper[tile][e][i];
          sum[tile][e][i] = F == Format::bf16 ? sum[tile][e][i] + products : fmaf(scale[tile][i / 2].scale, products, sum[tile][e][i]);
        }
  }

  /// sum := this warp's blocks, after each of which done(block) is called.
  template <class Done> __device__ void run(float (&sum)[kTiles][kEights][4], const Done& done) const {
    const int most = Tile::share ? (blocks + parts - 1) / parts : blocks, own = end() - begin();
    for (int s = 0; s < Tile::stages - 1; ++s) {
      if (s < most) load(s, s);
      else commit_loads();
    }
    BlockScale now[kTiles][2], next[kTiles][2];
    if (own > 0) scales(next, begin());
    for (int b = 0; b < most; ++b) {
      wait_loads<Tile::stages - 2>();
      __syncthreads();
      if (b + Tile::stages - 1 < most) load((b + Tile::stages - 1) % Tile::stages, b + Tile::stages - 1);
      else commit_loads();
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) now[tile][0] = next[tile][0], now[tile][1] = next[tile][1];
      if (b + 1 < own) scales(next, begin() + b + 1);
      if (b >= own) continue;
      if (rows > Tile::tokens - 8) take<true>(sum, b % Tile::stages, now);
      else take<false>(sum, b % Tile::stages, now);
      done(b);
    }
    wait_loads<0>();
    __syncthreads();
  }

  /// Calls each(token, output, value&) for what this lane holds.
  template <class Each> __device__ void visit(float (&sum)[kTiles][kEights][4], const Each& each) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int e = 0; e < kEights; ++e)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int token = 8 * e + lane % 4 * 2 + i % 2, n = first + tile * 16 + i / 2 * 8 + lane / 4;
          if (token < rows && n < call.shape.n) each(call.out.data + (first_row + token) * call.out.stride + blockIdx.z * call.out.inner + n, sum[tile][e][i]);
        }
  }
};

template <Format F, class Tile> __global__ void __launch_bounds__(Tile::warps * 32) tensor_kernel(const LinearCall call, int row_blocks) {
  extern __shared__ __align__(16) char shared[];
  // Neighbours in time: 16 tiles of tokens by all outputs' blocks in turn, so that what one reads the next finds in the cache.
  constexpr int kTogether = 16;
  const int tiles = call.tiles ? call.num_tiles : (call.rows + Tile::tokens - 1) / Tile::tokens;
  const int group = blockIdx.x / (kTogether * row_blocks), in_group = blockIdx.x % (kTogether * row_blocks), together = min(kTogether, tiles - group * kTogether);
  const int token_tile = group * kTogether + in_group % together, row_block = in_group / together;
  int first_row = token_tile * Tile::tokens, rows = min(Tile::tokens, call.rows - first_row);
  LinearWeight w = call.weight;
  if (call.tiles) {
    const LinearTile tile = call.tiles[token_tile];
    if (tile.rows == 0) return;
    w = call.experts[tile.expert];
    first_row = tile.row;
    rows = tile.rows;
  }
  w.data += blockIdx.z * call.head_stride;
  TensorProduct<F, Tile> product(call, w, shared, first_row, rows, row_block);
  float sum[Tile::rows / 16][Tile::tokens / 8][4] = {};
  if constexpr (Tile::share) {
    product.run(sum, [](int) {});
    auto* partial = reinterpret_cast<float4*>(shared);
    partial[threadIdx.x] = {sum[0][0][0], sum[0][0][1], sum[0][0][2], sum[0][0][3]};
    __syncthreads();
    if (product.part != 0) return;
    for (int p = 1; p < product.parts; ++p) {
      const float4 other = partial[threadIdx.x + p * 32];
      sum[0][0][0] += other.x, sum[0][0][1] += other.y, sum[0][0][2] += other.z, sum[0][0][3] += other.w;
    }
    product.visit(sum, [](float* out, float v) { *out = v; });
  } else {
    int part = 0;
    product.run(sum, [&](int b) {
      if (b + 1 != product.begin_of(part + 1)) return;
      product.visit(sum, [part](float* out, float& v) {
        *out = part == 0 ? v : *out + v;
        v = 0;
      });
      ++part;
    });
  }
}

template <Format F, class Tile> void launch_tensor(const LinearCall& call, cudaStream_t stream) {
  const int parts = depth_parts(call.shape.k / kDepth), sharing = Tile::share ? parts : 1, shared = tensor_shared<F, Tile>(parts);
  check(cudaFuncSetAttribute(tensor_kernel<F, Tile>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "shared memory of products");
  const unsigned row_blocks = blocks_of(call.shape.n, Tile::warps / sharing * Tile::rows);
  const unsigned tiles = call.tiles ? static_cast<unsigned>(call.num_tiles) : blocks_of(call.rows, Tile::tokens);
  tensor_kernel<F, Tile><<<dim3(row_blocks * tiles, 1, static_cast<unsigned>(call.heads)), Tile::warps * 32, static_cast<size_t>(shared), stream>>>(call, static_cast<int>(row_blocks));
}

template <Format F> void tensor_linear_of(const LinearCall& call, int multiprocessors, cudaStream_t stream) {
  const int64_t rows = call.tiles ? call.tile_rows : call.rows;
  const int64_t tiles = call.tiles ? call.num_tiles : blocks_of(call.rows, 32), wide = WideTile<F>::rows * WideTile<F>::warps;
  // Few outputs for more than eight tokens: narrow tiles side by side, where the others would leave multiprocessors without work.
  if (rows <= 8 || (!call.tiles && blocks_of(call.shape.n, wide / 2) * tiles * call.heads < multiprocessors)) return launch_tensor<F, NarrowTile<F>>(call, stream);
  if (blocks_of(call.shape.n, wide) * tiles * call.heads >= 2 * multiprocessors) return launch_tensor<F, WideTile<F>>(call, stream);
  launch_tensor<F, MiddleTile<F>>(call, stream);
}

}  // namespace dsinfer::cuda
