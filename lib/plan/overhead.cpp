// Everything on a rank that is neither weights nor cache.
#include <algorithm>

#include "plan/arena_sum.hpp"
#include "plan/memory.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kKeyTile = 256;  // positions that the engine re-expands at a time (model/workspace.hpp)

constexpr int64_t kMostStepTokens = int64_t{1} << 30;
// The engine's defaults (ForwardOptions), which a test compares.
constexpr int64_t kHostStepTokens = 512, kHostSequences = 64;
// What servers take by default for GPUs: chunks of 2,048 rows (vLLM), 256 sequences.
constexpr int64_t kGpuStepTokens = 2048, kGpuSequences = 256;

// NCCL's channels and proxies. Source: 0.34 … 0.41 GB over three versions (AIConfigurator's system files).
constexpr int64_t kNcclBytes = 400'000'000;
// Two buffers of the custom all-reduce, so that a step needs no second barrier; larger messages go to NCCL. Source: vLLM's limit of 8 MiB.
constexpr int64_t kAllReduceBytes = 2 * (int64_t{8} << 20);
// Rows that a rank may dispatch in the low-latency exchange. Source: the default of DeepEP's users (SGLang).
constexpr int64_t kLowLatencyTokens = 128;
// A row of the simple exchange carries its ids and weights in 32 more values. Source: the GCU guide's rule, tokens · dp · (7168 + 32) · 2 B.
constexpr int64_t kExchangeExtra = 32;
constexpr double kLowLatencyCapability = 9.0;

constexpr int64_t kContextBytes = 500'000'000;  // CUDA context with modules loaded
constexpr int64_t kGraphBytes = 1'000'000'000;  // 0.5 … 2 GB for all batch sizes that are captured
constexpr int64_t kReserveBytes = 500'000'000;  // fragments of the allocator

// DeepEP's low-latency kernels: FP8 or BF16 rows straight into slots of every expert. They need Hopper's instructions, and RDMA where the group leaves a node.
bool has_low_latency(const Shape& shape, const Fleet& fleet) {
  if (fleet.gpu.compute_capability < kLowLatencyCapability || fleet.inside.transport != "nvlink") return false;
  return shape.tp * shape.dp <= fleet.gpus_per_node || fleet.between.transport == "ib" || fleet.between.transport == "roce";
}

}  // namespace

int64_t batch_bytes(const ModelConfig& c, const RankPlan& r, const StepLimits& limits, int64_t element) {
  const int64_t T = limits.max_tokens, R = limits.max_sequences;
  ArenaSum sum(element);
  sum.words({T});                      // tokens
  sum.words({T});                      // positions
  sum.words({T, limits.max_pages()});  // block_table
  if (r.last_stage) {
    sum.words({R});  // logit_rows
    sum.rows({R, c.hidden_size});
    sum.words({R, r.vocab.size()});
    sum.words({r.tp, R, r.vocab.size()});
  }
  return sum.bytes();
}

int64_t arena_bytes(const ModelConfig& c, const RankPlan& r, const StepLimits& limits, int64_t element, bool exchange) {
  const int64_t T = limits.max_tokens, H = c.hidden_size, heads = r.heads.size();
  ArenaSum sum(element);
  sum.raw({batch_bytes(c, r, limits, element)});
  for (int i = 0; i < 3; ++i) sum.rows({T, H});  // x, h, branch

  sum.rows({T, c.q_lora_rank + c.cache_dim()});
  sum.rows({T, heads, c.qk_head_dim()});
  sum.rows({T, c.kv_lora_rank});
  for (int i = 0; i < 2; ++i) sum.rows({T, heads, c.kv_lora_rank});  // absorbed_q, absorbed_o
  for (int i = 0; i < 2; ++i) sum.rows({T, heads, c.v_head_dim});    // o, o_part
  for (int i = 0; i < 2; ++i) sum.words({T, heads});                 // lse, lse_part
  sum.rows({kKeyTile, c.cache_dim()});
  sum.rows({kKeyTile, heads, c.qk_nope_head_dim + c.v_head_dim});

  const int64_t width = std::max(r.dense_inter.size(), r.shared_inter.size());
  sum.rows({T, 2, width});
  sum.rows({T, width});

  if (c.n_routed_experts > 0) {
    const int64_t k = c.num_experts_per_tok, pairs = product({T, std::min(k, r.experts.size())}), inner = r.moe_inter.size();
    sum.words({T, c.n_routed_experts});
    for (int i = 0; i < 2; ++i) sum.words({T, k});  // experts, weights
    sum.rows({pairs, H});
    sum.rows({pairs, 2, inner});
    sum.rows({pairs, inner});
    sum.rows({pairs, H});
    for (int i = 0; i < 2; ++i) sum.words({pairs});  // pair_rows, pair_scale
    if (r.dp > 1 && exchange) {
      const int64_t own = (T + r.tp - 1) / r.tp, copies = product({own, std::min<int64_t>(k, r.ep), r.moe_tp}), arriving = product({own, r.tp, r.dp});
      for (const int64_t count : {copies, arriving}) {
        sum.rows({count, H});
        sum.words({count, 2, k});
        sum.rows({count, H});
      }
    }
  }
  return sum.bytes();
}

int64_t activation_bytes(const ModelConfig& config, const RankPlan& rank, const StepLimits& limits, int64_t element, bool exchange) {
  return arena_bytes(config, rank, limits, element, exchange) + limits.max_len * config.qk_rope_head_dim * 4;
}

int64_t default_step_tokens(const Fleet& fleet) { return is_host(fleet.gpu) ? kHostStepTokens : kGpuStepTokens; }

StepLimits step_limits(const Fleet& fleet, const SolveRequest& request, int64_t step_tokens) {
  StepLimits limits;
  limits.max_tokens = step_tokens > 0 ? std::min(step_tokens, kMostStepTokens) : default_step_tokens(fleet);
  limits.max_sequences = is_host(fleet.gpu) ? kHostSequences : kGpuSequences;
  limits.max_len = request.max_len;
  return limits;
}

int64_t communication_bytes(const ModelConfig& config, const Shape& shape, const Fleet& fleet, const StepLimits& limits) {
  if (is_host(fleet.gpu) || shape.ranks() == 1) return 0;  // the CPU's exchange rows are in its arena
  const int64_t H = config.hidden_size;
  int64_t bytes = kNcclBytes;
  if (shape.tp > 1) bytes += kAllReduceBytes;
  if (shape.pp > 1) bytes += product({2, limits.max_tokens, H, 2});  // a BF16 batch coming in while one goes out
  if (shape.dp > 1 && config.n_routed_experts > 0) {
    bytes += product({limits.max_tokens, shape.dp, H + kExchangeExtra, 2});
    if (has_low_latency(shape, fleet)) {
      // Two halves, each with a sending and a receiving slot for every token and expert: the row in BF16 and an f32 scale for each 128 values.
      const int64_t row = 2 * H + 4 * ((H + 127) / 128);
      bytes += product({4, config.n_routed_experts + shape.redundant_experts, kLowLatencyTokens, row});
    }
  }
  return bytes;
}

int64_t context_bytes(const Fleet& fleet) { return is_host(fleet.gpu) ? 0 : kContextBytes + kGraphBytes; }
int64_t reserve_bytes(const Fleet& fleet) { return is_host(fleet.gpu) ? 0 : kReserveBytes; }

}  // namespace dsinfer
