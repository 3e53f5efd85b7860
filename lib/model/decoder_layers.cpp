#include "model/decoder_layers.hpp"

namespace dsinfer {

DecoderLayers::DecoderLayers(Context& context, const WeightSet& weights, const KvCache& cache, Blocks* blocks) : context_(context), cache_(cache), blocks_(blocks) {
  const ModelConfig& config = context.config;
  const RankPlan& rank = context.rank;
  for (int64_t i = rank.layers.begin; i < rank.layers.end; ++i) moe_layers_ += config.is_moe(i);
  if (blocks) {
    block_layers_.emplace(config, rank, weights, *blocks);
    return;
  }
  exchange_.emplace(context);
  for (int64_t i = rank.layers.begin; i < rank.layers.end; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    Layer layer{Attention(config, weights, prefix + "self_attn."), weights.vector(prefix + "input_layernorm.weight"),
                weights.vector(prefix + "post_attention_layernorm.weight"), {}, {}};
    if (config.is_moe(i)) {
      layer.moe.emplace(config, rank, weights, prefix + "mlp.");
    } else {
      layer.mlp.emplace(weights, prefix + "mlp.");
    }
    layers_.push_back(std::move(layer));
  }
}

void DecoderLayers::run(const StepRows& step, bool always_the_same) {
  const std::vector<BlockSegment> prefill = prefill_segments(*step.part);
  const LengthClass length = length_class(*step.part, context_.rope_table.dim(0));
  bool ran = false;
  context_.backend.run({always_the_same ? static_cast<int>(step.rows) : 0, blocks_ ? length.number : 0}, [&] {
    ran = true;
    if (blocks_) run_blocks(step, prefill, length.longest);
    else run_operations(step);
  });
  // A replay runs none of our code; where a host takes part in the experts, nothing is replayed.
  if (!ran) count_expert_rows();
}

void DecoderLayers::run_operations(const StepRows& step) {
  Backend& backend = context_.backend;
  const Workspace& ws = context_.ws;
  const auto eps = static_cast<float>(context_.config.rms_norm_eps);
  const TensorView x = ws.x.rows(0, step.rows), h = ws.h.rows(0, step.rows), branch = ws.branch.rows(0, step.rows);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (i == 0) {
      backend.rms_norm(h, x, layer.input_norm, eps);
    } else {
      backend.add_rms_norm(h, x, branch, layer.input_norm, eps);  // the branch is the feed-forward of the layer before
    }
    layer.attention.forward(context_, step, cache_.layer(static_cast<int64_t>(i)));
    context_.sum_over_tp(branch);
    backend.add_rms_norm(h, x, branch, layer.post_norm, eps);
    if (layer.moe) {
      layer.moe->forward(context_, *exchange_, step.rows);
    } else {
      layer.mlp->forward(context_, branch, h);
    }
    context_.sum_over_tp(branch);
  }
  backend.add(x, branch);
}

void DecoderLayers::run_blocks(const StepRows& step, const std::vector<BlockSegment>& prefill, int64_t longest) {
  BlockStep rows;
  rows.residual = context_.ws.x.rows(0, step.rows);
  rows.positions = step.attention.positions;
  rows.block_table = step.attention.block_table;
  rows.rope_table = context_.rope_table;
  rows.decode_rows = step.decode_rows;
  rows.prefill = prefill;
  rows.longest = longest;
  blocks_->begin(rows);
  const std::vector<BlockLayers::Layer>& all = block_layers_->layers();
  for (size_t i = 0; i < all.size(); ++i) {
    blocks_->attention(all[i].attention, cache_.layer(static_cast<int64_t>(i)));
    if (context_.rank.tp > 1) context_.sum_over_tp(blocks_->branch());
    if (all[i].moe) blocks_->moe(*all[i].moe);
    else blocks_->mlp(*all[i].mlp);
    if (context_.rank.tp > 1) context_.sum_over_tp(blocks_->branch());
  }
  blocks_->finish();
  count_expert_rows();
}

}  // namespace dsinfer
