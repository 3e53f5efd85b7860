// The memory table: bytes of each stage's ranks, and the tokens that what is left can cache.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "dsinfer/error.hpp"
#include "plan/memory.hpp"

namespace dsinfer {
namespace {

constexpr double kMostUtilization = 0.95;  // what is left serves whatever the driver and other processes take

void check(const Fleet& fleet, const SolveRequest& request, const Shape& shape) {
  const auto refuse = [](const std::string& text) { throw Error(Error::invalid_argument, text); };
  if (!(request.utilization > 0 && request.utilization <= kMostUtilization))
    refuse(fmt::format("utilization is {}, expected more than 0 and at most {}: driver, libraries and other processes need the rest", request.utilization, kMostUtilization));
  if (fleet.gpu.memory_bytes < 1 || fleet.gpu.memory_bytes > int64_t{1} << 50)
    refuse(fmt::format("memory_bytes of gpu \"{}\" is {}, expected 1 … 2^50", fleet.gpu.id, fleet.gpu.memory_bytes));
  if (request.max_len < 1 || request.max_len > int64_t{1} << 30) refuse(fmt::format("max_len is {}, expected 1 … 2^30", request.max_len));
  if (request.overhead_bytes && !(*request.overhead_bytes >= 0 && *request.overhead_bytes <= 0x1p50))
    refuse(fmt::format("overhead_bytes is {}, expected 0 … 2^50", *request.overhead_bytes));
  if (shape.tp < 1 || shape.pp < 1 || shape.dp < 1 || shape.ep < 1 || shape.moe_tp() < 1) throw Error(Error::internal, "memory_table() of a plan that the rules refuse: " + shape.spec());
}

// What each stage holds, in the order of the stages.
struct Stage {
  int64_t begin = 0, layers = 0, cached_layers = 0, weights = 0, absorbed = 0, activations = 0, overhead = 0;
};

class Table {
 public:
  Table(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const LayerBytes& bytes, const Fleet& fleet, const SolveRequest& request, int64_t step_tokens)
      : config_(config), shape_(shape), bytes_(bytes), limits_(step_limits(fleet, request, step_tokens)), request_(request),
        per_token_layer_(cache_bytes_per_token_layer(config, precisions)) {
    table_.budget_bytes = static_cast<int64_t>(std::floor(request.utilization * static_cast<double>(fleet.gpu.memory_bytes)));
    table_.communication_bytes = communication_bytes(config, shape, fleet, limits_);
    table_.context_bytes = context_bytes(fleet);
    table_.reserve_bytes = reserve_bytes(fleet);
    RankPlan rank = any_rank(config, shape);
    const auto activations = [&] {
      const int64_t plain = activation_bytes(config, rank, limits_, precisions.host ? 4 : 2, precisions.host);
      return may_have_blocks(config, precisions, fleet.gpu) ? std::max(plain, block_activation_bytes(config, rank, limits_)) : plain;
    };
    last_activations_ = activations();
    rank.last_stage = false;
    activations_ = activations();
  }

  MemoryTable fill() && {
    lay_out_stages();
    const auto fullest = std::max_element(stages_.begin(), stages_.end(), [](const Stage& a, const Stage& b) { return a.weights < b.weights; });
    table_.weights_bytes_max = fullest->weights;
    table_.absorbed_bytes = fullest->absorbed;
    table_.activation_bytes = fullest->activations;
    table_.overhead_bytes = fullest->overhead;
    table_.room_bytes = table_.budget_bytes - fullest->weights - fullest->overhead;
    count_tokens();
    name_kinds(*fullest);
    return std::move(table_);
  }

