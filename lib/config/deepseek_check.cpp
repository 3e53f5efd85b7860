#include <fmt/format.h>

#include <cmath>

#include "config/deepseek.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

// Far above any released model (1.03e12 parameters in Kimi-K2), far below what overflows 64-bit byte counts.
constexpr int64_t kMaxDim = int64_t{1} << 31;
constexpr double kMaxTensorElements = 0x1p40, kMaxModelElements = 0x1p50;
constexpr int64_t kMaxLayers = 4096, kMaxExpertTensors = int64_t{1} << 20;

class Checker {
 public:
  Checker(const ModelConfig& config, const std::string& origin) : config_(config), origin_(origin) {}

  void run() const {
    dims();
    if (config_.n_routed_experts != 0) experts();
    rope();
    if (config_.fp8) blocks();
    if (config_.int4) groups();
    sizes();
  }

 private:
  template <class T> void require(bool good, const char* key, T value, const std::string& expected) const {
    if (!good) throw Error(Error::bad_format, fmt::format("{}: key \"{}\" is {}, expected {}", origin_, key, value, expected));
  }
  void positive(const char* key, int64_t value, int64_t most = kMaxDim) const {
    require(value > 0 && value <= most, key, value, fmt::format("1 … {}", most));
  }
  void real(const char* key, double value, double above, double most) const {
    require(std::isfinite(value) && value > above && value <= most, key, value, fmt::format("a number above {} and at most {}", above, most));
  }

