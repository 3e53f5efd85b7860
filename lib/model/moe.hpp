/// MoE layer: gate → exchange → own experts → exchange, plus the shared expert.
#pragma once
#include <optional>

#include "model/expert_exchange.hpp"
#include "model/mlp.hpp"

namespace dsinfer {

class Moe {
 public:
  /// prefix: "model.layers.3.mlp."
  Moe(const ModelConfig& config, const RankPlan& rank, const WeightSet& weights, const std::string& prefix);
  /// ws.branch := partial sum over tp of the layer's output for ws.h. Collective over the stage when dp > 1, also with no rows.
  void forward(Context& context, ExpertExchange& exchange, int64_t rows) const;

 private:
  bool on_device(Context& context, int64_t rows) const;
  void own_experts(Context& context, TensorView out, TensorView x, const int32_t* meta, int64_t n) const;

  const Weight* gate_;                           // [E, H]
  TensorView bias_;                              // [E] f32, V3 only
  GateOptions options_;
  std::vector<Weight> expert_gate_up_;           // own experts: [2·MI, H], or none unless all of them have gate and up back to back
  std::vector<Weight> expert_gate_, expert_up_, expert_down_;  // own experts: [MI, H], [MI, H], [H, MI]
  std::optional<Mlp> shared_;
  mutable std::vector<int64_t> offsets_;         // [own experts + 1] pairs of each expert
};

/// How a config's gate chooses and weighs. Source: config.json's scoring_func, topk_method, norm_topk_prob, routed_scaling_factor.
DSINFER_INTERNAL GateOptions gate_options(const ModelConfig& config);

}  // namespace dsinfer
