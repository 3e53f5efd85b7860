#include "plan/legality.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>

namespace dsinfer {
namespace {

using Refusal = std::optional<Refused>;

constexpr int64_t kMaxDegree = int64_t{1} << 20;   // so that no product of three degrees overflows
constexpr int64_t kMaxSearched = int64_t{1} << 16;

// "2 or 8": the legal values next to `value` in 1 … most.
std::string nearest(int64_t value, int64_t most, const std::function<bool(int64_t)>& legal) {
  most = std::min(most, kMaxSearched);
  const auto clamped = std::clamp<int64_t>(value, 1, most);
  std::optional<int64_t> below, above;
  for (int64_t v = clamped; v >= 1 && !below; --v) if (legal(v)) below = v;
  for (int64_t v = clamped + 1; v <= most && !above; ++v) if (legal(v)) above = v;
  if (below && above) return fmt::format("nearest legal: {} or {}", *below, *above);
  if (below || above) return fmt::format("nearest legal: {}", below ? *below : *above);
  return "no value is legal";
}

Refusal divides(const char* rule, const char* degree, int64_t value, const std::string& dimension, int64_t size) {
  if (size % value == 0) return {};
  return Refused{rule, fmt::format("{}={} does not divide {} = {}", degree, value, dimension, size)};
}

// A cut of a quantised tensor must fall between blocks or groups, for each has one scale.
Refusal on_edge(const char* rule, const char* unit_name, const char* degree, int64_t value, const std::string& tensor, const char* axis, int64_t size, int64_t unit) {
  if (value == 1 || (size / value) % unit == 0) return {};
  return Refused{rule, fmt::format("{}={} cuts {} of {} {} into parts of {}, not a multiple of the {} of {}", degree, value, tensor, size, axis, size / value, unit_name, unit)};
}

bool has_dense(const ModelConfig& config) {
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) if (!config.is_moe(layer)) return true;
  return false;
}

bool has_experts(const ModelConfig& config) {
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) if (config.is_moe(layer)) return true;
  return false;
}

Refusal first_of(std::initializer_list<std::function<Refusal()>> rules) {
  for (const auto& rule : rules) if (Refusal broken = rule()) return broken;
  return {};
}

std::optional<std::string> detail_of(Refusal broken) {
  if (!broken) return {};
  return std::move(broken->detail);
}

// The rules of one model in one precision.
class Rules {
 public:
  Rules(const ModelConfig& config, const CutUnits& units, int64_t redundant = 0)
      : config_(config), units_(units), redundant_(redundant), dense_(has_dense(config)), experts_(has_experts(config)) {}

  // With the legal values near by.
  Refusal tp(int64_t tp) const {
    Refusal broken = cut_by_tp(tp);
    if (broken) broken->detail += "; " + nearest(tp, config_.num_attention_heads, [&](int64_t v) { return !cut_by_tp(v); }) + " for tp";
    return broken;
  }

  Refusal experts(int64_t ep, int64_t moe_tp) const {
    if (!experts_) {
      if (ep == 1) return {};
      return Refused{"experts", fmt::format("ep={}, but the model has no routed experts (n_routed_experts = {}); nearest legal: 1 for ep", ep, config_.n_routed_experts)};
    }
    const int64_t ranks = ep * moe_tp;
    Refusal broken = divides(redundant_ > 0 ? "redundant" : "experts", "ep", ep, redundant_ > 0 ? fmt::format("n_routed_experts + redundant = {} + {}", config_.n_routed_experts, redundant_) : "n_routed_experts", slots());
    if (!broken) broken = cut_by_moe_tp(moe_tp);
    if (!broken) return {};
    const auto legal = [&](int64_t v) { return ranks % v == 0 && slots() % v == 0 && !cut_by_moe_tp(ranks / v); };
    broken->detail = fmt::format("{} (ep={}, moe_tp = tp·dp / ep = {}); {} for ep with tp·dp = {}", broken->detail, ep, moe_tp, nearest(ep, ranks, legal), ranks);
    return broken;
  }

