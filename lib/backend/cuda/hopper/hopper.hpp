/// Kernels for Hopper (sm_90a) at DeepSeek-V3's dimensions, for the decode step; linears, gate, experts and row stages take a prefill
/// chunk's many tokens too (its attention: prefill.hpp). Raw device pointers, dimensions, a stream. Nothing here allocates or synchronises;
/// every call may be captured in a graph, and each starts as a programmatic dependent of the call before it on the stream (weights may be
/// read before that one ends, everything else after, but for what MlaDecode names). Wrong dimensions: cudaErrorInvalidValue. No tokens:
/// nothing is done. Activations between kernels are bf16, the residual f32. "Quantised": E4M3 bytes [rows, K] and f32 scales [rows, K/128],
/// one per 1×128 block. A token whose position is negative is a padding row: it appends nothing, goes to no routed expert (expert and slot
/// -1, weight 0), its attention is 0, and what the other kernels make of it depends on its own row alone.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace dsinfer::hopper {

using bf16 = __nv_bfloat16;

/// E4M3 [N, K] row-major and f32 scales [ceil(N/128), K/128] (weight = byte · scale). 16-byte aligned. Several experts: one after another.
struct Fp8Weight {
  const uint8_t* data = nullptr;
  const float* scale = nullptr;
};

/// Quantised activations.
struct Fp8Rows {
  const uint8_t* data = nullptr;  // [rows, K]
  const float* scale = nullptr;   // [rows, K/128]
};

/// out[m,n] = x[m,:] · w[n,:], out [M, N] bf16. K a multiple of 128 and at least 512, N of 64. Sums of 128 products in the matrix unit's
/// own accumulator (about 14 bits below the largest), then f32. A row's bits do not depend on the other rows, nor on M
/// up to 64 (where 2816 < N ≤ 4224 and K > 4096: up to 16, and from 17 to 64); from 65 to 128 K is cut otherwise; above 128 it is summed
/// whole, in the order of its blocks. There K may be any multiple of 128 (gated: N too), M · K / 128 below 2³².
cudaError_t fp8_linear(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, cudaStream_t stream);

/// out[m,i] = silu(x · w[i,:]) · (x · w[n/2+i,:]), out [M, N/2] bf16: gate and up of a dense MLP in one. Where N / 144 tiles are enough for
/// three quarters of the multiprocessors, K is summed whole from 33 rows on.
cudaError_t fp8_gate_up(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, cudaStream_t stream);

/// A run of positions that share an expert; position = rank of a (token, choice) pair when pairs are sorted by expert, then token.
struct ExpertRun;

/// The routed tokens of one layer, made on the device by `route`.
struct Routed {
  int* experts;     // [T, k] chosen, by score descending, ties to the lower index; -1 in padding rows
  float* weights;   // [T, k]
  int* slot;        // [T, k] position of the pair; -1 in padding rows
  int* rows;        // [T·k + T] token of each position; the last T are 0 … T-1, for the shared expert
  ExpertRun* runs;  // [max_runs(T, k, E)] compact; up to 512 tokens the shared expert's first, above evenly between the others
  int* num_runs;    // [2]: how many; and a count of blocks, 0 before the first call and after each
};

/// Bytes of one ExpertRun, and the most of them that T tokens can need.
constexpr int64_t kExpertRunBytes = 16;
int64_t max_runs(int64_t tokens, int64_t top_k, int64_t experts);

struct RouteOptions {
  int experts = 256, n_group = 8, topk_group = 4, top_k = 8;
  bool normalise = true;
  float scale = 2.5f;
  const int* positions = nullptr;  // [T]: negative for padding rows; null: there are none
  bool shared = true;  // the shared expert joins the runs as expert number `experts`, one position a token after the routed ones
};

/// logits of V3's gate: partial [gate_parts(T), T, E] f32 to be added in order; x [T, H] bf16, w [E, H] bf16. E a multiple of 128, H of 128
/// · kGateParts · 7.
constexpr int kGateParts = 8, kManyGateParts = 2;
constexpr int gate_parts(int64_t tokens) { return tokens > 512 ? kManyGateParts : kGateParts; }
cudaError_t gate_logits(float* partial, const bf16* x, const bf16* w, int tokens, int experts, int hidden, cudaStream_t stream);

/// Sigmoid, bias for choosing only, groups by the sum of their two best, top-k, weights; then the compact list of runs. bias [E] f32.
/// E = 256, 8 groups, top_k ≤ 32. Forced routing (tests, benches): give `forced` [T, k], then weights still come from the logits.
cudaError_t route(const Routed& out, const float* partial, const float* bias, const int* forced, int tokens, const RouteOptions& options,
                  cudaStream_t stream);

/// h[p,:] = silu(gate) · up of x[rows[p]] through the expert of position p. h [positions, N/2] bf16. w [E, N, K], shared [N, K] (null
/// without one). Up to 512 tokens: more are sorted first (prefill.hpp).
cudaError_t grouped_gate_up(bf16* h, Fp8Rows x, Fp8Weight w, Fp8Weight shared, const Routed& routed, int tokens,
                            const RouteOptions& options, int n, int k, cudaStream_t stream);
