#include "config/deepseek.hpp"

#include <fmt/format.h>

#include <cmath>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

[[noreturn]] void unsupported(const std::string& origin, const std::string& key, const std::string& found, const std::string& expected) {
  throw Error(Error::unsupported, fmt::format("{}: key \"{}\" is {}; this version supports {}", origin, key, found, expected));
}

[[noreturn]] void contradiction(const std::string& origin, const std::string& key, const std::string& found, const std::string& expected) {
  throw Error(Error::bad_format, fmt::format("{}: key \"{}\" is {}, expected {}", origin, key, found, expected));
}

std::optional<YarnConfig> read_yarn(const JsonObject& rope) {
  const char* key = rope.has("rope_type") ? "rope_type" : "type";
  if (rope.has("rope_type") && rope.has("type") && rope.string("rope_type") != rope.string("type"))
    contradiction(rope.origin(), "type", "\"" + rope.string("type") + "\"", "rope_type's \"" + rope.string("rope_type") + "\"");
  const std::string type = rope.string(key);
  if (type == "default") return std::nullopt;
  if (type != "yarn") unsupported(rope.origin(), key, "\"" + type + "\"", "\"yarn\" and \"default\"");
  if (rope.has("attention_factor")) unsupported(rope.origin(), "attention_factor", rope.at("attention_factor").dump(), "mscale and mscale_all_dim only");
  if (!rope.boolean("truncate", true)) unsupported(rope.origin(), "truncate", "false", "true (whole correction dimensions)");
  YarnConfig yarn;
  yarn.factor = rope.number("factor");
  yarn.original_max_position_embeddings = rope.integer("original_max_position_embeddings");
  yarn.beta_fast = rope.number("beta_fast", 32);
  yarn.beta_slow = rope.number("beta_slow", 1);
  yarn.mscale = rope.number("mscale", 0);
  yarn.mscale_all_dim = rope.number("mscale_all_dim", 0);
  return yarn;
}

// Published files: rope_theta and rope_scaling. Saved again by transformers 5: one rope_parameters.
void read_rope(const JsonObject& json, ModelConfig& config) {
  config.rope_theta = json.number("rope_theta", 10000);
  const bool both = json.has("rope_scaling") && json.has("rope_parameters");
  if (both && json.at("rope_scaling") != json.at("rope_parameters"))
    contradiction(json.origin(), "rope_scaling", "another object than \"rope_parameters\"", "one of the two spellings");
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!json.has(key) || json.at(key) == Json::object()) continue;
    const JsonObject rope = json.object(key);
    if (rope.has("rope_theta")) {
      if (json.has("rope_theta") && rope.number("rope_theta") != config.rope_theta)
        contradiction(json.origin(), "rope_theta", fmt::format("{}", config.rope_theta), fmt::format("{}.rope_theta's {}", key, rope.number("rope_theta")));
      config.rope_theta = rope.number("rope_theta");
    }
    config.yarn = read_yarn(rope);
  }
  config.rope_interleave = json.boolean("rope_interleave", true);
}

Fp8Config read_fp8(const JsonObject& json, const JsonObject& quantization) {
  const std::string fmt_name = quantization.string("fmt", "e4m3");
  if (fmt_name != "e4m3") unsupported(json.origin(), "quantization_config.fmt", "\"" + fmt_name + "\"", "\"e4m3\"");
  const std::string scheme = quantization.string("activation_scheme", "dynamic");
  if (scheme != "dynamic") unsupported(json.origin(), "quantization_config.activation_scheme", "\"" + scheme + "\"", "\"dynamic\"");
  if (!quantization.has("weight_block_size"))
    unsupported(json.origin(), "quantization_config.weight_block_size", "absent (one scale for a whole tensor)", "block scales, such as [128, 128]");
  const std::vector<int64_t> block = quantization.integers("weight_block_size");
  if (block.size() != 2) contradiction(json.origin(), "quantization_config.weight_block_size", fmt::format("a list of {}", block.size()), "[rows, columns]");
  Fp8Config fp8;
  fp8.block_rows = block[0];
  fp8.block_cols = block[1];
  const std::string scale_format = quantization.string("scale_fmt", "");
  fp8.ue8m0 = scale_format == "ue8m0";
  if (!fp8.ue8m0 && !scale_format.empty() && scale_format != "float")
    unsupported(json.origin(), "quantization_config.scale_fmt", "\"" + scale_format + "\"", "\"ue8m0\" or none");
  return fp8;
}

void read_quantization(const JsonObject& json, ModelConfig& config) {
  if (!json.has("quantization_config")) return;
  const JsonObject quantization = json.object("quantization_config");
  const std::string method = quantization.string("quant_method");
  if (method == "fp8") config.fp8 = read_fp8(json, quantization);
  else if (method == "awq") config.int4 = read_awq(quantization, json.origin());
  else if (method == "compressed-tensors") config.int4 = read_pack_quantized(quantization, json.origin());
  else unsupported(json.origin(), "quantization_config.quant_method", "\"" + method + "\"", "\"fp8\" (E4M3 blocks), \"awq\", \"compressed-tensors\" (4-bit groups) and checkpoints without quantization_config");
}

Scoring read_scoring(const JsonObject& json, bool v2) {
  const std::string name = json.string("scoring_func", v2 ? "softmax" : "sigmoid");
  if (name == "softmax") return Scoring::softmax;
  if (name == "sigmoid") return Scoring::sigmoid;
  unsupported(json.origin(), "scoring_func", "\"" + name + "\"", "\"softmax\" and \"sigmoid\"");
}

