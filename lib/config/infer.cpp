#include "config/infer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "config/deepseek.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kMostDim = int64_t{1} << 31;
constexpr int64_t kUnknownContext = 4096;

// What shapes do not show, of the released models. Source: their config.json files.
struct Released {
  const char* name;
  int64_t hidden, layers, experts;
  bool sigmoid;
  int64_t per_token, groups, kept_groups, context;
};
constexpr Released kReleased[] = {
    {"DeepSeek-V3, R1, V3.1", 7168, 61, 256, true, 8, 8, 4, 163840}, {"Kimi-K2", 7168, 61, 384, true, 8, 1, 1, 131072},
    {"DeepSeek-V2", 5120, 60, 160, false, 6, 8, 3, 163840},          {"DeepSeek-V2-Lite", 2048, 27, 64, false, 6, 1, 1, 163840},
    {"Moonlight-16B-A3B", 2048, 27, 64, true, 6, 1, 1, 8192},
};

class Inference {
 public:
  Inference(const std::map<std::string, TensorShape>& tensors, const std::string& origin) : tensors_(tensors), origin_(origin) {}

  ModelConfig run(int64_t experts_per_token, std::vector<std::string>& assumed) {
    count_layers();
    globals();
    attention();
    dense();
    experts();
    blocks();
    unseen(experts_per_token, assumed);
    check_deepseek(config_, origin_);
    return std::move(config_);
  }

 private:
  [[noreturn]] void bad(const std::string& what) const { throw Error(Error::bad_format, origin_ + ": " + what); }

  bool has(const std::string& name) const { return tensors_.contains(name); }
  // Shape of a tensor that has to be there, its dims within what products of two stand.
  const std::vector<int64_t>& shape(const std::string& name, size_t dims) const {
    const auto at = tensors_.find(name);
    if (at == tensors_.end())
      bad(fmt::format("tensor {} is missing, so the model's dimensions cannot be seen; give all shards of the model, or its config.json", name));
    const std::vector<int64_t>& found = at->second.shape;
    if (found.size() != dims || std::any_of(found.begin(), found.end(), [](int64_t d) { return d < 1 || d > kMostDim; }))
      bad(fmt::format("tensor {} has shape [{}], expected {} dimensions of 1 … {}", name, fmt::join(found, ", "), dims, kMostDim));
    return found;
  }
  int64_t rows(const std::string& name) const { return shape(name, 2)[0]; }
  int64_t columns(const std::string& name) const { return shape(name, 2)[1]; }
  std::string in_layer(int64_t layer, const char* name) const { return fmt::format("model.layers.{}.{}", layer, name); }

  // Layers are numbered from 0; those with eh_proj predict further tokens and stand last.
  void count_layers() {
    int64_t last = -1, prediction = 0;
    std::vector<char> seen;
    for (const auto& [name, tensor] : tensors_) {
      constexpr std::string_view prefix = "model.layers.";
      if (!name.starts_with(prefix)) continue;
      int layer = -1;
      const char* const begin = name.data() + prefix.size();
      const auto [end, code] = std::from_chars(begin, name.data() + name.size(), layer);
      if (code != std::errc() || *end != '.' || layer < 0 || layer > 4096) bad(fmt::format("tensor {}: its layer is not a number of 0 … 4096", name));
      last = std::max<int64_t>(last, layer);
      seen.resize(static_cast<size_t>(last) + 1);
      seen[static_cast<size_t>(layer)] = 1;
      if (std::string_view(end) == ".eh_proj.weight") ++prediction;
    }
    if (last < 0) bad("no tensor named model.layers.0.… : not a checkpoint of the DeepSeek family");
    const auto gap = std::find(seen.begin(), seen.end(), 0);
    if (gap != seen.end()) bad(fmt::format("no tensor of layer {} of {}: give all shards of the model", gap - seen.begin(), last + 1));
    config_.num_nextn_predict_layers = prediction;
    config_.num_hidden_layers = last + 1 - prediction;
    if (config_.num_hidden_layers < 1) bad("all layers have eh_proj: no main layer is there");
  }

  void globals() {
    config_.vocab_size = rows("model.embed_tokens.weight");
    config_.hidden_size = columns("model.embed_tokens.weight");
    shape("lm_head.weight", 2);  // the last shard is there
  }

  // With heads h: q rows h(n + r), kv_b rows h(n + v), o columns h·v; and r is what kv_a has beside the latent.
  void attention() {
    config_.kv_lora_rank = shape(in_layer(0, "self_attn.kv_a_layernorm.weight"), 1)[0];
    config_.qk_rope_head_dim = rows(in_layer(0, "self_attn.kv_a_proj_with_mqa.weight")) - config_.kv_lora_rank;
    const bool low_rank = has(in_layer(0, "self_attn.q_a_proj.weight"));
    if (low_rank) config_.q_lora_rank = rows(in_layer(0, "self_attn.q_a_proj.weight"));
    const int64_t query = rows(in_layer(0, low_rank ? "self_attn.q_b_proj.weight" : "self_attn.q_proj.weight"));
    const int64_t key_value = rows(in_layer(0, "self_attn.kv_b_proj.weight")), value = columns(in_layer(0, "self_attn.o_proj.weight"));
    const int64_t rope = config_.qk_rope_head_dim, nope = key_value - value;
    const int64_t heads = rope > 0 ? (query - nope) / rope : 0;
    if (rope < 1 || heads < 1 || nope < 1 || heads * rope != query - nope || nope % heads != 0 || value % heads != 0)
      bad(fmt::format("layer 0's attention has {} query rows, {} kv_b rows, {} o_proj columns and {} rope dimensions: no number of heads gives these", query, key_value, value, rope));
    config_.num_attention_heads = heads;
    config_.qk_nope_head_dim = nope / heads;
    config_.v_head_dim = value / heads;
  }

