#include "config/tensors.hpp"

#include <fmt/format.h>

#include <optional>
#include <utility>

namespace dsinfer {
namespace {

// Appends the specs of one config in the order of the files: a weight, then its scale.
class TableWriter {
 public:
  explicit TableWriter(const ModelConfig& config) : config_(config) {}

  // One layer of each kind, one expert, no scales.
  std::vector<TensorSpec> outline() && {
    outline_ = true;
    globals();
    std::optional<int64_t> dense_layer, moe_layer;
    for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
      std::optional<int64_t>& first = config_.is_moe(i) ? moe_layer : dense_layer;
      if (!first) first = i;
    }
    if (dense_layer) main_layer(*dense_layer);
    if (moe_layer) main_layer(*moe_layer);
    if (config_.num_nextn_predict_layers > 0) prediction_layer(config_.num_hidden_layers);
    return std::move(table_);
  }

  std::vector<TensorSpec> write() && {
    const int64_t layers = config_.num_hidden_layers;
    globals();
    for (int64_t i = 0; i < layers; ++i) main_layer(i);
    for (int64_t i = layers; i < layers + config_.num_nextn_predict_layers; ++i) prediction_layer(i);
    return std::move(table_);
  }

 private:
  void globals() {
    home_ = Home::first_stage;
    add("model.embed_tokens.weight", {config_.vocab_size, config_.hidden_size}, Split::vocab_rows);
    home_ = Home::last_stage;
    add("model.norm.weight", {config_.hidden_size});
    add("lm_head.weight", {config_.vocab_size, config_.hidden_size}, Split::vocab_rows);
  }

  void main_layer(int64_t layer) {
    enter(layer, Home::layer);
    attention();
    if (config_.is_moe(layer)) experts(); else dense();
  }

  void prediction_layer(int64_t layer) {
    enter(layer, Home::last_stage);
    attention();
    if (config_.n_routed_experts > 0) experts(); else dense();
    prediction();
  }

  void enter(int64_t layer, Home home) {
    layer_ = layer;
    home_ = home;
    prefix_ = fmt::format("model.layers.{}.", layer);
  }

  TensorSpec& add(std::string name, std::vector<int64_t> shape, Split split = Split::whole) {
    TensorSpec spec;
    spec.name = std::move(name);
    spec.shape = std::move(shape);
    spec.split = split;
    spec.home = home_;
    spec.layer = layer_;
    return table_.emplace_back(std::move(spec));
  }

  // A linear layer that FP8 checkpoints quantise: weight [rows, cols], then its scale.
  void linear(const std::string& name, int64_t rows, int64_t cols, Split split = Split::whole, int64_t row_group = 1, int64_t expert = -1) {
    TensorSpec& weight = add(prefix_ + name + ".weight", {rows, cols}, split);
    weight.quantisable = true;
    weight.row_group = row_group;
    weight.expert = expert;
    if (config_.int4) return int4_parts(name, rows, cols, split, row_group, expert);
    if (!config_.fp8) return;
    weight.dtype = DType::e4m3;
    if (outline_) return;
    const int64_t block_rows = config_.fp8->block_rows, block_cols = config_.fp8->block_cols;
    TensorSpec& scale = add(prefix_ + name + ".weight_scale_inv", {(rows + block_rows - 1) / block_rows, (cols + block_cols - 1) / block_cols}, split);
    scale.dtype = DType::f32;
    scale.is_scale = true;
    scale.unit_rows = block_rows;
    scale.unit_cols = block_cols;
    scale.row_group = row_group;
    scale.expert = expert;
  }

  // What a 4-bit checkpoint has in place of the weight just added.
  void int4_parts(const std::string& name, int64_t rows, int64_t cols, Split split, int64_t row_group, int64_t expert) {
    if (outline_) return;
    constexpr int64_t kPacked = 8;  // values in a word
    const bool awq = config_.int4->layout == Int4Layout::awq, converted = config_.int4->converts(prefix_ + name);
    const int64_t group = config_.int4->group_size;
    table_.back().expected = !converted;
    const auto part = [&](Int4Part kind, const char* suffix, DType dtype, int64_t unit_rows, int64_t unit_cols) {
      const int64_t r = (rows + unit_rows - 1) / unit_rows, c = (cols + unit_cols - 1) / unit_cols;
      TensorSpec& spec = add(prefix_ + name + suffix, awq ? std::vector<int64_t>{c, r} : std::vector<int64_t>{r, c}, split);
      spec.dtype = dtype;
      spec.int4 = kind;
      spec.expected = converted;
      spec.transposed = awq;
      spec.unit_rows = unit_rows;
      spec.unit_cols = unit_cols;
      spec.row_group = row_group;
      spec.expert = expert;
    };
    part(Int4Part::words, awq ? ".qweight" : ".weight_packed", DType::i32, awq ? kPacked : 1, awq ? 1 : kPacked);
    part(Int4Part::scales, awq ? ".scales" : ".weight_scale", DType::f16, 1, group);
    if (config_.int4->zero_points) part(Int4Part::zeros, awq ? ".qzeros" : ".weight_zero_point", DType::i32, kPacked, group);
  }

