#include "model/moe.hpp"

namespace dsinfer {

GateOptions gate_options(const ModelConfig& c) {
  GateOptions gate;
  gate.sigmoid = c.scoring_func == Scoring::sigmoid;
  gate.grouped = c.topk_method != TopkMethod::greedy && c.n_group > 1;
  gate.group_score_top2 = c.topk_method == TopkMethod::noaux_tc;
  gate.n_group = c.n_group;
  gate.topk_group = c.topk_group;
  gate.top_k = c.num_experts_per_tok;
  // DeepSeek's V2 code scales only where it does not normalise, V3's does both.
  gate.normalise = c.norm_topk_prob && (gate.sigmoid || c.num_experts_per_tok > 1);
  gate.scale = gate.sigmoid || !gate.normalise ? static_cast<float>(c.routed_scaling_factor) : 1.0f;
  return gate;
}

Moe::Moe(const ModelConfig& config, const RankPlan& rank, const WeightSet& weights, const std::string& prefix)
    : gate_(&weights.matrix(prefix + "gate.weight")), options_(gate_options(config)) {
  if (config.topk_method == TopkMethod::noaux_tc) bias_ = weights.vector(prefix + "gate.e_score_correction_bias");
  for (int64_t e = rank.experts.begin; e < rank.experts.end; ++e) {
    const std::string expert = prefix + "experts." + std::to_string(e) + ".";
    expert_gate_.push_back(weights.matrix(expert + "gate_proj.weight"));
    expert_up_.push_back(weights.matrix(expert + "up_proj.weight"));
    expert_down_.push_back(weights.matrix(expert + "down_proj.weight"));
    if (const Weight* gate_up = weights.fused(expert + "gate_proj.weight")) expert_gate_up_.push_back(*gate_up);
  }
  if (expert_gate_up_.size() != expert_gate_.size()) expert_gate_up_.clear();
  if (config.n_shared_experts > 0) shared_.emplace(weights, prefix + "shared_experts.");
  offsets_.resize(expert_gate_.size() + 1);
}

void Moe::forward(Context& context, ExpertExchange& exchange, int64_t rows) const {
  const Workspace& ws = context.ws;
  const TensorView h = ws.h.rows(0, rows), branch = ws.branch.rows(0, rows);
  if (rows > 0) {
    context.backend.linear(ws.scores.rows(0, rows), h, *gate_);
    context.backend.route(ws.experts.rows(0, rows), ws.weights.rows(0, rows), ws.scores.rows(0, rows), bias_, options_);
    if (shared_) {
      shared_->forward(context, branch, h);
    } else {
      context.backend.zero(branch);
    }
    if (on_device(context, rows)) return;
  }
  exchange.run(context, rows, [&](TensorView out, TensorView x, const int32_t* meta, int64_t n) { own_experts(context, out, x, meta, n); });
}

// All in one call, without the host, where this rank needs no other and has every expert (so that their rows can be counted unseen), and the backend can.
bool Moe::on_device(Context& context, int64_t rows) const {
  const Workspace& ws = context.ws;
  const int64_t k = context.config.num_experts_per_tok;
  if (context.rank.dp > 1 || context.rank.experts.size() != context.config.n_routed_experts || expert_gate_up_.empty()) return false;
  const bool done = context.backend.routed_experts(ws.branch.rows(0, rows), ws.h.rows(0, rows), ws.experts.rows(0, rows), ws.weights.rows(0, rows), context.rank.experts.begin,
                                                   expert_gate_up_, expert_down_, {ws.pair_rows, ws.pair_scale, ws.pair_gate_up, ws.pair_act, ws.pair_out});
  if (done) context.stats.expert_rows_computed += static_cast<uint64_t>(std::min(rows, context.counted_rows) * k);
  return done;
}

// Pairs (row, expert) of this rank, expert by expert; a row's experts are added in ascending order.
void Moe::own_experts(Context& context, TensorView out, TensorView x, const int32_t* meta, int64_t n) const {
  const Workspace& ws = context.ws;
  const Range own = context.rank.experts;
  const int64_t k = context.config.num_experts_per_tok, inner = context.rank.moe_inter.size();
  int64_t pairs = 0;
  int32_t* pair_rows = context.pair_rows.data();
  float* pair_scale = context.pair_scale.data();
  for (int64_t e = own.begin; e < own.end; ++e) {
    offsets_[static_cast<size_t>(e - own.begin)] = pairs;
    for (int64_t row = 0; row < n; ++row) {
      const int32_t* ids = meta + row * 2 * k;
      for (int64_t j = 0; j < k; ++j) {
        if (ids[j] != e) continue;
        pair_rows[pairs] = static_cast<int32_t>(row);
        std::memcpy(&pair_scale[pairs], ids + k + j, 4);
        ++pairs;
      }
    }
  }
  offsets_.back() = pairs;
  context.stats.expert_rows_computed += static_cast<uint64_t>(pairs);
  if (pairs == 0) return;

  Backend& backend = context.backend;
  context.pair_rows.send(backend, pairs);
  context.pair_scale.send(backend, pairs);
  const TensorView rows = ws.pair_rows.rows(0, pairs), in = ws.pair_in.rows(0, pairs), gate_up = ws.pair_gate_up.rows(0, pairs);
  backend.gather_rows(in, x, rows);
  if (!expert_gate_up_.empty()) {
    backend.grouped_linear(gate_up, in, expert_gate_up_, offsets_);
  } else {
    backend.grouped_linear(gate_up.slice(1, 0, inner), in, expert_gate_, offsets_);
    backend.grouped_linear(gate_up.slice(1, inner, 2 * inner), in, expert_up_, offsets_);
  }
  backend.silu_mul(ws.pair_act.rows(0, pairs), gate_up);
  backend.grouped_linear(ws.pair_out.rows(0, pairs), ws.pair_act.rows(0, pairs), expert_down_, offsets_);
  backend.scatter_add(out, ws.pair_out.rows(0, pairs), rows, ws.pair_scale.rows(0, pairs));
}

}  // namespace dsinfer
