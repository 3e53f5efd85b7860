/// Which shape of fp8_gemm_kernel serves which linear of many rows.
#include "fp8_gemm.cuh"
#include "fp8_gemm.hpp"
#include "prefill.hpp"

namespace dsinfer::hopper {
namespace {

cudaError_t map_weight(CUtensorMap& map, const uint8_t* data, int64_t rows, int k) { return encode(map, {data, rows, k, k, 1, 64}); }

using Dense = GemmShape<false>;

int dense_columns(int n, bool gated) { return gated ? n / 128 : (n + 127) / 128; }

/// Rows of a tile: the fewest waves of blocks, each as long as its rows and the weights it brings.
int tile_rows_for(int tokens, int column_tiles) {
  const int64_t processors = multiprocessors();
  int best = Dense::kRows;
  int64_t best_cost = INT64_MAX;
  for (int rows = Dense::kRows; rows >= 64; rows -= 64) {
    const int64_t tiles = int64_t((tokens + rows - 1) / rows) * column_tiles, waves = (tiles + processors - 1) / processors;
    if (const int64_t cost = waves * (rows + 32); cost < best_cost) best_cost = cost, best = rows;
  }
  return best;
}

template <bool kGrouped, bool kGated, bool kGather>
cudaError_t launch(const GemmArgs& a, int64_t tiles, cudaStream_t stream) {
  using Shape = GemmShape<kGrouped>;
  const int64_t processors = multiprocessors();
  return start(fp8_gemm_kernel<kGrouped, kGated, kGather>, dim3(unsigned(tiles < processors ? tiles : processors)), Shape::kThreads,
               Shape::kSharedBytes, stream, true, a);
}

}  // namespace

cudaError_t grouped_gate_up_sorted(bf16* h, Fp8Rows sorted, Fp8Weight w, Fp8Weight shared, const Routed& routed, int tokens,
                                   const RouteOptions& options, int n, int k, cudaStream_t stream) {
  if (tokens <= kManyTokens) return tokens == 0 ? cudaSuccess : cudaErrorInvalidValue;
  return gemm_grouped(h, sorted, w, shared, routed, tokens, options, n, k, true, false, stream);
}

cudaError_t gemm_linear(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, bool gated, cudaStream_t stream) {
  if (m == 0) return cudaSuccess;
  if (n % (gated ? 128 : 64) != 0 || k % 128 != 0) return cudaErrorInvalidValue;
  GemmArgs a{};
  a.out = out, a.x_scale = x.scale, a.w_scale = w.scale, a.tokens = m, a.n = n, a.k = k;
  const int column_tiles = dense_columns(n, gated);
  a.tile_rows = tile_rows_for(m, column_tiles);
  cudaError_t status = encode(a.x, {x.data, m, k, k, 1, Dense::kTokenBox});
  if (status == cudaSuccess) status = map_weight(a.w, w.data, n, k);
  if (status != cudaSuccess) return status;
  const int64_t tiles = int64_t((m + a.tile_rows - 1) / a.tile_rows) * column_tiles;
  return gated ? launch<false, true, false>(a, tiles, stream) : launch<false, false, false>(a, tiles, stream);
}

cudaError_t gemm_grouped(bf16* out, Fp8Rows x, Fp8Weight w, Fp8Weight shared, const Routed& routed, int tokens, const RouteOptions& options,
                         int n, int k, bool gated, bool gather, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  if (n % 128 != 0 || k % 128 != 0 || run_tokens_for(tokens) > kGemmRunTokens || int64_t(tokens) * k > UINT32_MAX)
    return cudaErrorInvalidValue;
  GemmArgs a{};
  a.out = out, a.x_rows = x.data, a.x_scale = x.scale, a.w_scale = w.scale, a.shared_scale = shared.scale;
  a.runs = routed.runs, a.num_runs = routed.num_runs, a.rows = routed.rows;
  a.tokens = tokens, a.n = n, a.k = k, a.experts = options.experts;
  cudaError_t status = map_weight(a.w, w.data, int64_t(options.experts) * n, k);
  if (status == cudaSuccess) status = map_weight(a.shared_w, shared.data ? shared.data : w.data, n, k);
  if (status == cudaSuccess && !gather)
    status = encode(a.x, {x.data, int64_t(tokens) * (options.top_k + options.shared), k, k, 1, GemmShape<true>::kTokenBox});
  if (status != cudaSuccess) return status;
  const int64_t tiles = max_runs(tokens, options.top_k, options.experts) * (n / 128);
  if (gather) return gated ? launch<true, true, true>(a, tiles, stream) : cudaErrorInvalidValue;
  return gated ? launch<true, true, false>(a, tiles, stream) : launch<true, false, false>(a, tiles, stream);
}

}  // namespace dsinfer::hopper
