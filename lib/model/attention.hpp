/// MLA of one layer: expanded form for prefill rows, absorbed form for decode rows, over the paged latent cache.
#pragma once
#include "model/workspace.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {

/// Holds references into `weights`, which must outlive it.
class Attention {
 public:
  /// prefix: "model.layers.7.self_attn."
  Attention(const ModelConfig& config, const WeightSet& weights, const std::string& prefix);

  /// ws.branch := this tp rank's partial sum of the attention of ws.h (the caller sums over tp).
  void forward(Context& context, const StepRows& step, const CacheView& cache) const;

 private:
  void project(Context& context, const StepRows& step, const CacheView& cache) const;
  void decode(Context& context, const StepRows& step, const CacheView& cache) const;
  void prefill(Context& context, const StepRows& step, const CacheView& cache) const;
  void prefill_segment(Context& context, int64_t first_row, const Segment& segment, TensorView pages, const CacheView& cache) const;

  const Weight* q_a_ = nullptr;  // [rq, H]; absent without q_lora
  const Weight* latents_ = nullptr;  // [rq + rkv + dr, H]: q_a and kv_a, where they lie back to back
  TensorView q_a_norm_;          // [rq] f32
  const Weight* q_;              // [heads · (dn + dr), rq or H]
  const Weight* kv_a_;           // [rkv + dr, H]
  TensorView kv_a_norm_;         // [rkv] f32
  const Weight* kv_b_;           // [heads · (dn + dv), rkv]
  const Weight* key_up_;         // [heads, rkv, dn] f32
  const Weight* value_up_;       // [heads, dv, rkv] f32
  const Weight* o_;              // [H, heads · dv]
  float scale_;                  // qk_head_dim^-1/2 · mscale²
};

/// cos and sin of every position and pair: [max_len, dr] f32, angles formed in double.
DSINFER_INTERNAL std::vector<float> make_rope_table(const ModelConfig& config, int64_t max_len);

}  // namespace dsinfer