 private:
  void lay_out_stages() {
    std::vector<int64_t> layers = shape_.stage_layers;
    if (layers.empty()) layers = best_cut(config_, bytes_, shape_, table_.budget_bytes, overhead(bytes_.absorbed_per_layer * ((config_.num_hidden_layers + shape_.pp - 1) / shape_.pp), last_activations_), per_token_layer_);
    int64_t begin = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      const bool first = i == 0, last = i + 1 == layers.size();
      Stage stage;
      stage.begin = begin;
      stage.layers = stage.cached_layers = layers[i];
      begin += layers[i];
      if (begin > config_.num_hidden_layers || layers[i] < 1) break;
      for (int64_t layer = stage.begin; layer < begin; ++layer) stage.weights += bytes_.layer[static_cast<size_t>(layer)];
      if (first) stage.weights += bytes_.embedding;
      if (last) stage.weights += bytes_.head;
      if (last && shape_.prediction_layer) {
        stage.weights += bytes_.prediction;
        stage.cached_layers += config_.num_nextn_predict_layers;
      }
      stage.absorbed = bytes_.absorbed_per_layer * stage.cached_layers;
      stage.activations = last ? last_activations_ : activations_;
      stage.overhead = overhead(stage.absorbed, stage.activations);
      table_.weights_bytes_by_stage.push_back(stage.weights);
      stages_.push_back(stage);
    }
    if (begin != config_.num_hidden_layers || stages_.size() != layers.size() || static_cast<int64_t>(layers.size()) != shape_.pp)
      throw Error(Error::internal, fmt::format("memory_table() of {} stages with {} layers, the plan has pp={} and the model {} layers", layers.size(), begin, shape_.pp, config_.num_hidden_layers));
  }

  int64_t overhead(int64_t absorbed, int64_t activations) const {
    if (request_.overhead_bytes) return static_cast<int64_t>(*request_.overhead_bytes);
    return absorbed + activations + table_.communication_bytes + table_.context_bytes + table_.reserve_bytes;
  }

  void count_tokens() {
    for (size_t i = 0; i < stages_.size(); ++i) {
      const Stage& stage = stages_[i];
      const int64_t per_token = per_token_layer_ * stage.cached_layers;
      table_.cache_bytes_per_token_max = std::max(table_.cache_bytes_per_token_max, per_token);
      const int64_t tokens = std::max<int64_t>(table_.budget_bytes - stage.weights - stage.overhead, 0) / std::max<int64_t>(per_token, 1);
      if (i > 0 && tokens >= table_.kv_tokens_per_dp_rank) continue;
      table_.kv_tokens_per_dp_rank = tokens;
      table_.tightest_stage = static_cast<int>(i);
    }
  }

  void name_kinds(const Stage& fullest) {
    const bool first = fullest.begin == 0, last = fullest.begin + fullest.layers == config_.num_hidden_layers;
    for (const auto& [kind, sizes] : bytes_.by_kind)
      for (int64_t layer = fullest.begin; layer < fullest.begin + fullest.layers; ++layer) table_.weights_by_kind[kind] += sizes[static_cast<size_t>(layer)];
    if (first) table_.weights_by_kind["embedding"] += bytes_.embedding;
    if (last) table_.weights_by_kind["embedding"] += bytes_.head;  // the final norm's few KB go with it
    if (last && shape_.prediction_layer) table_.weights_by_kind["mtp"] += bytes_.prediction;
  }

  const ModelConfig& config_;
  const Shape& shape_;
  const LayerBytes& bytes_;
  StepLimits limits_;
  const SolveRequest& request_;
  int64_t per_token_layer_, activations_ = 0, last_activations_ = 0;
  std::vector<Stage> stages_;
  MemoryTable table_;
};

}  // namespace

MemoryTable memory_table(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const SolveRequest& request, int64_t step_tokens) {
  check(fleet, request, shape);
  Precisions held = precisions;
  held.host = held.host || is_host(fleet.gpu);
  const LayerBytes bytes = layer_bytes(config, held, shape);
  return Table(config, held, shape, bytes, fleet, request, step_tokens).fill();
}

MemoryTable memory_table(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const LayerBytes& bytes, const Fleet& fleet, const SolveRequest& request) {
  check(fleet, request, shape);
  return Table(config, precisions, shape, bytes, fleet, request, 0).fill();
}

}  // namespace dsinfer
