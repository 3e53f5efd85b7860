/// Which shape of fp8_gemm_kernel serves which linear of many rows.
#include <algorithm>

#include "fp8_gemm.cuh"
#include "fp8_gemm.hpp"
#include "prefill.hpp"

namespace dsinfer::hopper {
namespace {

cudaError_t map_weight(CUtensorMap& map, const uint8_t* data, int64_t rows, int k) { return encode(map, {data, rows, k, k, 1, 64}); }

// Three warpgroups of 64 tokens each: while two scale or store, one multiplies. Or 256 tokens, and two blocks that share them: fewer bytes
// from L2 and so less power, which bounds long sums, but a warpgroup stores two groups of rows before it goes on.
template <bool kGated>
using Wide = GemmShape<false, kGated, 3, 1, 1>;
using Deep = GemmShape<false, false, 2, 2, 2>;
template <bool kGated>
using Grouped = GemmShape<true, kGated, 3, 1, 1>;

static_assert(kMostGathered == kManyTokens);  // from there on `route` makes runs of kGemmRunTokens

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// What a tile takes, in rows of tokens times blocks of K. Measured at 4096 tokens: in Wide 0.71 us a block of 192 rows and 0.75 us a tile,
/// in Deep 0.93 us a block of 256 and 1.65; of fewer rows less is hidden.
int64_t wide_cost(int rows, int blocks) { return int64_t(rows + 4 + (192 - rows) * 3 / 10) * blocks + 200; }
int64_t deep_cost(int blocks) { return int64_t(256) * blocks + 450; }

/// Rows of a tile: those whose waves of tiles take least; 256 are Deep's.
int tile_rows_for(int tokens, int column_tiles, int blocks, bool gated) {
  const int64_t processors = multiprocessors();
  int best = 0;
  int64_t best_cost = INT64_MAX;
  for (int rows = gated ? 192 : 256; rows >= 64; rows -= 64) {
    const bool deep = rows == 256;
    const int64_t tiles = ceil_div(tokens, rows) * (deep ? ceil_div(column_tiles, 2) : column_tiles);
    const int64_t cost = ceil_div(tiles, deep ? processors / 2 : processors) * (deep ? deep_cost(blocks) : wide_cost(rows, blocks));
    if (cost < best_cost) best_cost = cost, best = rows;
  }
  return best;
}

/// Starts for `row_tiles`, as many as there can be; `positions` rows of output.
template <class Shape>
cudaError_t launch(GemmArgs a, int64_t positions, int64_t row_tiles, cudaStream_t stream) {
  const int width = Shape::kGated ? a.n / 2 : a.n;
  if (const cudaError_t status = encode(a.y, {a.out, positions, width, int64_t(width) * 2, 2, 16}); status != cudaSuccess) return status;
  const int64_t tiles = row_tiles * ceil_div(width, Shape::kColumns * Shape::kCluster), clusters = multiprocessors() / Shape::kCluster;
  return start<Shape::kCluster>(fp8_gemm_kernel<Shape>, dim3(unsigned(std::min(tiles, clusters) * Shape::kCluster)), Shape::kThreads,
                                Shape::kSharedBytes, stream, true, a);
}

}  // namespace

cudaError_t grouped_gate_up_sorted(bf16* h, Fp8Rows sorted, Fp8Weight w, Fp8Weight shared, const Routed& routed, int tokens,
                                   const RouteOptions& options, int n, int k, cudaStream_t stream) {
  return gemm_grouped(h, sorted, w, shared, routed, tokens, options, n, k, true, stream);
}

cudaError_t gemm_linear(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, bool gated, cudaStream_t stream) {
  if (m == 0) return cudaSuccess;
  if (n % (gated ? 128 : 64) != 0 || k % 128 != 0) return cudaErrorInvalidValue;
  GemmArgs a{};
  a.out = out, a.x_scale = x.scale, a.w_scale = w.scale, a.tokens = m, a.n = n, a.k = k;
  a.tile_rows = tile_rows_for(m, int(ceil_div(n, 128)), k / 128, gated);
  cudaError_t status = encode(a.x, {x.data, m, k, k, 1, Deep::kTokenBox});
  if (status == cudaSuccess) status = map_weight(a.w, w.data, n, k);
  if (status != cudaSuccess) return status;
  const int64_t row_tiles = ceil_div(m, a.tile_rows);
  if (a.tile_rows > Wide<false>::kRows) return launch<Deep>(a, m, row_tiles, stream);
  return gated ? launch<Wide<true>>(a, m, row_tiles, stream) : launch<Wide<false>>(a, m, row_tiles, stream);
}

cudaError_t gemm_grouped(bf16* out, Fp8Rows x, Fp8Weight w, Fp8Weight shared, const Routed& routed, int tokens, const RouteOptions& options,
                         int n, int k, bool gated, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  if (n % 128 != 0 || k % 128 != 0 || tokens <= kManyTokens || int64_t(tokens) * k > UINT32_MAX) return cudaErrorInvalidValue;
  GemmArgs a{};
  a.out = out, a.x_scale = x.scale, a.w_scale = w.scale, a.shared_scale = shared.scale;
  a.runs = routed.runs, a.num_runs = routed.num_runs;
  a.tokens = tokens, a.n = n, a.k = k, a.experts = options.experts, a.shared_first = tokens * options.top_k;
  cudaError_t status = map_weight(a.w, w.data, int64_t(options.experts) * n, k);
  if (status == cudaSuccess) status = map_weight(a.shared_w, shared.data ? shared.data : w.data, n, k);
  const int64_t positions = int64_t(tokens) * (options.top_k + options.shared);
  if (status == cudaSuccess) status = encode(a.x, {x.data, positions, k, k, 1, Grouped<false>::kTokenBox});
  if (status != cudaSuccess) return status;
  const int64_t runs = max_runs(tokens, options.top_k, options.experts);
  return gated ? launch<Grouped<true>>(a, positions, runs, stream) : launch<Grouped<false>>(a, positions, runs, stream);
}

}  // namespace dsinfer::hopper
