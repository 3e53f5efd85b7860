/// What a prefill chunk needs beside hopper.hpp, whose linears, routing and row stages serve any number of tokens: attention in the
/// expanded form (keys and values of every head made from the cached latents), for one sequence a call. The rules of hopper.hpp hold.
#pragma once
#include "hopper.hpp"

namespace dsinfer::hopper {

/// Rows of x [T, K] in the order of positions: sorted [T · (top_k + 1), K], sorted_scale [·, K/128]. What no pair goes to is left alone.
/// K a multiple of 512 up to 32768, top_k ≤ 31, all 16-byte aligned.
cudaError_t sort_rows(uint8_t* sorted, float* sorted_scale, Fp8Rows x, const Routed& routed, int tokens, const RouteOptions& options, int k,
                      cudaStream_t stream);
/// grouped_gate_up of sorted rows, for more than kMostGathered tokens (fewer: cudaErrorInvalidValue); T · K below 4 GiB.
constexpr int kMostGathered = 512;
cudaError_t grouped_gate_up_sorted(bf16* h, Fp8Rows sorted, Fp8Weight w, Fp8Weight shared, const Routed& routed, int tokens,
                                   const RouteOptions& options, int n, int k, cudaStream_t stream);

/// The first S cached rows of one sequence: latents quantised for kv_b, rope keys side by side.
struct KeyRows {
  uint8_t* latent;         // [S, 512]
  float* latent_scale;     // [S, 4]
  bf16* rope_key;          // [S, 64]
  const void* cache;       // [pages, 64] rows of `format`
  const int* block_table;  // [ceil(S/64)] pages of the sequence
  bool ue8m0;
  KvFormat format = KvFormat::kBf16;
};
cudaError_t key_rows(const KeyRows& a, int keys, cudaStream_t stream);

/// o[t,h,:] = Σ_s softmax_s(scale · (q[t,h,:128] · kv[s,h,:128] + q[t,h,128:] · rope_key[s])) kv[s,h,128:], s ≤ q_first + t. Softmax in
/// f32, probabilities bf16. A row's bits depend on neither the other rows nor the cut into chunks where q_first is a multiple of 128.
struct ChunkAttention {
  uint8_t* o;            // quantised [T, heads · 128]; one scale a head
  float* o_scale;        // [T, heads]
  const bf16* q;         // [T, heads, 192]
  const bf16* kv;        // [S, heads, 256]: 128 of the key, then 128 of the value
  const bf16* rope_key;  // [S, 64]
  int tokens, heads;
  int q_first;  // keys before the chunk; S = q_first + T
  float scale;  // above 0
  bool ue8m0;
  /// Where given, channels 128 … 191 of every query are rotated as they are read, to bf16: rope as in Latent; positions [T], those below 0
  /// are left alone. Null: q is rotated.
  const float* rope = nullptr;
  const int* positions = nullptr;
};
cudaError_t chunk_attention(const ChunkAttention& a, cudaStream_t stream);

/// All of it for one sequence's chunk: q_b [T, heads · 192] as fp8_linear gives it, the chunk's own rows already in the cache (by
/// `latents`). kv_b [heads · 256, 512].
struct PrefillSegment {
  uint8_t* o;  // as in ChunkAttention
  float* o_scale;
  const bf16* q_b;
  const void* cache;       // [pages, 64] rows of `format`
  const int* block_table;  // [ceil((q_first + T)/64)] pages of this sequence
  const int* positions;    // [T]: q_first, q_first + 1, …
  const float* rope;
  Fp8Weight kv_b;
  void* work;  // prefill_workspace bytes, 16-byte aligned
  int tokens, heads, q_first;
  float scale;
  bool ue8m0;
  KvFormat format = KvFormat::kBf16;
};
/// For `keys` = q_first + T: 65 KB a key at 128 heads, most of it `kv`.
int64_t prefill_workspace(int64_t keys, int heads);
cudaError_t prefill_segment(const PrefillSegment& a, cudaStream_t stream);

}  // namespace dsinfer::hopper
