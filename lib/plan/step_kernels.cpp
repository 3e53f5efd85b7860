// Times of one rank's kernels: bytes over the memory's rate and FLOPs over the peak, each with the share that its curve says, plus what a launch costs.
#include <algorithm>
#include <cmath>

#include "plan/step_model.hpp"

namespace dsinfer {
namespace {

// One rank's share of an attention layer's matrices: [0] cut by heads, [1] kept whole.
struct AttentionWeights { double cut = 0, whole = 0; };

AttentionWeights attention_weights(const ModelConfig& c) {
  const double hidden = static_cast<double>(c.hidden_size), heads = static_cast<double>(c.num_attention_heads), latent = static_cast<double>(c.kv_lora_rank);
  const double query = heads * static_cast<double>(c.qk_head_dim()), value = heads * static_cast<double>(c.v_head_dim);
  AttentionWeights w;
  w.whole = hidden * static_cast<double>(c.cache_dim());
  if (c.q_lora_rank > 0) {
    w.whole += hidden * static_cast<double>(c.q_lora_rank);
    w.cut += static_cast<double>(c.q_lora_rank) * query;
  } else {
    w.cut += hidden * query;
  }
  w.cut += latent * heads * static_cast<double>(c.qk_nope_head_dim + c.v_head_dim) + value * hidden;
  return w;
}

// The largest of n draws from a normal law lies about this many deviations above the mean: sqrt(2 ln n), less the correction that matters at tens of ranks.
double deviations_of_the_busiest(double n) { return n > 1 ? 0.75 * std::sqrt(2 * std::log(n)) : 0; }

// Of a row's traffic (gather 1 byte, write 2, weighted sum 2) what is left where the exchange gathers and sums: the write.
constexpr double kDelivered = 2.0 / 5;

}  // namespace

double StepModel::stream_us(double bytes, double share) const { return bytes / (fleet.gpu.memory_gb_per_s * 1e3 * share); }

double StepModel::math_us(double flops, double tflops, double share, double bytes_per_flop) const {
  return flops / (tflops * 1e6 * share) + flops * bytes_per_flop / (fleet.gpu.memory_gb_per_s * 1e3);
}

void StepModel::gemm(Tally& tally, Part part, double weights, const WeightForm& form, double tokens, Bound memory, Bound math) const {
  const double load = stream_us(weights * form.bytes, family.weight_stream);
  const double multiply = math_us(2 * weights * tokens, form.tflops, family.gemm_share, family.gemm_bytes_per_flop);
  tally.add(part, load >= multiply ? memory : math, std::hypot(load, multiply));
}

void StepModel::attention_projections(Tally& tally, double tokens) const {
  const AttentionWeights w = attention_weights(config);
  gemm(tally, Part::attention, w.whole + w.cut / tp, numerics.attention, tokens, Bound::attention_weights, Bound::other_math);
  tally.add(Part::attention, Bound::launches, family.attention_fixed_us);
}

// Absorbed: the latent row is key and value of all heads. FlashMLA overlaps loads and arithmetic wholly, so the larger counts.
void StepModel::absorbed_core(Tally& tally, double sequences, double queries, double context) const {
  const double heads = static_cast<double>(config.num_attention_heads) / tp;
  const double flops = sequences * queries * context * 2 * heads * static_cast<double>(config.cache_dim() + config.kv_lora_rank);
  const double multiply = math_us(flops, numerics.core_tflops, family.core_share, family.core_bytes_per_flop);
  const double load = stream_us(sequences * context * numerics.cache_bytes, family.cache_stream);
  tally.add(Part::attention, load >= multiply ? Bound::cache : Bound::core_math, std::max(load, multiply));
}

// The cheaper of both forms: absorbed, or keys and values expanded by kv_b (again for what is cached). Causal: a query of the chunk sees half of it.
void StepModel::prefill_core(Tally& tally, double tokens, double context) const {
  const double heads = static_cast<double>(config.num_attention_heads) / tp;
  const double keys = std::max(tokens < context ? context - tokens / 2 : context / 2, 1.0);
  const double absorbed = tokens * keys * 2 * heads * static_cast<double>(config.cache_dim() + config.kv_lora_rank);
  const double expand = std::max(context - tokens, 0.0) * 2 * static_cast<double>(config.kv_lora_rank) * heads * static_cast<double>(config.qk_nope_head_dim + config.v_head_dim);
  const double expanded = tokens * keys * 2 * heads * static_cast<double>(config.qk_head_dim() + config.v_head_dim) + expand;
  const double multiply = math_us(std::min(absorbed, expanded), numerics.core_tflops, family.core_share, family.core_bytes_per_flop);
  const double load = stream_us(std::max(context, tokens) * numerics.cache_bytes, family.cache_stream);
  tally.add(Part::attention, load >= multiply ? Bound::cache : Bound::core_math, std::max(load, multiply));
}

void StepModel::routed_experts(Tally& tally, double tokens, double skew, bool delivered) const {
  const double hidden = static_cast<double>(config.hidden_size), experts = static_cast<double>(config.n_routed_experts), top = static_cast<double>(config.num_experts_per_tok);
  const double group_tokens = tokens * dp;
  const double here = (experts + shape.redundant_experts) / ep;
  const double weights = 3 * hidden * static_cast<double>(config.moe_intermediate_size) / moe_tp;
  // Experts touched by one rank: each with this chance; the step waits for the rank with most.
  const double chance = 1 - std::pow(1 - top / experts, group_tokens);
  const double touched = std::min(here, here * chance + deviations_of_the_busiest(ep) * std::sqrt(here * chance * (1 - chance)));
  const double uneven = 1 + skew * std::sqrt(2 * std::log(std::max(ep, 1.0)) / here);
  const double rows = top * group_tokens / ep * uneven;
  const double load = stream_us(touched * weights * numerics.experts.bytes, family.expert_stream);
  const double multiply = math_us(2 * rows * weights, numerics.experts.tflops, family.gemm_share, family.gemm_bytes_per_flop);
  tally.add(Part::experts, load >= multiply ? Bound::expert_weights : Bound::expert_math, std::hypot(load, multiply));
  tally.add(Part::experts, Bound::traffic, stream_us(rows * hidden * family.row_traffic * (delivered ? kDelivered : 1), family.weight_stream));
  tally.add(Part::experts, Bound::launches, family.experts_fixed_us);
}

void StepModel::shared_expert(Tally& tally, double tokens) const {
  const double width = static_cast<double>(config.n_shared_experts * config.moe_intermediate_size);
  if (width > 0) gemm(tally, Part::experts, 3 * static_cast<double>(config.hidden_size) * width / tp, numerics.dense, tokens, Bound::other_weights, Bound::other_math);
}

void StepModel::feed_forward(Tally& tally, bool moe, double tokens, double skew, bool delivered) const {
  if (moe) {
    routed_experts(tally, tokens, skew, delivered);
    shared_expert(tally, tokens);
  } else {
    gemm(tally, Part::dense, 3 * static_cast<double>(config.hidden_size * config.intermediate_size) / tp, numerics.dense, tokens, Bound::other_weights, Bound::other_math);
  }
}

void StepModel::head(Tally& tally, double tokens) const {
  gemm(tally, Part::head, static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size) / tp, numerics.head, tokens, Bound::other_weights, Bound::other_math);
}

// Half of it is of the residual stream, whole on each rank; half of the heads, cut.
void StepModel::small_operations(Tally& tally, double tokens) const {
  const double bytes = tokens * static_cast<double>(config.hidden_size) * family.token_traffic * (0.5 + 0.5 / tp);
  tally.add(Part::other, Bound::traffic, stream_us(bytes, family.weight_stream));
  tally.add(Part::other, Bound::launches, family.layer_fixed_us);
}

}  // namespace dsinfer
