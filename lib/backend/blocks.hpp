/// Blocks: whole sublayers of a decoder layer in one call each, for backends that have kernels made for a model's very dimensions.
///
/// The caller keeps the order of a layer: begin, then for each layer attention and mlp or moe, then finish. Each block adds what the block before left to the
/// residual, norms it, and leaves its own output as the branch, which is all that has to be summed over tp.
#pragma once
#include <cstdint>
#include <span>

#include "core/buffer.hpp"
#include "core/format.hpp"

namespace dsinfer {

struct CacheView;

/// Gate of a MoE layer; semantics of config.json.
struct GateOptions {
  bool sigmoid = true;           ///< else softmax over all experts
  bool grouped = true;           ///< keep topk_group of n_group groups first
  bool group_score_top2 = true;  ///< group score: sum of the two largest biased scores (V3), else the largest score (V2)
  int64_t n_group = 1, topk_group = 1, top_k = 1;
  bool normalise = true;         ///< divide by the sum + 1e-20
  float scale = 1;               ///< multiplies the weights last; the caller sets 1 where the family applies none
};

/// How the rows of a paged cache are held. fp8: E4M3 latents, a scale for each 128 of them, and the rope key in BF16.
enum class CacheRows : uint8_t { f32, bf16, fp8 };

/// What a backend has to know of a model and this rank's part of it to say whether it has blocks for it.
struct BlockDims {
  int64_t hidden = 0, heads = 0;                                        ///< heads: this rank's
  int64_t q_lora_rank = 0, kv_lora_rank = 0, nope = 0, rope = 0, value = 0;
  int64_t dense_inter = 0, moe_inter = 0, shared_inter = 0;             ///< this rank's
  int64_t experts = 0, own_experts = 0;                                 ///< the model's, this rank's
  bool dense_layers = false, moe_layers = false;                        ///< which kinds of layers this rank has
  int64_t block_rows = 0, block_cols = 0;                               ///< of FP8 weights; 0: there are none
  bool rope_interleave = true;
  GateOptions gate;
  float eps = 1e-6f, latent_eps = 1e-6f, softmax_scale = 1;
  int64_t max_tokens = 0, max_len = 0;                                  ///< most rows of a step, longest sequence
  CacheRows cache = CacheRows::bf16;
};

/// Norms [H] f32; `latents` is q_a and kv_a back to back; key_up [heads, rkv, dn] and value_up [heads, dv, rkv] in bf16.
struct AttentionWeights {
  TensorView norm, q_norm, kv_norm;
  const Weight *latents = nullptr, *q_b = nullptr, *kv_b = nullptr, *key_up = nullptr, *value_up = nullptr, *o = nullptr;
};
/// Gate and up back to back, as one.
struct MlpWeights {
  TensorView norm;
  const Weight *gate_up = nullptr, *down = nullptr;
};
struct MoeWeights {
  TensorView norm, bias;
  const Weight* gate = nullptr;
  std::span<const Weight> gate_up, down;  ///< each expert's memory where that of the one before ends
  const Weight *shared_gate_up = nullptr, *shared_down = nullptr;
};

/// Consecutive rows of one sequence that attend to all before them and to each other.
struct BlockSegment {
  int64_t first_row = 0, rows = 0, position = 0;
};

/// The rows of one step. Decode rows come first; a row of position −1 is padding: it attends to nothing, is written nowhere, and its results are nobody's.
struct BlockStep {
  TensorView residual;                     ///< [T, H] f32
  TensorView positions, block_table;       ///< as in AttentionBatch
  TensorView rope_table;                   ///< [max_positions, dr] f32
  int64_t decode_rows = 0;
  std::span<const BlockSegment> prefill;   ///< the other rows
  int64_t longest = 0;                     ///< no sequence is longer; the same in all steps of a StepKey
};

/// Made for one model and rank. Driven by the thread of its backend, in whose steps its calls may be captured; nothing here allocates.
class Blocks {
 public:
  virtual ~Blocks() = default;
  /// Positions in a page of the caches that the blocks take.
  virtual int64_t page_size() const = 0;
  /// Device memory for activations and work, a part of the arena. `use` gives it, zeroed, once, before anything else.
  virtual int64_t scratch_bytes() const = 0;
  virtual void use(TensorView scratch) = 0;
  /// Throws Error::unsupported, naming what is wrong, for weights whose formats or shapes the blocks do not take.
  virtual void check(const AttentionWeights& w) const = 0;
  virtual void check(const MlpWeights& w) const = 0;
  virtual void check(const MoeWeights& w) const = 0;

  /// A step's first call: no branch is left over. `step` stays valid until finish.
  virtual void begin(const BlockStep& step) = 0;
  virtual void attention(const AttentionWeights& w, const CacheView& cache) = 0;
  virtual void mlp(const MlpWeights& w) = 0;
  virtual void moe(const MoeWeights& w) = 0;
  /// [T, H] bf16: this rank's part of the last block's output, to be summed over tp in place.
  virtual TensorView branch() = 0;
  /// residual += branch.
  virtual void finish() = 0;
  /// out [n, N] f32 = x · wᵀ with x [n, H] f32 rounded to bf16, w [N, H] bf16. False where w is of another format: nothing is done.
  virtual bool head(TensorView out, TensorView x, const Weight& w) = 0;
};

}  // namespace dsinfer