/// y[p,:] = h[p] · wᵀ of the expert of position p. y [positions, N] bf16; h quantised [positions, K]. Above 512 tokens T · K stays below
/// 4 GiB, and the runs are those that `route` made for T tokens.
cudaError_t grouped_down(bf16* y, Fp8Rows h, Fp8Weight w, Fp8Weight shared, const Routed& routed, int tokens, const RouteOptions& options,
                         int n, int k, cudaStream_t stream);

/// residual += x (or the weighted sum of the experts' rows); out = rms_norm(residual) · weight, and the same quantised. dim 7168.
struct AddNorm {
  float* residual;            // [T, dim], in and out
  const bf16* x;              // [T, dim]; with `slot`: y of grouped_down [positions, dim]; null: nothing is added
  const float* weight;        // [dim]
  bf16* out;                  // [T, dim] or null
  uint8_t* q;                 // [T, dim] or null
  float* q_scale;             // [T, dim/128]
  const int* slot;            // [T, top_k] or null
  const float* route_weight;  // [T, top_k]
  int64_t shared_first;       // position of the shared expert's row of token 0, or -1
  int top_k;
  float eps;
  bool ue8m0;
};
cudaError_t add_norm(const AddNorm& a, int tokens, int dim, cudaStream_t stream);

/// x [rows, dim] bf16 to quantised. dim a multiple of 128.
cudaError_t quantise(uint8_t* q, float* scale, const bf16* x, int64_t rows, int64_t dim, bool ue8m0, cudaStream_t stream);

/// What a row of the latent cache is: 512 normed latents and the 64 rotated rope channels of one position; a page holds 64 rows.
enum class KvFormat {
  kBf16,  // 576 bf16: 1152 bytes
  kFp8,   // 512 E4M3; 4 f32 scales, one per 128 latents (latent = byte · scale); 64 bf16 rope channels: 656 bytes
};
constexpr int kKvPageRows = 64;
constexpr int64_t kFp8KvRowBytes = 512 + 4 * 4 + 64 * 2, kBf16KvRowBytes = 576 * 2;
constexpr int64_t kv_row_bytes(KvFormat format) { return format == KvFormat::kFp8 ? kFp8KvRowBytes : kBf16KvRowBytes; }

/// What follows the joined q_a + kv_a product [T, 1536 + 512 + 64]: the query latents normed and quantised; the cached latents normed, the
/// rope key rotated (interleaved pairs), both appended to the token's page slot.
struct Latent {
  const bf16* a;           // [T, 2112]
  const float* q_norm;     // [1536]
  const float* kv_norm;    // [512]
  const float* rope;       // [max_positions, 64]: cos, sin of pair j at 2j, 2j+1
  const int* positions;    // [T]
  const int* block_table;  // [T, max_pages]
  void* cache;             // [pages, 64] rows of `format`, 16-byte aligned
  uint8_t* q;              // [T, 1536]
  float* q_scale;          // [T, 12]
  int max_pages;
  float eps;
  bool ue8m0;
  /// FP8: scale = max(amax, 1e-4) / 448, at most 255, rounded up to bf16's eight bits (so that byte · scale is one bf16 product), or with
  /// `ue8m0` to a power of two.
  KvFormat format = KvFormat::kBf16;
};
cudaError_t latents(const Latent& a, int tokens, cudaStream_t stream);

/// q of the absorbed form [T, 128, 576]: q[t,h,:512] = w_uk[h] · q_b[t,h,:128], q[t,h,512:] = q_b[t,h,128:192] rotated. q_b [T, 128 · 192]
/// bf16; w_uk [128, 512, 128] bf16.
cudaError_t absorb_query(bf16* q, const bf16* q_b, const bf16* w_uk, const float* rope, const int* positions, int tokens, int heads,
                         cudaStream_t stream);

/// Quantised o [T, heads · 128]: o[t,h,:] = w_uv[h] · u[t,h,:]; one scale a head. u [T, heads, 512] bf16, w_uv [heads, 128, 512] bf16.
cudaError_t expand_values(uint8_t* o, float* o_scale, const bf16* u, const bf16* w_uv, int tokens, int heads, bool ue8m0,
                          cudaStream_t stream);

/// Absorbed attention over the paged latent cache: u[t,h,:] = Σ_s softmax_s(scale · q[t,h]·c[s]) c[s,:512], s ≤ positions[t].
struct MlaDecode {
  bf16* u;                 // [T, heads, 512]
  const bf16* q;           // [T, heads, 576]
  const void* cache;       // [pages, 64] rows of `format`; the rows of these tokens written at least two calls before this one
  const int* block_table;  // [T, max_pages]; as the rows of the cache: not made by the call just before this one
  const int* positions;    // [T]; likewise
  float* partial;          // mla_workspace bytes
  int tokens, heads, max_pages;
  /// 1 … kMaxMlaParts: each token's pages are cut into that many equal runs; fixed per bucket, so that graphs can replay. A token's bits
  /// depend on this cut and on the number of tokens and heads (how many parts add up within the chip), not on other tokens' values.
  int parts;
  float scale;  // above 0
  KvFormat format = KvFormat::kBf16;
};
constexpr int kMaxMlaParts = 64;
/// Parts that fill the device for T tokens whose sequences are at most max_positions long.
int mla_parts(int tokens, int heads, int64_t max_positions);
int64_t mla_workspace(int tokens, int heads, int parts);
cudaError_t mla_decode(const MlaDecode& a, cudaStream_t stream);

}  // namespace dsinfer::hopper
