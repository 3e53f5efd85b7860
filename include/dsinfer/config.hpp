/// ModelConfig: every number of a checkpoint's config.json that inference uses, checked. Pure: no file but the JSON itself.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dsinfer/export.hpp"

namespace dsinfer {

enum class Scoring { softmax, sigmoid };
enum class TopkMethod { greedy, group_limited_greedy, noaux_tc };

/// YaRN context extension (static frequencies). Source: rope_scaling / rope_parameters.
struct YarnConfig {
  double factor = 1;
  int64_t original_max_position_embeddings = 0;
  double beta_fast = 32, beta_slow = 1;
  double mscale = 0, mscale_all_dim = 0;  ///< 0 = absent
};

/// FP8 block quantisation of the checkpoint. Source: quantization_config.
struct Fp8Config {
  int64_t block_rows = 128, block_cols = 128;  ///< weight_block_size, rows first
  bool ue8m0 = false;                          ///< scale_fmt: activation scales are rounded up to powers of two
};

/// Who wrote 4-bit weights: AutoAWQ's "gemm" tensors (qweight, qzeros, scales; transposed), or compressed-tensors' pack-quantized ones (weight_packed, weight_scale).
enum class Int4Layout { awq, pack_quantized };

/// 4-bit group quantisation of the checkpoint's linear layers. Source: quantization_config.
struct DSINFER_API Int4Config {
  static constexpr int kBits = 4;
  int64_t group_size = 128;               ///< input features that share a scale
  bool zero_points = true;                ///< one for each scale; false: symmetric
  Int4Layout layout = Int4Layout::awq;
  /// Modules left as they are. awq: a part of the name; pack_quantized: the name, or after "re:" a pattern of its beginning.
  std::vector<std::string> not_converted;

  /// By the lists alone: "model.layers.3.mlp.experts.0.up_proj". What the files hold is trusted over it.
  bool converts(std::string_view module) const;
};

/// Field names are the keys of config.json unless said otherwise.
struct DSINFER_API ModelConfig {
  std::string model_type;  ///< deepseek_v3, deepseek_v2, kimi_k2
  int64_t vocab_size = 0, hidden_size = 0, num_hidden_layers = 0, num_attention_heads = 0;
  int64_t q_lora_rank = 0;  ///< 0 = null: one direct q_proj
  int64_t kv_lora_rank = 0, qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  int64_t intermediate_size = 0, moe_intermediate_size = 0;
  int64_t n_routed_experts = 0, num_experts_per_tok = 0, n_shared_experts = 0;
  int64_t first_k_dense_replace = 0, moe_layer_freq = 1;
  Scoring scoring_func = Scoring::sigmoid;
  TopkMethod topk_method = TopkMethod::noaux_tc;
  int64_t n_group = 1, topk_group = 1;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  std::optional<YarnConfig> yarn;
  bool rope_interleave = true;
  int64_t max_position_embeddings = 0;
  int64_t num_nextn_predict_layers = 0;
  std::optional<Fp8Config> fp8;  ///< absent: the checkpoint is not block quantised
  std::optional<Int4Config> int4; ///< absent: no 4-bit weights
  int64_t bos_token_id = -1;     ///< -1 = absent
  std::vector<int64_t> eos_token_id;

  /// The latent norms' epsilon is 1e-6 whatever rms_norm_eps says (as DeepSeek's and transformers' code build them).
  static constexpr double kLatentNormEps = 1e-6;

  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  /// Width of one cached row: latent then rope key.
  int64_t cache_dim() const { return kv_lora_rank + qk_rope_head_dim; }
  bool is_moe(int64_t layer) const {
    return n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
  }
  /// Softmax scale of the attention: qk_head_dim^-1/2, times mscale² under YaRN.
  double softmax_scale() const;
  /// qk_rope_head_dim / 2 inverse frequencies, YaRN applied. Formed in double.
  std::vector<double> rope_inv_freq() const;
  /// Factor on cos and sin (1 for every released model).
  double rope_attention_factor() const;

  /// From the text of a config.json. `origin` names it in errors. Throws bad_format naming the key that is missing, of the wrong type,
  /// or contradicts another; unsupported for an unknown model_type or a layer kind this library does not have.
  static ModelConfig parse(std::string_view json, const std::string& origin = "config.json");
  /// From `folder`/config.json (or the file itself).
  static ModelConfig load(const std::filesystem::path& folder);
};

}  // namespace dsinfer
