// A question as words ("nodes=2 gpus=8 gpu=h20-96g link=roce400x8 utilization=0.9 plan=tp=8,pp=2 …"): an answer whose JSON parses, or Error.
#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "dsinfer/error.hpp"
#include "dsinfer/solver.hpp"

namespace {

using namespace dsinfer;
using Words = std::map<std::string, std::string, std::less<>>;

ModelConfig small_config() {
  return ModelConfig::parse(R"({"model_type": "deepseek_v3", "vocab_size": 256, "hidden_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 8, "q_lora_rank": 128, "kv_lora_rank": 128, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
    "v_head_dim": 32, "intermediate_size": 512, "moe_intermediate_size": 128, "n_routed_experts": 16, "num_experts_per_tok": 4,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 4, "topk_group": 2, "norm_topk_prob": true,
    "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "rope_scaling": null, "max_position_embeddings": 512, "num_nextn_predict_layers": 1, "bos_token_id": 0, "eos_token_id": 1,
    "hidden_act": "silu", "tie_word_embeddings": false, "attention_bias": false})");
}

Words split(std::string_view text) {
  Words words;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find_first_of(" \n", begin), text.size()), equals = std::min(text.find('=', begin), end);
    words.emplace(text.substr(begin, equals - begin), equals < end ? text.substr(equals + 1, end - equals - 1) : "");
    begin = end + 1;
  }
  return words;
}

template <class T> void set(const Words& words, const char* name, T& value) {
  const auto at = words.find(name);
  if (at != words.end()) std::from_chars(at->second.data(), at->second.data() + at->second.size(), value);
}
template <class T> void set(const Words& words, const char* name, std::optional<T>& value) {
  if (!words.contains(name)) return;
  value.emplace();
  set(words, name, *value);
}
std::string text_of(const Words& words, const char* name, const char* silent) {
  const auto at = words.find(name);
  return at == words.end() ? silent : at->second;
}

SolveRequest request_of(const Words& words) {
  SolveRequest r;
  Workload& load = r.workload;
  set(words, "input", load.input_len), set(words, "output", load.output_len), set(words, "hit", load.prefix_hit);
  set(words, "concurrency", load.concurrency), set(words, "rate", load.rate);
  if (words.contains("precision")) r.precision = parse_precision(text_of(words, "precision", ""));
  if (words.contains("kv")) r.cache = parse_cache_precision(text_of(words, "kv", ""));
  set(words, "utilization", r.utilization), set(words, "max_len", r.max_len), set(words, "overhead", r.overhead_bytes);
  set(words, "ttft", r.ttft_ms), set(words, "tpot", r.tpot_ms), set(words, "redundant", r.redundant_experts), set(words, "top", r.top);
  set(words, "accept", r.draft_acceptance);
  r.prediction_layer = words.contains("mtp"), r.split_roles = words.contains("roles");
  if (words.contains("latency")) r.objective = Objective::latency;
  if (words.contains("plan")) {
    r.judge = PlanRequest::parse(text_of(words, "plan", ""), 1);
    r.judge->world_size = 0;
  }
  return r;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ModelConfig config = small_config();
  std::optional<SolveAnswer> answer;
  try {
    const Words words = split({reinterpret_cast<const char*>(data), size});
    int nodes = 1, gpus = 4;
    set(words, "nodes", nodes), set(words, "gpus", gpus);
    if (int64_t{nodes} * gpus > 8 && nodes <= 4096 && gpus <= 4096) return 0;  // right, but slow: an input has to take milliseconds
    const Fleet fleet = describe_fleet(Catalogue::shipped(), nodes, gpus, text_of(words, "gpu", "h20-96g"), text_of(words, "link", "ib400x1"), text_of(words, "inside", ""));
    answer = solve(config, fleet, request_of(words));
  } catch (const Error&) {
    return 0;
  }
  if (nlohmann::json::parse(answer->to_json())["feasible"] != answer->feasible) __builtin_trap();
  if (answer->text().empty() || answer->svg().empty()) __builtin_trap();
  for (const PlanAnswer& plan : answer->plans)
    if (static_cast<int>(plan.rank_map.size()) != plan.plan.world_size || plan.plan.world_size > answer->fleet.num_gpus()) __builtin_trap();
  return 0;
}
