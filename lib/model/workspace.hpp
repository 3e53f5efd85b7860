/// Workspace: every activation of one rank's step, laid out once at build. Context: what the layers of one rank share.
#pragma once
#include <algorithm>
#include <vector>

#include "backend/backend.hpp"
#include "comm/groups.hpp"
#include "dsinfer/forward.hpp"
#include "model/batch.hpp"
#include "model/host_side.hpp"

namespace dsinfer {

/// Keys of this many positions are re-expanded from the cache at a time; tiles begin at multiples of it, whatever the chunk.
inline constexpr int64_t kKeyTile = 256;

/// Most bytes held are known from config, plan and max_tokens alone: construct over Arena::counting() to learn the size (plan/memory.hpp tells it to planners).
struct DSINFER_INTERNAL Workspace {
  /// block_bytes: room for a backend's blocks, in place of what the fine operations of a layer need; 0: those.
  Workspace(Arena& arena, const ModelConfig& c, const RankPlan& r, int64_t max_tokens, int64_t max_sequences, int64_t max_pages, int64_t block_bytes = 0);

  TensorView tokens, positions;      // [T] i32
  TensorView block_table;            // [T, max_pages] i32
  TensorView x, h, branch;           // [T, H]: residual, normed input, output of a sublayer
  TensorView latents_in;             // [T, rq + rkv + dr]: q's latent, then the row of the cache; one product where their weights lie back to back
  TensorView q;                      // [T, heads, dn + dr]
  TensorView latent;                 // [T, rkv]
  TensorView absorbed_q, absorbed_o; // [T, heads, rkv]
  TensorView o, o_part;              // [T, heads, dv]
  TensorView lse, lse_part;          // [T, heads]
  TensorView tile_rows;              // [kKeyTile, rkv + dr]
  TensorView tile_kv;                // [kKeyTile, heads, dn + dv]
  TensorView gate_up, act;           // [T, 2·I], [T, I], I = widest MLP of this rank
  TensorView scores;                 // [T, E]
  TensorView experts, weights;       // [T, k] i32, f32
  TensorView pair_in, pair_gate_up, pair_act, pair_out;  // [P, H], [P, 2·MI], [P, MI], [P, H]; P = T · min(k, own experts)
  TensorView pair_rows, pair_scale;  // [P] i32, f32
  TensorView send_rows, send_meta;   // exact exchange: [T·copies, H], [T·copies, 2k] i32; copies = most destinations of a row
  TensorView recv_rows, recv_meta;   // [dp·T, H], …: each row of the stage reaches a rank at most once
  TensorView result_rows;            // [dp·T, H]
  TensorView returned_rows;          // as send_rows
  TensorView blocks;                 // [block_bytes] u8
  TensorView logit_rows, logit_x;    // [R] i32, [R, H], R = max_sequences
  TensorView logits, logits_all;     // [R, V/tp], [tp, R, V/tp]

 private:
  void lay_out_operations(Arena& arena, const ModelConfig& c, const RankPlan& r, int64_t max_tokens);
};

struct Context {
  const ModelConfig& config;
  const RankPlan& rank;
  Backend& backend;
  Groups& groups;
  Workspace& ws;
  TensorView rope_table;  // [max_len, dr] f32
  ForwardStats& stats;
  int64_t counted_rows = 0;  ///< of the step: those that are no padding
  void sum_over_tp(TensorView x) {
    if (rank.tp > 1 && x.dim(0) > 0) groups.tp->all_reduce(x, backend.stream());
  }
  HostSide<int32_t> experts = HostSide<int32_t>(ws.experts);  ///< the gate's choice, read back by the exchange
  HostSide<float> weights = HostSide<float>(ws.weights);
  HostSide<int32_t> pair_rows = HostSide<int32_t>(ws.pair_rows);  ///< which rows go through which expert, made on the host
  HostSide<float> pair_scale = HostSide<float>(ws.pair_scale);
};

/// The rows of this rank's dp part in one step.
struct StepRows {
  int64_t rows = 0, decode_rows = 0;  ///< decode rows come first
  const BatchPart* part = nullptr;
  AttentionBatch attention;           ///< of all rows
  AttentionBatch decode() const { return {attention.positions.rows(0, decode_rows), attention.block_table.rows(0, decode_rows)}; }
};

}  // namespace dsinfer
