#include "model/attention.hpp"

#include <cmath>

namespace dsinfer {

Attention::Attention(const ModelConfig& config, const WeightSet& weights, const std::string& prefix)
    : q_(&weights.matrix(prefix + (config.q_lora_rank > 0 ? "q_b_proj.weight" : "q_proj.weight"))),
      kv_a_(&weights.matrix(prefix + "kv_a_proj_with_mqa.weight")),
      kv_a_norm_(weights.vector(prefix + "kv_a_layernorm.weight")),
      kv_b_(&weights.matrix(prefix + "kv_b_proj.weight")),
      key_up_(&weights.key_up(prefix + "kv_b_proj.weight")),
      value_up_(&weights.value_up(prefix + "kv_b_proj.weight")),
      o_(&weights.matrix(prefix + "o_proj.weight")),
      scale_(static_cast<float>(config.softmax_scale())) {
  if (config.q_lora_rank > 0) {
    q_a_ = &weights.matrix(prefix + "q_a_proj.weight");
    latents_ = weights.fused(prefix + "q_a_proj.weight");
    q_a_norm_ = weights.vector(prefix + "q_a_layernorm.weight");
  }
}

void Attention::forward(Context& context, const StepRows& step, const CacheView& cache) const {
  if (step.rows == 0) return;
  project(context, step, cache);
  if (step.decode_rows > 0) decode(context, step, cache);
  if (step.rows > step.decode_rows) prefill(context, step, cache);
  const Workspace& ws = context.ws;
  const TensorView o = ws.o.rows(0, step.rows);
  context.backend.linear(ws.branch.rows(0, step.rows), o.reshape({step.rows, o.dim(1) * o.dim(2)}), *o_);
}

// ws.q := queries with their rope part rotated; the rows' latents and rope keys go to the cache.
void Attention::project(Context& context, const StepRows& step, const CacheView& cache) const {
  const ModelConfig& c = context.config;
  const Workspace& ws = context.ws;
  Backend& backend = context.backend;
  const int64_t T = step.rows, heads = context.rank.heads.size();
  const TensorView h = ws.h.rows(0, T), q = ws.q.rows(0, T);
  const TensorView q_flat = q.reshape({T, heads * c.qk_head_dim()});
  constexpr float latent_eps = static_cast<float>(ModelConfig::kLatentNormEps);
  const TensorView latents_in = ws.latents_in.rows(0, T), kv_a = latents_in.slice(1, c.q_lora_rank, c.q_lora_rank + c.cache_dim());
  if (latents_) {
    backend.linear(latents_in, h, *latents_);
  } else {
    if (q_a_) backend.linear(latents_in.slice(1, 0, c.q_lora_rank), h, *q_a_);
    backend.linear(kv_a, h, *kv_a_);
  }
  if (q_a_) {
    const TensorView q_latent = latents_in.slice(1, 0, c.q_lora_rank);
    backend.rms_norm(q_latent, q_latent, q_a_norm_, latent_eps);
    backend.linear(q_flat, q_latent, *q_);
  } else {
    backend.linear(q_flat, h, *q_);
  }
  const TensorView positions = step.attention.positions;
  backend.rope(q.slice(2, c.qk_nope_head_dim, c.qk_head_dim()), positions, context.rope_table, c.rope_interleave);

  const TensorView latent = ws.latent.rows(0, T);
  backend.rms_norm(latent, kv_a.slice(1, 0, c.kv_lora_rank), kv_a_norm_, latent_eps);
  const TensorView key_rope = kv_a.slice(1, c.kv_lora_rank, c.cache_dim());
  TensorView one_head = key_rope;  // [T, 1, dr]: the rope key is shared by all heads
  one_head.rank = 3;
  one_head.shape = {T, 1, c.qk_rope_head_dim, 0};
  one_head.stride = {key_rope.stride[0], c.qk_rope_head_dim, 1, 0};
  backend.rope(one_head, positions, context.rope_table, c.rope_interleave);
  backend.mla_append(cache, latent, key_rope, step.attention);
}

void Attention::decode(Context& context, const StepRows& step, const CacheView& cache) const {
  const ModelConfig& c = context.config;
  const Workspace& ws = context.ws;
  const int64_t D = step.decode_rows;
  const TensorView q = ws.q.rows(0, D), absorbed_q = ws.absorbed_q.rows(0, D), absorbed_o = ws.absorbed_o.rows(0, D);
  context.backend.linear_per_head(absorbed_q, q.slice(2, 0, c.qk_nope_head_dim), *key_up_);
  context.backend.mla_attend(absorbed_o, absorbed_q, q.slice(2, c.qk_nope_head_dim, c.qk_head_dim()), cache, step.decode(), scale_);
  context.backend.linear_per_head(ws.o.rows(0, D), absorbed_o, *value_up_);
}

void Attention::prefill(Context& context, const StepRows& step, const CacheView& cache) const {
  int64_t row = 0;
  for (const Segment& segment : step.part->segments) {
    if (!segment.decode) prefill_segment(context, row, segment, step.attention.block_table.rows(row, row + 1), cache);
    row += segment.rows;
  }
}

// The keys of all positions up to the chunk's end are expanded tile by tile from the cache, and the tiles merged by log-sum-exp. Tiles
// lie at fixed positions, so a chunk's length moves no sum between tiles.
void Attention::prefill_segment(Context& context, int64_t first_row, const Segment& segment, TensorView pages, const CacheView& cache) const {
  const ModelConfig& c = context.config;
  const Workspace& ws = context.ws;
  Backend& backend = context.backend;
  const int64_t end_row = first_row + segment.rows, heads = context.rank.heads.size(), width = c.qk_nope_head_dim + c.v_head_dim;
  const TensorView q = ws.q.rows(first_row, end_row);
  const TensorView o = ws.o.rows(first_row, end_row), lse = ws.lse.rows(first_row, end_row);
  const int64_t keys = segment.position + segment.rows;
  for (int64_t first = 0; first < keys; first += kKeyTile) {
    const int64_t n = std::min(kKeyTile, keys - first);
    const TensorView cached = ws.tile_rows.rows(0, n), kv = ws.tile_kv.rows(0, n);
    backend.mla_gather(cached, cache, pages.reshape({pages.dim(1)}), first);
    backend.linear(kv.reshape({n, heads * width}), cached.slice(1, 0, c.kv_lora_rank), *kv_b_);
    const bool whole = first == 0;
    const TensorView out = whole ? o : ws.o_part.rows(0, segment.rows), out_lse = whole ? lse : ws.lse_part.rows(0, segment.rows);
    backend.attend_expanded(out, out_lse, q, kv, cached.slice(1, c.kv_lora_rank, c.cache_dim()), segment.position, first, scale_);
    if (!whole) backend.merge_attention(o, lse, out, out_lse);
  }
}

std::vector<float> make_rope_table(const ModelConfig& config, int64_t max_len) {
  const std::vector<double> inv_freq = config.rope_inv_freq();
  const double factor = config.rope_attention_factor();
  std::vector<float> table(static_cast<size_t>(max_len * config.qk_rope_head_dim));
  float* entry = table.data();
  for (int64_t position = 0; position < max_len; ++position) {
    for (double f : inv_freq) {
      const double angle = static_cast<double>(position) * f;
      *entry++ = static_cast<float>(std::cos(angle) * factor);
      *entry++ = static_cast<float>(std::sin(angle) * factor);
    }
  }
  return table;
}

}  // namespace dsinfer
