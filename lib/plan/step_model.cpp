#include "plan/step_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

constexpr std::array kPartNames = {"attention", "experts", "dense", "head", "all_to_all", "all_reduce", "pipeline", "bubble", "draft", "other"};
constexpr std::array kBoundNames = {"attention weights from memory", "latent cache from memory", "attention arithmetic", "expert weights from memory",
                                     "expert arithmetic", "dense weights from memory", "dense arithmetic", "activations through memory",
                                     "all-to-all inside the node", "all-to-all between nodes", "all-reduce inside the node", "all-reduce between nodes",
                                     "pipeline hops", "waiting for other stages", "launches and small operations"};
static_assert(kPartNames.size() == static_cast<size_t>(Part::count) && kBoundNames.size() == static_cast<size_t>(Bound::count));

void need(bool good, const char* field, double found, const char* expected) {
  if (!good) throw Error(Error::invalid_argument, fmt::format("{} is {}, expected {}", field, found, expected));
}

void need_count(const char* field, int64_t found) { need(found >= 1, field, static_cast<double>(found), "at least 1"); }

void need_rate(const char* field, double found) { need(std::isfinite(found) && found > 0, field, found, "a number above 0"); }

template <class List>
bool holds(const List& list, const std::string& word) { return std::find(list.begin(), list.end(), word) != list.end(); }

Confidence confidence_of(const StepModel& m, const OperatingPoint& at) {
  const CurveFamily& f = m.family;
  const int64_t ranks = m.shape.ranks();
  const int64_t nodes = (ranks + m.fleet.gpus_per_node - 1) / m.fleet.gpus_per_node;
  bool covered = holds(f.gpus, m.fleet.gpu.id) && holds(f.precisions, m.numerics.precision);
  covered = covered && static_cast<double>(at.batch) <= f.max_batch && static_cast<double>(at.context) <= f.max_context && static_cast<double>(nodes) <= f.max_nodes;
  if (ranks > 1) covered = covered && holds(f.transports, m.fleet.inside.transport);
  if (nodes > 1) covered = covered && holds(f.transports, m.fleet.between.transport);
  return covered ? f.confidence : Confidence::specification;
}

}  // namespace

void Tally::add(const Tally& other, double times) {
  for (size_t i = 0; i < parts.size(); ++i) parts[i] += times * other.parts[i];
  for (size_t i = 0; i < reasons.size(); ++i) reasons[i] += times * other.reasons[i];
}

void Tally::hide_exchange(double us) {
  double& exchange = parts[static_cast<size_t>(Part::all_to_all)];
  if (exchange <= 0) return;
  const double left = (exchange - us) / exchange;
  exchange *= left;
  for (const Bound b : {Bound::exchange_inside, Bound::exchange_between}) reasons[static_cast<size_t>(b)] *= left;
}

double Tally::total() const { return std::accumulate(parts.begin(), parts.end(), 0.0); }

StepModel::StepModel(const ModelConfig& config_, const Numerics& numerics_, const Shape& shape_, const Fleet& fleet_)
    : config(config_), numerics(numerics_), shape(shape_), fleet(fleet_), curves(fleet_.curves ? *fleet_.curves : Curves::shipped()), family(curves.of(fleet_.gpu)),
      tp(static_cast<double>(shape_.tp)), dp(static_cast<double>(shape_.dp)), ep(static_cast<double>(shape_.ep)), moe_tp(tp * dp / ep) {}

Numerics numerics_of(const ModelConfig& config, const Precisions& precisions, const GpuKind& gpu, const Curves& curves) {
  const bool fp8_units = gpu.fp8_units && gpu.fp8_tflops > 0;
  Numerics n;
  WeightForm matrix{1 + 4.0 / (128 * 128), gpu.bf16_tflops};
  switch (precisions.weights) {
    case Precision::fp8:
      n.precision = "fp8";
      if (fp8_units) matrix.tflops = gpu.fp8_tflops;
      break;
    case Precision::fp8_bf16: n.precision = "fp8_bf16"; break;
    case Precision::bf16: n.precision = "bf16"; matrix.bytes = 2; break;
    case Precision::int4:  // a 16-bit scale and a 4-bit zero a group
      n.precision = "int4";
      matrix.bytes = 0.5 + 2.5 / static_cast<double>(std::max<int64_t>(precisions.int4_group, 1));
      break;
  }
  n.attention = n.dense = n.experts = matrix;
  n.head = {2, gpu.bf16_tflops};
  n.cache_bytes = static_cast<double>(cache_bytes_per_token_layer(config, precisions));
  // A cache with a BF16 rope part is converted and multiplied in BF16; a plain FP8 one goes through FP8 units.
  n.core_tflops = gpu.bf16_tflops;
  if (precisions.cache == CachePrecision::fp8 && fp8_units) n.core_tflops = std::max(gpu.bf16_tflops, std::min(gpu.fp8_tflops, gpu.bf16_tflops * curves.of(gpu).fp8_core_gain));
  n.dispatch_bytes = precisions.weights == Precision::fp8 && fp8_units ? 1 + 4.0 / 128 : 2;
  return n;
}