  void dims() const {
    positive("vocab_size", config_.vocab_size);
    positive("hidden_size", config_.hidden_size);
    positive("num_hidden_layers", config_.num_hidden_layers, kMaxLayers);
    positive("num_attention_heads", config_.num_attention_heads);
    require(config_.q_lora_rank >= 0 && config_.q_lora_rank <= kMaxDim, "q_lora_rank", config_.q_lora_rank, "null, 0 or a positive number");
    positive("kv_lora_rank", config_.kv_lora_rank);
    positive("qk_nope_head_dim", config_.qk_nope_head_dim);
    positive("qk_rope_head_dim", config_.qk_rope_head_dim);
    require(config_.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", config_.qk_rope_head_dim, "an even number (pairs are rotated)");
    positive("v_head_dim", config_.v_head_dim);
    positive("intermediate_size", config_.intermediate_size);
    positive("max_position_embeddings", config_.max_position_embeddings);
    real("rms_norm_eps", config_.rms_norm_eps, 0, 1);
    require(config_.num_nextn_predict_layers >= 0 && config_.num_nextn_predict_layers <= 64, "num_nextn_predict_layers", config_.num_nextn_predict_layers, "0 … 64");
  }

  void experts() const {
    const int64_t experts = config_.n_routed_experts, groups = config_.n_group, kept = config_.topk_group, chosen = config_.num_experts_per_tok;
    require(experts > 0 && experts <= kMaxDim, "n_routed_experts", experts, "null or a positive number");
    positive("moe_intermediate_size", config_.moe_intermediate_size);
    positive("num_experts_per_tok", chosen);
    require(config_.n_shared_experts >= 0 && config_.n_shared_experts <= kMaxDim, "n_shared_experts", config_.n_shared_experts, "0 or more");
    require(config_.first_k_dense_replace >= 0 && config_.first_k_dense_replace <= config_.num_hidden_layers, "first_k_dense_replace",
            config_.first_k_dense_replace, fmt::format("0 … num_hidden_layers = {}", config_.num_hidden_layers));
    positive("moe_layer_freq", config_.moe_layer_freq);
    require(std::isfinite(config_.routed_scaling_factor), "routed_scaling_factor", config_.routed_scaling_factor, "a finite number");
    const bool v3 = config_.topk_method == TopkMethod::noaux_tc;
    if (v3 != (config_.scoring_func == Scoring::sigmoid))
      throw Error(Error::unsupported, fmt::format("{}: keys \"scoring_func\" and \"topk_method\" are {}; this version supports sigmoid with noaux_tc, and softmax with greedy or "
                                                  "group_limited_greedy", origin_, v3 ? "softmax with noaux_tc" : "sigmoid without noaux_tc"));
    positive("n_group", groups);
    positive("topk_group", kept);
    require(chosen <= experts, "num_experts_per_tok", chosen, fmt::format("at most n_routed_experts = {}", experts));
    if (config_.topk_method == TopkMethod::greedy) return;  // looks at no groups, whatever the file says of them
    require(experts % groups == 0, "n_group", groups, fmt::format("a divisor of n_routed_experts = {}", experts));
    require(kept <= groups, "topk_group", kept, fmt::format("at most n_group = {}", groups));
    require(chosen <= kept * (experts / groups), "num_experts_per_tok", chosen,
            fmt::format("at most {} = topk_group {} · {} experts a group", kept * (experts / groups), kept, experts / groups));
    if (v3 && groups > 1)
      require(experts / groups >= 2, "n_group", groups, fmt::format("at least 2 experts a group (n_routed_experts = {}): a group's score is the sum of its two best", experts));
  }

  void rope() const {
    real("rope_theta", config_.rope_theta, 1, 1e12);
    if (!config_.yarn) return;
    const YarnConfig& yarn = *config_.yarn;
    require(std::isfinite(yarn.factor) && yarn.factor >= 1 && yarn.factor <= 1e6, "rope_scaling.factor", yarn.factor, "1 … 1000000");
    positive("rope_scaling.original_max_position_embeddings", yarn.original_max_position_embeddings);
    real("rope_scaling.beta_fast", yarn.beta_fast, 0, 1e6);
    real("rope_scaling.beta_slow", yarn.beta_slow, 0, 1e6);
    require(yarn.beta_fast >= yarn.beta_slow, "rope_scaling.beta_fast", yarn.beta_fast, fmt::format("at least beta_slow = {}", yarn.beta_slow));
    require(std::isfinite(yarn.mscale) && yarn.mscale >= 0 && yarn.mscale <= 1e3, "rope_scaling.mscale", yarn.mscale, "0 … 1000");
    require(std::isfinite(yarn.mscale_all_dim) && yarn.mscale_all_dim >= 0 && yarn.mscale_all_dim <= 1e3, "rope_scaling.mscale_all_dim", yarn.mscale_all_dim, "0 … 1000");
  }

  void blocks() const {
    positive("quantization_config.weight_block_size[0]", config_.fp8->block_rows, 1 << 20);
    positive("quantization_config.weight_block_size[1]", config_.fp8->block_cols, 1 << 20);
  }

  void groups() const {
    const int64_t group = config_.int4->group_size;
    require(group >= 8 && group <= 1 << 20 && group % 8 == 0, "quantization_config.group_size", group, "a multiple of 8 (values in a 32-bit word)");
  }

  void tensor(const char* keys, double elements) const {
    require(elements <= kMaxTensorElements, keys, fmt::format("{:.0f} elements together", elements), "at most 2^40 elements in a tensor");
  }

  void sizes() const {
    const auto d = [](int64_t value) { return static_cast<double>(value); };
    const double hidden = d(config_.hidden_size), heads = d(config_.num_attention_heads), layers = d(config_.num_hidden_layers + config_.num_nextn_predict_layers);
    const double query_in = config_.q_lora_rank ? d(config_.q_lora_rank) : hidden;
    const double query = heads * d(config_.qk_head_dim()) * query_in, value = heads * d(config_.v_head_dim) * hidden;
    const double keys = heads * d(config_.qk_nope_head_dim + config_.v_head_dim) * d(config_.kv_lora_rank);
    const double expert = d(config_.moe_intermediate_size) * hidden;
    tensor("vocab_size · hidden_size", d(config_.vocab_size) * hidden);
    tensor("num_attention_heads · qk_head_dim · q_lora_rank", query);
    tensor("num_attention_heads · v_head_dim · hidden_size", value);
    tensor("num_attention_heads · (qk_nope_head_dim + v_head_dim) · kv_lora_rank", keys);
    tensor("q_lora_rank · hidden_size", d(config_.q_lora_rank) * hidden);
    tensor("(kv_lora_rank + qk_rope_head_dim) · hidden_size", d(config_.cache_dim()) * hidden);
    tensor("intermediate_size · hidden_size", d(config_.intermediate_size) * hidden);
    tensor("n_routed_experts · hidden_size", d(config_.n_routed_experts) * hidden);
    tensor("n_shared_experts · moe_intermediate_size · hidden_size", d(config_.n_shared_experts) * expert);
    tensor("hidden_size", 2 * hidden * hidden);
    const double expert_tensors = d(config_.n_routed_experts) * layers;
    require(expert_tensors <= d(kMaxExpertTensors), "n_routed_experts", config_.n_routed_experts, fmt::format("at most {} experts over all layers", kMaxExpertTensors));
    const double total = 4 * d(config_.vocab_size) * hidden + layers * (query + value + keys + 3 * (d(config_.intermediate_size) * hidden + expert * d(config_.n_routed_experts + config_.n_shared_experts)));
    require(total <= kMaxModelElements, "hidden_size", config_.hidden_size, "a model of at most 2^50 parameters");
  }

  const ModelConfig& config_;
  const std::string& origin_;
};

}  // namespace

void check_deepseek(const ModelConfig& config, const std::string& origin) { Checker(config, origin).run(); }

}  // namespace dsinfer