  Refusal ep_of_stage(const Degrees& d) const {
    if ((d.tp * d.dp) % d.ep == 0) return {};
    const auto legal = [&](int64_t v) { return (d.tp * d.dp) % v == 0 && !experts(v, d.tp * d.dp / v); };
    return Refused{"experts", fmt::format("ep={} does not divide tp·dp = {}·{} = {} (ep·moe_tp = tp·dp); {} for ep", d.ep, d.tp, d.dp, d.tp * d.dp, nearest(d.ep, d.tp * d.dp, legal))};
  }

  Refusal redundant(int64_t ep) const {
    if (redundant_ == 0) return {};
    if (redundant_ < 0 || redundant_ > kMaxDegree) return Refused{"redundant", fmt::format("redundant_experts = {} is outside of 0 … {}", redundant_, kMaxDegree)};
    if (!experts_) return Refused{"redundant", fmt::format("redundant_experts = {}, but the model has no routed experts; nearest legal: 0", redundant_)};
    if (slots() <= config_.n_routed_experts * ep) return {};
    return Refused{"redundant", fmt::format("n_routed_experts + redundant = {} + {} slots over ep={} are more on a rank than the {} experts there are; nearest legal: {} redundant", config_.n_routed_experts,
                                            redundant_, ep, config_.n_routed_experts, config_.n_routed_experts * (ep - 1))};
  }

  // Columns that no precision but a grouped one cares about.
  Refusal whole_columns() const {
    if (units_.whole_cols <= 1) return {};
    const int64_t expert = config_.moe_intermediate_size, shared = config_.n_shared_experts * expert;
    std::vector<std::pair<const char*, int64_t>> widths = {{"self_attn.kv_a_proj_with_mqa", config_.hidden_size}, {"self_attn.kv_b_proj", config_.kv_lora_rank},
                                                           {"self_attn.o_proj", config_.num_attention_heads * config_.v_head_dim}};
    if (config_.q_lora_rank) widths.emplace_back("self_attn.q_b_proj", config_.q_lora_rank);
    if (dense_) widths.emplace_back("mlp.down_proj", config_.intermediate_size);
    if (experts_) widths.emplace_back("mlp.experts.*.down_proj", expert);
    if (experts_ && shared) widths.emplace_back("mlp.shared_experts.down_proj", shared);
    int64_t common = 0;
    std::erase_if(widths, [&](const auto& named) { return !concerned(named.first); });
    for (const auto& [name, width] : widths) common = std::gcd(common, width);
    for (const auto& [name, width] : widths)
      if (width % units_.whole_cols != 0)
        return Refused{units_.rule, fmt::format("{} has {} columns, not a multiple of the {} of {}; {} for the group", name, width, units_.cols_name, units_.whole_cols,
                                                nearest(units_.whole_cols, common, [&](int64_t v) { return v % units_.rows == 0 && common % v == 0; }))};
    return {};
  }

 private:
  int64_t slots() const { return config_.n_routed_experts + redundant_; }

  bool concerned(std::string_view tensor) const {
    if (tensor.starts_with("self_attn.")) return units_.attention;
    if (tensor.starts_with("mlp.experts.")) return units_.experts;
    return tensor.starts_with("mlp.shared_experts") ? units_.shared : units_.dense;
  }

  Refusal rows(const char* degree, int64_t value, const std::string& tensor, int64_t size) const {
    if (!concerned(tensor)) return {};
    return on_edge(units_.rule, units_.rows_name, degree, value, tensor, "rows", size, units_.rows);
  }
  Refusal columns(const char* degree, int64_t value, const std::string& tensor, int64_t size) const {
    if (!concerned(tensor)) return {};
    return on_edge(units_.rule, units_.cols_name, degree, value, tensor, "columns", size, units_.cols);
  }

  // An MLP of width `inter` cut by rows in gate and up, by columns in down.
  Refusal mlp(const char* degree, int64_t value, const std::string& name, int64_t inter) const {
    return first_of({[&] { return rows(degree, value, name + ".gate_proj and up_proj", inter); }, [&] { return columns(degree, value, name + ".down_proj", inter); }});
  }