TopkMethod read_topk(const JsonObject& json, bool v2) {
  const std::string name = json.string("topk_method", v2 ? "greedy" : "noaux_tc");
  if (name == "greedy") return TopkMethod::greedy;
  if (name == "group_limited_greedy") return TopkMethod::group_limited_greedy;
  if (name == "noaux_tc") return TopkMethod::noaux_tc;
  unsupported(json.origin(), "topk_method", "\"" + name + "\"", "\"greedy\", \"group_limited_greedy\" and \"noaux_tc\"");
}

void read_experts(const JsonObject& json, ModelConfig& config, bool v2) {
  json.at("n_routed_experts");  // null says: dense layers only; absence says nothing
  config.n_routed_experts = json.integer("n_routed_experts", 0);
  if (config.n_routed_experts == 0) return;
  config.moe_intermediate_size = json.integer("moe_intermediate_size");
  config.num_experts_per_tok = json.integer("num_experts_per_tok");
  config.n_shared_experts = json.integer("n_shared_experts", 0);
  config.first_k_dense_replace = json.integer("first_k_dense_replace");
  config.moe_layer_freq = json.integer("moe_layer_freq", 1);
  config.scoring_func = read_scoring(json, v2);
  config.topk_method = read_topk(json, v2);
  if (config.topk_method == TopkMethod::noaux_tc && !v2) { json.at("n_group"); json.at("topk_group"); }
  config.n_group = json.integer("n_group", 1);
  config.topk_group = json.integer("topk_group", 1);
  json.at("norm_topk_prob");
  config.norm_topk_prob = json.boolean("norm_topk_prob", false);
  config.routed_scaling_factor = json.number("routed_scaling_factor");
}

// Options of the transformers classes that no released model uses.
void refuse_variants(const JsonObject& json) {
  for (const char* key : {"attention_bias", "mlp_bias", "tie_word_embeddings"})
    if (json.boolean(key, false)) unsupported(json.origin(), key, "true", "false");
  const std::string act = json.string("hidden_act", "silu");
  if (act != "silu") unsupported(json.origin(), "hidden_act", "\"" + act + "\"", "\"silu\"");
}

// Files saved by transformers 5 may repeat the kinds of the layers as lists.
void check_layer_lists(const JsonObject& json, const ModelConfig& config) {
  if (json.has("mlp_layer_types")) {
    const Json& types = json.at("mlp_layer_types");
    if (!types.is_array() || static_cast<int64_t>(types.size()) != config.num_hidden_layers)
      contradiction(json.origin(), "mlp_layer_types", fmt::format("of {} entries", types.size()), fmt::format("num_hidden_layers = {} entries", config.num_hidden_layers));
    for (size_t layer = 0; layer < types.size(); ++layer) {
      const std::string expected = config.is_moe(static_cast<int64_t>(layer)) ? "sparse" : "dense";
      if (types[layer] != expected)
        contradiction(json.origin(), fmt::format("mlp_layer_types[{}]", layer), types[layer].dump(-1, ' ', true), "\"" + expected + "\" as first_k_dense_replace and moe_layer_freq say");
    }
  }
  if (json.has("layer_types"))
    for (const Json& type : json.at("layer_types"))
      if (type != "full_attention") unsupported(json.origin(), "layer_types", "with " + type.dump(-1, ' ', true), "\"full_attention\" only");
}

}  // namespace

ModelConfig parse_deepseek(const JsonObject& json) {
  ModelConfig config;
  config.model_type = json.string("model_type");
  const bool v2 = config.model_type == "deepseek_v2";
  refuse_variants(json);
  config.vocab_size = json.integer("vocab_size");
  config.hidden_size = json.integer("hidden_size");
  config.num_hidden_layers = json.integer("num_hidden_layers");
  config.num_attention_heads = json.integer("num_attention_heads");
  json.at("q_lora_rank");  // must be there: null is a statement, absence is not
  config.q_lora_rank = json.integer("q_lora_rank", 0);
  config.kv_lora_rank = json.integer("kv_lora_rank");
  config.qk_nope_head_dim = json.integer("qk_nope_head_dim");
  config.qk_rope_head_dim = json.integer("qk_rope_head_dim");
  config.v_head_dim = json.integer("v_head_dim");
  config.intermediate_size = json.integer("intermediate_size");
  config.max_position_embeddings = json.integer("max_position_embeddings");
  config.rms_norm_eps = json.number("rms_norm_eps", 1e-6);
  config.num_nextn_predict_layers = json.integer("num_nextn_predict_layers", 0);
  config.bos_token_id = json.integer("bos_token_id", -1);
  config.eos_token_id = json.integers("eos_token_id");
  read_experts(json, config, v2);
  read_rope(json, config);
  read_quantization(json, config);

  const int64_t heads = config.num_attention_heads;
  if (json.integer("num_key_value_heads", heads) != heads)
    contradiction(json.origin(), "num_key_value_heads", fmt::format("{}", json.integer("num_key_value_heads")), fmt::format("num_attention_heads = {} (MLA has no grouped heads)", heads));
  if (json.integer("qk_head_dim", config.qk_head_dim()) != config.qk_head_dim())
    contradiction(json.origin(), "qk_head_dim", fmt::format("{}", json.integer("qk_head_dim")), fmt::format("qk_nope_head_dim + qk_rope_head_dim = {}", config.qk_head_dim()));
  check_layer_lists(json, config);
  return config;
}

}  // namespace dsinfer