  void norm(const char* name, int64_t dim) { add(prefix_ + name + ".weight", {dim}); }

  void attention() {
    const int64_t hidden = config_.hidden_size, heads = config_.num_attention_heads, query = config_.qk_head_dim();
    const int64_t key_value = config_.qk_nope_head_dim + config_.v_head_dim;
    norm("input_layernorm", hidden);
    if (config_.q_lora_rank > 0) {
      linear("self_attn.q_a_proj", config_.q_lora_rank, hidden);
      norm("self_attn.q_a_layernorm", config_.q_lora_rank);
      linear("self_attn.q_b_proj", heads * query, config_.q_lora_rank, Split::head_rows, query);
    } else {
      linear("self_attn.q_proj", heads * query, hidden, Split::head_rows, query);
    }
    linear("self_attn.kv_a_proj_with_mqa", config_.cache_dim(), hidden);
    norm("self_attn.kv_a_layernorm", config_.kv_lora_rank);
    linear("self_attn.kv_b_proj", heads * key_value, config_.kv_lora_rank, Split::head_rows, key_value);
    linear("self_attn.o_proj", hidden, heads * config_.v_head_dim, Split::head_columns, config_.v_head_dim);
    norm("post_attention_layernorm", hidden);
  }

  void mlp(const std::string& name, int64_t inter, Split rows, Split columns, int64_t expert = -1) {
    linear(name + ".gate_proj", inter, config_.hidden_size, rows, 1, expert);
    linear(name + ".up_proj", inter, config_.hidden_size, rows, 1, expert);
    linear(name + ".down_proj", config_.hidden_size, inter, columns, 1, expert);
  }

  void dense() { mlp("mlp", config_.intermediate_size, Split::dense_rows, Split::dense_columns); }

  void experts() {
    add(prefix_ + "mlp.gate.weight", {config_.n_routed_experts, config_.hidden_size});
    if (config_.topk_method == TopkMethod::noaux_tc) add(prefix_ + "mlp.gate.e_score_correction_bias", {config_.n_routed_experts}).dtype = DType::f32;
    for (int64_t e = 0; e < (outline_ ? 1 : config_.n_routed_experts); ++e)
      mlp(fmt::format("mlp.experts.{}", e), config_.moe_intermediate_size, Split::expert_rows, Split::expert_columns, e);
    if (config_.n_shared_experts > 0)
      mlp("mlp.shared_experts", config_.n_shared_experts * config_.moe_intermediate_size, Split::shared_rows, Split::shared_columns);
  }

  // What a multi-token-prediction layer has beyond an ordinary one; embedding and head are copies of the main ones.
  void prediction() {
    const int64_t hidden = config_.hidden_size;
    add(prefix_ + "embed_tokens.weight", {config_.vocab_size, hidden}, Split::vocab_rows);
    norm("enorm", hidden);
    norm("hnorm", hidden);
    add(prefix_ + "eh_proj.weight", {hidden, 2 * hidden});
    norm("shared_head.norm", hidden);
    add(prefix_ + "shared_head.head.weight", {config_.vocab_size, hidden}, Split::vocab_rows);
  }

  const ModelConfig& config_;
  std::vector<TensorSpec> table_;
  std::string prefix_;
  int64_t layer_ = -1;
  Home home_ = Home::layer;
  bool outline_ = false;
};

}  // namespace

std::vector<TensorSpec> tensor_table(const ModelConfig& config) { return TableWriter(config).write(); }

std::vector<TensorSpec> tensor_outline(const ModelConfig& config) { return TableWriter(config).outline(); }

}  // namespace dsinfer