  Refusal attention(int64_t tp) const {
    const int64_t heads = config_.num_attention_heads;
    return first_of({[&] { return rows("tp", tp, config_.q_lora_rank ? "self_attn.q_b_proj" : "self_attn.q_proj", heads * config_.qk_head_dim()); },
                     [&] { return rows("tp", tp, "self_attn.kv_b_proj", heads * (config_.qk_nope_head_dim + config_.v_head_dim)); },
                     [&] { return columns("tp", tp, "self_attn.o_proj", heads * config_.v_head_dim); }});
  }

  Refusal cut_by_tp(int64_t tp) const {
    const int64_t shared = config_.n_shared_experts * config_.moe_intermediate_size;
    const bool has_shared = experts_ && shared > 0;
    return first_of({[&] { return divides("heads", "tp", tp, "num_attention_heads", config_.num_attention_heads); },
                     [&] { return divides("vocab", "tp", tp, "vocab_size", config_.vocab_size); },
                     [&] { return dense_ ? divides("dense", "tp", tp, "intermediate_size", config_.intermediate_size) : Refusal(); },
                     [&] { return has_shared ? divides("shared", "tp", tp, "n_shared_experts · moe_intermediate_size", shared) : Refusal(); },
                     [&] { return attention(tp); },
                     [&] { return dense_ ? mlp("tp", tp, "mlp", config_.intermediate_size) : Refusal(); },
                     [&] { return has_shared ? mlp("tp", tp, "mlp.shared_experts", shared) : Refusal(); }});
  }

  Refusal cut_by_moe_tp(int64_t moe_tp) const {
    return first_of({[&] { return divides("experts", "moe_tp", moe_tp, "moe_intermediate_size", config_.moe_intermediate_size); },
                     [&] { return mlp("moe_tp", moe_tp, "mlp.experts.*", config_.moe_intermediate_size); }});
  }

  const ModelConfig& config_;
  CutUnits units_;
  int64_t redundant_;
  bool dense_, experts_;
};

Refusal positive(const Degrees& d) {
  for (const auto& [name, value] : {std::pair{"world_size", d.world_size}, {"tp", d.tp}, {"pp", d.pp}, {"dp", d.dp}, {"ep", d.ep}, {"replicas", d.replicas}})
    if (value < 1 || value > kMaxDegree) return Refused{"ranks", fmt::format("{}={} is outside of 1 … {}", name, value, kMaxDegree)};
  return {};
}

Refusal product(const Degrees& d) {
  // Four factors of at most 2^20 each could overflow: compare in long double, exact far beyond any world.
  const long double ranks = static_cast<long double>(d.tp) * static_cast<long double>(d.pp) * static_cast<long double>(d.dp) * static_cast<long double>(d.replicas);
  if (ranks == static_cast<long double>(d.world_size)) return {};
  const int64_t others = d.tp * d.pp * d.replicas;
  const std::string remedy = d.tp <= 4096 && d.pp <= 4096 && d.replicas <= 4096 && d.world_size % others == 0
                                 ? fmt::format("with tp={}, pp={}, replicas={} take dp={}", d.tp, d.pp, d.replicas, d.world_size / others)
                                 : fmt::format("start {:.0f} ranks, or take degrees whose product is {}", static_cast<double>(ranks), d.world_size);
  return Refused{"ranks", fmt::format("tp·pp·dp·replicas = {}·{}·{}·{} = {:.0f} is not world_size = {}; {}", d.tp, d.pp, d.dp, d.replicas, static_cast<double>(ranks), d.world_size, remedy)};
}

