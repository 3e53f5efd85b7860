#include "model/block_layers.hpp"

#include <algorithm>

#include "model/moe.hpp"

namespace dsinfer {

BlockDims block_dims(const ModelConfig& c, const RankPlan& r, const ForwardOptions& limits) {
  BlockDims d;
  d.hidden = c.hidden_size;
  d.heads = r.heads.size();
  d.q_lora_rank = c.q_lora_rank;
  d.kv_lora_rank = c.kv_lora_rank;
  d.nope = c.qk_nope_head_dim;
  d.rope = c.qk_rope_head_dim;
  d.value = c.v_head_dim;
  d.dense_inter = r.dense_inter.size();
  d.moe_inter = r.moe_inter.size();
  d.shared_inter = r.shared_inter.size();
  d.experts = c.n_routed_experts;
  d.own_experts = r.dp > 1 ? 0 : r.experts.size();  // with dp, rows go to other ranks' experts in the middle of a layer
  for (int64_t i = r.layers.begin; i < r.layers.end; ++i) (c.is_moe(i) ? d.moe_layers : d.dense_layers) = true;
  if (c.fp8) d.block_rows = c.fp8->block_rows, d.block_cols = c.fp8->block_cols;
  d.rope_interleave = c.rope_interleave;
  d.gate = gate_options(c);
  d.eps = static_cast<float>(c.rms_norm_eps);
  d.latent_eps = static_cast<float>(ModelConfig::kLatentNormEps);
  d.softmax_scale = static_cast<float>(c.softmax_scale());
  d.max_tokens = limits.max_tokens;
  d.max_len = limits.max_len;
  d.cache = limits.cache == CacheFormat::fp8 ? CacheRows::fp8 : limits.cache == CacheFormat::f32 ? CacheRows::f32 : CacheRows::bf16;
  return d;
}

namespace {

AttentionWeights attention_weights(const WeightSet& weights, const std::string& layer) {
  const std::string attention = layer + "self_attn.", kv_b = attention + "kv_b_proj.weight";
  AttentionWeights w;
  w.norm = weights.vector(layer + "input_layernorm.weight");
  w.q_norm = weights.vector(attention + "q_a_layernorm.weight");
  w.kv_norm = weights.vector(attention + "kv_a_layernorm.weight");
  w.latents = weights.fused(attention + "q_a_proj.weight");
  w.q_b = &weights.matrix(attention + "q_b_proj.weight");
  w.kv_b = &weights.matrix(kv_b);
  w.key_up = &weights.key_up(kv_b);
  w.value_up = &weights.value_up(kv_b);
  w.o = &weights.matrix(attention + "o_proj.weight");
  return w;
}

MoeWeights moe_weights(const ModelConfig& config, const RankPlan& rank, const WeightSet& weights, const std::string& layer, BlockLayers::Layer& held) {
  const std::string mlp = layer + "mlp.";
  for (int64_t e = rank.experts.begin; e < rank.experts.end; ++e) {
    const std::string expert = mlp + "experts." + std::to_string(e) + ".";
    if (const Weight* gate_up = weights.fused(expert + "gate_proj.weight")) held.expert_gate_up.push_back(*gate_up);
    held.expert_down.push_back(weights.matrix(expert + "down_proj.weight"));
  }
  MoeWeights w;
  w.norm = weights.vector(layer + "post_attention_layernorm.weight");
  if (config.topk_method == TopkMethod::noaux_tc) w.bias = weights.vector(mlp + "gate.e_score_correction_bias");
  w.gate = &weights.matrix(mlp + "gate.weight");
  w.gate_up = held.expert_gate_up;
  w.down = held.expert_down;
  if (config.n_shared_experts > 0) {
    w.shared_gate_up = weights.fused(mlp + "shared_experts.gate_proj.weight");
    w.shared_down = &weights.matrix(mlp + "shared_experts.down_proj.weight");
  }
  return w;
}

}  // namespace

BlockLayers::BlockLayers(const ModelConfig& config, const RankPlan& rank, const WeightSet& weights, const Blocks& blocks) {
  layers_.resize(static_cast<size_t>(rank.layers.size()));  // of its final size: spans look into it
  for (int64_t i = rank.layers.begin; i < rank.layers.end; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    Layer& layer = layers_[static_cast<size_t>(i - rank.layers.begin)];
    layer.attention = attention_weights(weights, prefix);
    if (config.is_moe(i)) {
      layer.moe = moe_weights(config, rank, weights, prefix, layer);
    } else {
      layer.mlp = MlpWeights{weights.vector(prefix + "post_attention_layernorm.weight"), weights.fused(prefix + "mlp.gate_proj.weight"), &weights.matrix(prefix + "mlp.down_proj.weight")};
    }
    try {
      blocks.check(layer.attention);
      if (layer.mlp) blocks.check(*layer.mlp);
      if (layer.moe) blocks.check(*layer.moe);
    } catch (const Error& e) {
      throw Error(e.code(), "layer " + std::to_string(i) + ": " + e.what());
    }
  }
}

std::vector<BlockSegment> prefill_segments(const BatchPart& part) {
  std::vector<BlockSegment> segments;
  int64_t row = 0;
  for (const Segment& segment : part.segments) {
    if (!segment.decode && segment.rows > 0) segments.push_back({row, segment.rows, segment.position});
    row += segment.rows;
  }
  return segments;
}

LengthClass length_class(const BatchPart& part, int64_t max_len) {
  int64_t longest = 1;
  for (const Segment& segment : part.segments) longest = std::max(longest, segment.position + segment.rows);
  LengthClass c{1024, 0};
  for (; c.longest < longest; c.longest *= 2) ++c.number;
  c.longest = std::min(c.longest, max_len);
  return c;
}

}  // namespace dsinfer
