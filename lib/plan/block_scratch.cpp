// What the CUDA backend's blocks for Hopper hold beside weights and cache.
#include <algorithm>

#include "plan/arena_sum.hpp"
#include "plan/memory.hpp"

namespace dsinfer {
namespace {

// Source: backend/cuda/hopper_room.hpp. Rows of experts, and of absorbed attention, that go together; keys that are expanded at once; rows of the head; parts of the gate.
constexpr int64_t kMoeSlice = 4096, kAttendSlice = 128, kExpandedKeys = 8192, kHeadRows = 128, kGateParts = 8;
constexpr int64_t kRunBytes = 16;
// Partial sums of absorbed attention: blocks of 64 heads times parts of a sequence that clusters leave. Their number comes from a model of time that knows the GPU's
// multiprocessors (hopper/mla.cu); for 78 (H20) to 144 of them, 16 to 128 heads and up to 262,144 positions it is 2993 at most.
constexpr int64_t kHeadsTogether = 64, kMostParts = 64, kMostPartials = 4096, kPage = 64;

ArenaSum bf16() { return ArenaSum(2); }

}  // namespace

int64_t block_scratch_bytes(const ModelConfig& c, const RankPlan& r, const StepLimits& limits) {
  const int64_t T = limits.max_tokens, H = c.hidden_size, heads = r.heads.size(), rope = c.qk_rope_head_dim, latent = c.kv_lora_rank;
  const int64_t attend_rows = std::min(T, kAttendSlice), moe_rows = std::min(T, kMoeSlice), keys = std::min(limits.max_len, kExpandedKeys);
  const int64_t parts = std::min(kMostParts, (limits.max_len + kPage - 1) / kPage);

  ArenaSum absorbed = bf16();  // a slice of rows
  absorbed.rows({attend_rows, heads, latent + rope});
  absorbed.rows({attend_rows, heads, latent});
  absorbed.words({std::min(product({attend_rows, heads, parts}), kMostPartials * std::min(heads, kHeadsTogether)), latent + 1});
  ArenaSum expanded = bf16();  // keys and values of all heads, latents and rope keys: 65 KB a key at 128 heads
  expanded.rows({keys, heads, c.qk_nope_head_dim + c.v_head_dim});
  expanded.raw({keys, latent});
  expanded.words({keys, (latent + 127) / 128});
  expanded.rows({keys, rope});
  expanded.raw({4 * 256});  // each begins with 256 bytes
  ArenaSum attention = bf16();
  attention.rows({T, c.q_lora_rank + latent + rope});
  attention.raw({T, c.q_lora_rank});
  attention.words({T, c.q_lora_rank / 128});
  attention.rows({T, heads, c.qk_head_dim()});
  attention.raw({T, heads, c.v_head_dim});
  attention.words({T, heads});
  attention.any_of({absorbed, expanded});

  const int64_t k = c.num_experts_per_tok, positions = c.n_routed_experts > 0 ? moe_rows * (k + 1) : 0;
  const int64_t inner = std::max(product({positions, r.moe_inter.size()}), product({T, r.dense_inter.size()}));
  ArenaSum feed_forward = bf16();
  feed_forward.rows({inner});
  feed_forward.raw({inner});
  feed_forward.words({inner / 128});
  if (positions > 0) {
    feed_forward.rows({positions, H});
    feed_forward.words({kGateParts, moe_rows, c.n_routed_experts});
    for (int i = 0; i < 3; ++i) feed_forward.words({moe_rows, k});  // experts, weights, slots
    feed_forward.words({positions});
    feed_forward.raw({kRunBytes, c.n_routed_experts + positions});
  }
  ArenaSum head = bf16();
  head.rows({kHeadRows, H});

  ArenaSum all = bf16();
  all.words({2});
  for (int i = 0; i < 2; ++i) all.rows({T, H});  // normed, branch
  all.raw({T, H});
  all.words({T, H / 128});
  all.any_of({attention, feed_forward, head});
  return all.bytes();
}

int64_t block_activation_bytes(const ModelConfig& c, const RankPlan& r, const StepLimits& limits) {
  // Tiles of products, partial sums of attention and sampling, parameters of launches, for 144 multiprocessors. Source: CudaBackend's constructor, Device::make().
  constexpr int64_t kBackendBytes = 100'000'000;
  ArenaSum sum(4);
  sum.raw({batch_bytes(c, r, limits, 4)});
  sum.words({limits.max_tokens, c.hidden_size});  // the residual
  sum.raw({block_scratch_bytes(c, r, limits)});
  sum.words({limits.max_len, c.qk_rope_head_dim});
  return sum.bytes() + kBackendBytes;
}

bool may_have_blocks(const ModelConfig& config, const Precisions& precisions, const GpuKind& gpu) {
  return !precisions.host && gpu.compute_capability == 9.0 && precisions.weights == Precision::fp8 && config.q_lora_rank > 0;
}

}  // namespace dsinfer