std::optional<std::string> stages_text(const ModelConfig& config, const Degrees& d, bool open) {
  const int64_t layers = config.num_hidden_layers;
  if (d.pp > layers) return fmt::format("pp={} is more than num_hidden_layers = {}: each stage needs a layer; nearest legal: {}", d.pp, layers, layers);
  if (open) return {};
  if (static_cast<int64_t>(d.layers_per_stage.size()) != d.pp)
    return fmt::format("layers: {} stages given, pp={}; give one number of layers for each stage", d.layers_per_stage.size(), d.pp);
  int64_t sum = 0;
  for (size_t i = 0; i < d.layers_per_stage.size(); ++i) {
    const int64_t count = d.layers_per_stage[i];
    if (count < 1 || count > layers) return fmt::format("layers: stage {} has {} of num_hidden_layers = {}; each stage needs at least 1", i, count, layers);
    sum += count;
  }
  if (sum != layers) return fmt::format("layers: the stages sum to {}, num_hidden_layers = {}", sum, layers);
  return {};
}

Refusal stages(const ModelConfig& config, const Degrees& d, bool open) {
  auto text = stages_text(config, d, open);
  if (!text) return {};
  return Refused{"stages", std::move(*text)};
}

Refusal broken_by(const Rules& rules, const ModelConfig& config, const Degrees& d, bool open_cut) {
  return first_of({[&] { return positive(d); }, [&] { return product(d); }, [&] { return rules.tp(d.tp); }, [&] { return stages(config, d, open_cut); },
                   [&] { return rules.redundant(d.ep); }, [&] { return rules.ep_of_stage(d); }, [&] { return rules.experts(d.ep, d.moe_tp()); }, [&] { return rules.whole_columns(); }});
}

}  // namespace

namespace {

// Units of 4-bit groups for the kinds of layers that have any.
CutUnits int4_units(const ModelConfig& config) {
  const Int4Config& int4 = *config.int4;
  constexpr int64_t kPacked = 8;
  const bool rows_packed = int4.layout == Int4Layout::awq || int4.zero_points;
  CutUnits units{rows_packed ? kPacked : 1, int4.group_size, int4.group_size, "int4-group", "int4 packing", "int4 group"};
  if (int4.not_converted.empty()) return units;
  const auto any = [&](int64_t layer, std::initializer_list<const char*> modules) {
    return std::any_of(modules.begin(), modules.end(), [&](const char* module) { return int4.converts(fmt::format("model.layers.{}.{}", layer, module)); });
  };
  units.attention = units.dense = units.shared = units.experts = false;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    units.attention = units.attention || any(i, {"self_attn.q_proj", "self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj", "self_attn.o_proj"});
    units.dense = units.dense || (!config.is_moe(i) && any(i, {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}));
    units.shared = units.shared || (config.is_moe(i) && any(i, {"mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj"}));
    units.experts = units.experts || (config.is_moe(i) && any(i, {"mlp.experts.0.gate_proj", "mlp.experts.0.up_proj", "mlp.experts.0.down_proj"}));
  }
  return units;
}

}  // namespace

CutUnits checkpoint_units(const ModelConfig& config) {
  if (config.int4) return int4_units(config);
  if (!config.fp8) return {};
  return {config.fp8->block_rows, config.fp8->block_cols, 1, "fp8-block", "FP8 block", "FP8 block"};
}

std::optional<Refused> refusal(const ModelConfig& config, const CutUnits& units, int64_t redundant, const Degrees& d) {
  return broken_by(Rules(config, units, redundant), config, d, d.layers_per_stage.empty());
}

std::optional<std::string> refusal(const ModelConfig& config, const Degrees& d) {
  return detail_of(broken_by(Rules(config, checkpoint_units(config)), config, d, false));
}

std::optional<std::string> tp_refusal(const ModelConfig& config, int64_t tp) { return detail_of(Rules(config, checkpoint_units(config)).tp(tp)); }

std::optional<std::string> experts_refusal(const ModelConfig& config, int64_t ep, int64_t moe_tp) {
  return detail_of(Rules(config, checkpoint_units(config)).experts(ep, moe_tp));
}

std::optional<int64_t> largest_legal_ep(const ModelConfig& config, int64_t ranks) {
  const Rules rules(config, checkpoint_units(config));
  for (int64_t ep = ranks; ep >= 1; --ep)
    if (ranks % ep == 0 && !rules.experts(ep, ranks / ep)) return ep;
  return {};
}

}  // namespace dsinfer
