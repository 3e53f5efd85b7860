#include "model/workspace.hpp"

namespace dsinfer {

Workspace::Workspace(Arena& arena, const ModelConfig& c, const RankPlan& r, int64_t max_tokens, int64_t max_sequences, int64_t max_pages, int64_t block_bytes) {
  const int64_t T = max_tokens, H = c.hidden_size;
  const auto f32 = [&](std::initializer_list<int64_t> dims) { return arena.take(DType::f32, dims); };
  const auto i32 = [&](std::initializer_list<int64_t> dims) { return arena.take(DType::i32, dims); };

  tokens = i32({T});
  positions = i32({T});
  block_table = i32({T, max_pages});
  x = f32({T, H});
  if (block_bytes > 0) blocks = arena.take(DType::u8, {block_bytes});
  else lay_out_operations(arena, c, r, T);
  if (r.last_stage) {
    logit_rows = i32({max_sequences});
    logit_x = f32({max_sequences, H});
    logits = f32({max_sequences, r.vocab.size()});
    logits_all = f32({r.tp, max_sequences, r.vocab.size()});
  }
}

void Workspace::lay_out_operations(Arena& arena, const ModelConfig& c, const RankPlan& r, int64_t T) {
  const int64_t H = c.hidden_size, heads = r.heads.size();
  const auto f32 = [&](std::initializer_list<int64_t> dims) { return arena.take(DType::f32, dims); };
  const auto i32 = [&](std::initializer_list<int64_t> dims) { return arena.take(DType::i32, dims); };
  h = f32({T, H});
  branch = f32({T, H});

  latents_in = f32({T, c.q_lora_rank + c.cache_dim()});
  q = f32({T, heads, c.qk_head_dim()});
  latent = f32({T, c.kv_lora_rank});
  absorbed_q = f32({T, heads, c.kv_lora_rank});
  absorbed_o = f32({T, heads, c.kv_lora_rank});
  o = f32({T, heads, c.v_head_dim});
  o_part = f32({T, heads, c.v_head_dim});
  lse = f32({T, heads});
  lse_part = f32({T, heads});
  tile_rows = f32({kKeyTile, c.cache_dim()});
  tile_kv = f32({kKeyTile, heads, c.qk_nope_head_dim + c.v_head_dim});

  const int64_t width = std::max(r.dense_inter.size(), r.shared_inter.size());
  gate_up = f32({T, 2 * width});
  act = f32({T, width});

  if (c.n_routed_experts > 0) {
    const int64_t k = c.num_experts_per_tok, pairs = T * std::min(k, r.experts.size()), inner = r.moe_inter.size();
    scores = f32({T, c.n_routed_experts});
    experts = i32({T, k});
    weights = f32({T, k});
    pair_in = f32({pairs, H});
    pair_gate_up = f32({pairs, 2 * inner});
    pair_act = f32({pairs, inner});
    pair_out = f32({pairs, H});
    pair_rows = i32({pairs});
    pair_scale = f32({pairs});
    if (r.dp > 1) {
      const int64_t own = (T + r.tp - 1) / r.tp;                                   // row i is dispatched by tp rank i mod tp
      const int64_t copies = own * std::min<int64_t>(k, r.ep) * r.moe_tp;          // each expert slice once, all its cuts
      const int64_t arriving = own * r.tp * r.dp;
      send_rows = f32({copies, H});
      send_meta = i32({copies, 2 * k});
      returned_rows = f32({copies, H});
      recv_rows = f32({arriving, H});
      recv_meta = i32({arriving, 2 * k});
      result_rows = f32({arriving, H});
    }
  }
}

}  // namespace dsinfer