std::vector<int64_t> stage_layers_of(const ModelConfig& config, const Shape& shape) {
  if (!shape.stage_layers.empty()) return shape.stage_layers;
  std::vector<int64_t> layers(static_cast<size_t>(shape.pp), config.num_hidden_layers / shape.pp);
  for (int64_t i = 0; i < config.num_hidden_layers % shape.pp; ++i) ++layers[static_cast<size_t>(i)];
  return layers;
}

Tally layers_of_stage(const ModelConfig& config, Range layers, const Tally& dense, const Tally& moe) {
  Tally stage;
  int64_t experts = 0;
  for (int64_t layer = layers.begin; layer < layers.end; ++layer) experts += config.is_moe(layer);
  stage.add(moe, static_cast<double>(experts));
  stage.add(dense, static_cast<double>(layers.size() - experts));
  return stage;
}

void check_step(const ModelConfig& config, const Numerics& numerics, const Shape& shape, const Fleet& fleet, const OperatingPoint& at) {
  need_count("tp", shape.tp);
  need_count("pp", shape.pp);
  need_count("dp", shape.dp);
  need_count("ep", shape.ep);
  need_count("micro_batches", shape.micro_batches);
  need_count("gpus_per_node", fleet.gpus_per_node);
  need_count("batch", at.batch);
  need_count("chunk", at.chunk);
  need(at.context >= 0, "context", static_cast<double>(at.context), "at least 0");
  need(at.draft_tokens >= 0 && at.draft_tokens <= 64, "draft_tokens", at.draft_tokens, "0 … 64");
  need(std::isfinite(at.skew), "skew", at.skew, "a number");
  need(shape.redundant_experts >= 0, "redundant_experts", shape.redundant_experts, "at least 0");
  need(shape.pp <= config.num_hidden_layers, "pp", static_cast<double>(shape.pp), "at most the number of layers");
  const double ranks = static_cast<double>(shape.tp) * static_cast<double>(shape.pp) * static_cast<double>(shape.dp);
  need(ranks <= 1e15, "tp × pp × dp", ranks, "at most 10^15");  // products of degrees stay below 2^63
  need_rate("memory_gb_per_s", fleet.gpu.memory_gb_per_s);
  need_rate("bf16_tflops", fleet.gpu.bf16_tflops);
  need_rate("core_tflops", numerics.core_tflops);
  // A form of the caller's own divides by these; one rank needs no link.
  for (const WeightForm* form : {&numerics.attention, &numerics.dense, &numerics.experts, &numerics.head}) need_rate("tflops", form->tflops);
  if (shape.ranks() > 1) need_rate("inside.gb_per_s", fleet.inside.gb_per_s);
  if (shape.ranks() > fleet.gpus_per_node) need_rate("between.gb_per_s", fleet.between.gb_per_s);
  need(std::isfinite(fleet.inside.latency_us) && fleet.inside.latency_us >= 0, "inside.latency_us", fleet.inside.latency_us, "at least 0");
  need(std::isfinite(fleet.between.latency_us) && fleet.between.latency_us >= 0, "between.latency_us", fleet.between.latency_us, "at least 0");
  if (shape.stage_layers.empty()) return;
  int64_t sum = 0;
  for (const int64_t layers : shape.stage_layers) {
    need_count("stage_layers", layers);
    sum += layers;
  }
  need(static_cast<int64_t>(shape.stage_layers.size()) == shape.pp, "stage_layers", static_cast<double>(shape.stage_layers.size()), "pp entries");
  need(sum == config.num_hidden_layers, "stage_layers", static_cast<double>(sum), "the number of layers in all");
}

void describe(StepTime& step, const Tally& tally, const StepModel& model, const OperatingPoint& at) {
  for (size_t i = 0; i < tally.parts.size(); ++i)
    if (tally.parts[i] > 0) step.parts_ms[kPartNames[i]] = tally.parts[i] / 1e3;
  const auto largest = std::max_element(tally.reasons.begin(), tally.reasons.end());
  step.bottleneck = kBoundNames[static_cast<size_t>(largest - tally.reasons.begin())];
  step.confidence = confidence_of(model, at);
}

}  // namespace dsinfer
