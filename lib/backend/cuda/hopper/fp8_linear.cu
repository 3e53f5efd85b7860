/// Which shape of fp8_tile_kernel serves which linear.
#include "fp8_gemm.hpp"
#include "fp8_tile.cuh"
#include "fp8_wide.hpp"
#include "hopper.hpp"

namespace dsinfer::hopper {
namespace {

template <int kColumns, int kStages, int kCluster, bool kGrouped, bool kGated>
cudaError_t tile_linear(const LinearArgs& a, int64_t runs, cudaStream_t stream) {
  static_assert(TileShape<kColumns>::shared_bytes(kStages) <= 227 * 1024);
  if (a.n % 64 != 0 || a.k % 128 != 0 || a.k / 128 < TileShape<kColumns>::kGroups * kCluster) return cudaErrorInvalidValue;
  const int64_t tiles = int64_t(a.n / 64) * runs, resident = multiprocessors() / kCluster;
  const auto blocks = unsigned((tiles < resident ? tiles : resident) * kCluster);
  return start<kCluster>(fp8_tile_kernel<kColumns, kStages, kCluster, kGrouped, kGated>, dim3(blocks), TileShape<kColumns>::kThreads,
                         TileShape<kColumns>::shared_bytes(kStages), stream, true, a);
}

// Shapes by measurement on an H100 (bench/README.md): columns just hold the tokens; as many stages as shared memory has room for, or one
// less. A matrix with fewer row tiles than multiprocessors is cut along K over clusters, while its tokens are few.
template <bool kGated>
cudaError_t dense(const LinearArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return cudaSuccess;
  if (a.n / 64 <= 44 && a.k > 4096 && a.tokens <= 64) {  // q_a + kv_a: 33 tiles, 99 blocks
    if (a.tokens <= 8) return tile_linear<8, 4, 3, false, kGated>(a, 1, stream);
    if (a.tokens <= 32) return tile_linear<32, 4, 3, false, kGated>(a, 1, stream);
    return tile_linear<64, 3, 3, false, kGated>(a, 1, stream);
  }
  if (a.n / 64 <= 66 && a.k > 4096 && a.tokens <= 16) {
    if (a.tokens <= 8) return tile_linear<8, 5, 2, false, kGated>(a, 1, stream);
    return tile_linear<16, 4, 2, false, kGated>(a, 1, stream);
  }
  if (a.tokens <= 8) return tile_linear<8, 5, 1, false, kGated>(a, 1, stream);
  if (a.tokens <= 16) return tile_linear<16, 5, 1, false, kGated>(a, 1, stream);
  if (a.tokens <= 32) return tile_linear<32, 4, 1, false, kGated>(a, 1, stream);
  if (a.tokens <= 64) return tile_linear<64, 3, 1, false, kGated>(a, 1, stream);
  return tile_linear<128, 4, 1, false, kGated>(a, 1, stream);
}

template <bool kGated>
cudaError_t grouped(const LinearArgs& a, const RouteOptions& options, cudaStream_t stream) {
  if (a.tokens == 0) return cudaSuccess;
  const int64_t runs = max_runs(a.tokens, options.top_k, options.experts);
  if (a.tokens <= 8) return tile_linear < 8, kGated ? 4 : 5, 1, true, kGated > (a, runs, stream);
  return tile_linear<kRunTokens, 3, 1, true, kGated>(a, runs, stream);
}

constexpr int kTileTokens = 128;  // more go to fp8_gemm_kernel

LinearArgs arguments(bf16* out, Fp8Rows x, Fp8Weight w, int tokens, int n, int k) {
  LinearArgs a{};
  a.out = out, a.x = x.data, a.x_scale = x.scale, a.w = w.data, a.w_scale = w.scale;
  a.tokens = tokens, a.n = n, a.k = k;
  return a;
}

}  // namespace

cudaError_t fp8_linear(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, cudaStream_t stream) {
  if (m > kTileTokens) return gemm_linear(out, x, w, m, n, k, false, stream);
  if (m > 64 && wide_fits(n, k, false)) return wide_linear(out, x, w, m, n, k, false, stream);
  return dense<false>(arguments(out, x, w, m, n, k), stream);
}

cudaError_t fp8_gate_up(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, cudaStream_t stream) {
  if (m > kTileTokens) return gemm_linear(out, x, w, m, n, k, true, stream);
  if (m > 32 && wide_fits(n, k, true)) return wide_linear(out, x, w, m, n, k, true, stream);
  return dense<true>(arguments(out, x, w, m, n, k), stream);
}

cudaError_t grouped_gate_up(bf16* h, Fp8Rows x, Fp8Weight w, Fp8Weight shared, const Routed& routed, int tokens,
                            const RouteOptions& options, int n, int k, cudaStream_t stream) {
  if (tokens > kManyTokens) return cudaErrorInvalidValue;
  LinearArgs a = arguments(h, x, w, tokens, n, k);
  a.shared_w = shared.data, a.shared_scale = shared.scale, a.runs = routed.runs, a.num_runs = routed.num_runs, a.rows = routed.rows;
  a.experts = options.experts;
  return grouped<true>(a, options, stream);
}

cudaError_t grouped_down(bf16* y, Fp8Rows h, Fp8Weight w, Fp8Weight shared, const Routed& routed, int tokens, const RouteOptions& options,
                         int n, int k, cudaStream_t stream) {
  if (tokens > kManyTokens) return gemm_grouped(y, h, w, shared, routed, tokens, options, n, k, false, stream);
  LinearArgs a = arguments(y, h, w, tokens, n, k);
  a.shared_w = shared.data, a.shared_scale = shared.scale, a.runs = routed.runs, a.num_runs = routed.num_runs;
  a.experts = options.experts;
  return grouped<false>(a, options, stream);
}

}  // namespace dsinfer::hopper