  bool is_moe(int64_t layer) const { return has(in_layer(layer, "mlp.gate.weight")); }

  void dense() {
    while (config_.first_k_dense_replace < config_.num_hidden_layers && !is_moe(config_.first_k_dense_replace)) ++config_.first_k_dense_replace;
    if (config_.first_k_dense_replace > 0) config_.intermediate_size = rows(in_layer(0, "mlp.gate_proj.weight"));
    for (int64_t layer = config_.first_k_dense_replace; layer < config_.num_hidden_layers; ++layer)
      if (!is_moe(layer)) bad(fmt::format("layer {} has no experts, layer {} has: such a mixture needs config.json (moe_layer_freq)", layer, config_.first_k_dense_replace));
  }

  void experts() {
    const int64_t first = config_.first_k_dense_replace;
    if (first == config_.num_hidden_layers) return;
    config_.n_routed_experts = rows(in_layer(first, "mlp.gate.weight"));
    const std::string fused = in_layer(first, "mlp.experts.gate_up_proj");  // as transformers 5 saves them: [experts, 2 · inner, hidden]
    config_.moe_intermediate_size = has(fused) ? shape(fused, 3)[1] / 2 : rows(in_layer(first, "mlp.experts.0.gate_proj.weight"));
    const std::string shared = in_layer(first, "mlp.shared_experts.gate_proj.weight");
    if (config_.moe_intermediate_size > 0 && has(shared)) config_.n_shared_experts = rows(shared) / config_.moe_intermediate_size;
    if (config_.intermediate_size == 0) config_.intermediate_size = config_.moe_intermediate_size;  // no dense layer uses it
    const bool sigmoid = has(in_layer(first, "mlp.gate.e_score_correction_bias"));
    config_.scoring_func = sigmoid ? Scoring::sigmoid : Scoring::softmax;
    config_.topk_method = sigmoid ? TopkMethod::noaux_tc : TopkMethod::greedy;
  }

  // ⌈size / ⌈size / block⌉⌉ is the block where it divides the size, and less where not.
  void blocks() {
    Fp8Config fp8{1, 1, false};
    bool any = false;
    for (const auto& [name, scale] : tensors_) {
      constexpr std::string_view suffix = "_scale_inv";
      if (!name.ends_with(suffix) || scale.shape.size() != 2) continue;
      const std::string weight = name.substr(0, name.size() - suffix.size());
      if (!has(weight)) continue;
      const std::vector<int64_t>& of = shape(weight, 2);
      const std::vector<int64_t>& blocks = shape(name, 2);
      fp8.block_rows = std::max(fp8.block_rows, (of[0] + blocks[0] - 1) / blocks[0]);
      fp8.block_cols = std::max(fp8.block_cols, (of[1] + blocks[1] - 1) / blocks[1]);
      any = true;
    }
    if (any) config_.fp8 = fp8;
  }

  void unseen(int64_t experts_per_token, std::vector<std::string>& assumed) {
    config_.max_position_embeddings = kUnknownContext;
    config_.model_type = config_.scoring_func == Scoring::softmax ? "deepseek_v2" : "deepseek_v3";
    const auto same = [&](const Released& r) {
      return r.hidden == config_.hidden_size && r.layers == config_.num_hidden_layers && r.experts == config_.n_routed_experts && r.sigmoid == (config_.scoring_func == Scoring::sigmoid);
    };
    const auto released = std::find_if(std::begin(kReleased), std::end(kReleased), same);
    if (released != std::end(kReleased)) {
      config_.num_experts_per_tok = released->per_token, config_.n_group = released->groups, config_.topk_group = released->kept_groups;
      config_.max_position_embeddings = released->context;
      if (released->groups > 1 && !released->sigmoid) config_.topk_method = TopkMethod::group_limited_greedy;
      assumed.push_back(fmt::format("the shapes are those of {}: num_experts_per_tok {}, n_group {}, topk_group {} and max_position_embeddings {} are that model's", released->name,
                                    released->per_token, released->groups, released->kept_groups, released->context));
    } else {
      assumed.push_back(fmt::format("max_position_embeddings is taken as {} and n_group as 1: no shape shows them", kUnknownContext));
    }
    if (experts_per_token > 0) config_.num_experts_per_tok = experts_per_token;
    if (config_.n_routed_experts > 0 && config_.num_experts_per_tok == 0)
      throw Error(Error::unsupported, fmt::format("{}: key \"num_experts_per_tok\" is in no tensor's shape ({} layers, hidden_size {}, {} experts are no released model): give config.json, "
                                                  "or the experts of a token (--experts-per-token)", origin_, config_.num_hidden_layers, config_.hidden_size, config_.n_routed_experts));
  }

  const std::map<std::string, TensorShape>& tensors_;
  const std::string& origin_;
  ModelConfig config_;
};

}  // namespace

ModelConfig infer_config(const std::map<std::string, TensorShape>& tensors, const std::string& origin, int64_t experts_per_token, std::vector<std::string>& assumed) {
  if (experts_per_token < 0) throw Error(Error::invalid_argument, fmt::format("experts_per_token is {}, expected 0 (not given) or more", experts_per_token));
  return Inference(tensors, origin).run(experts_per_token, assumed);
}

}  // namespace dsinfer
