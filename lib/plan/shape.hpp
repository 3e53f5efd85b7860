/// A candidate of the search: degrees, cut and operating choices, before it becomes a Plan.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "dsinfer/solver.hpp"
#include "plan/legality.hpp"

namespace dsinfer {

struct Shape {
  int64_t tp = 1, pp = 1, dp = 1, ep = 1, replicas = 1;
  std::vector<int64_t> stage_layers;      ///< pp entries; empty until cut
  int redundant_experts = 0;
  bool prediction_layer = false;
  int micro_batches = 1;                  ///< batches in flight (pp)
  int64_t moe_tp() const { return tp * dp / ep; }
  int64_t ranks() const { return tp * pp * dp; }
  std::string spec() const;               ///< "tp=8,pp=2,dp=1,ep=8"
};

/// What the arithmetic of a candidate depends on besides its shape.
struct Precisions {
  Precision weights = Precision::fp8;
  CachePrecision cache = CachePrecision::bf16;
  int64_t int4_group = 128;
};

/// The first rule that `shape` breaks under this precision, as {rule, detail}; nothing if it is legal. Rules: plan-wide units of section "hard constraints".
struct Refused { std::string rule, detail; };
std::optional<Refused> refuse(const ModelConfig& config, const Precisions& precisions, const Shape& shape);

/// Bytes of one layer (and of embedding, head, norms) as a rank of `shape` holds them; built once per (config, precisions, tp, ep, moe_tp), then summed.
struct LayerBytes {
  std::vector<int64_t> layer;             ///< num_hidden_layers entries: weights of one rank
  int64_t embedding = 0, head = 0;        ///< first, last stage; head includes the final norm
  int64_t prediction = 0;                 ///< MTP layer, last stage
  int64_t absorbed_per_layer = 0;
  std::map<std::string, std::vector<int64_t>> by_kind;  ///< as MemoryTable::weights_by_kind, per layer
};
LayerBytes layer_bytes(const ModelConfig& config, const Precisions& precisions, const Shape& shape);

/// The cut with the lightest fullest rank, and of those the one with most tokens.
std::vector<int64_t> best_cut(const ModelConfig& config, const LayerBytes& bytes, const Shape& shape, int64_t budget_bytes, int64_t overhead_bytes, int64_t cache_bytes_per_token_layer);
/// The cut with the least slowest stage, given seconds per layer, among those that fit; empty if none does.
std::vector<int64_t> fastest_cut(const ModelConfig& config, const LayerBytes& bytes, const Shape& shape, int64_t most_bytes, const std::vector<double>& layer_seconds);

MemoryTable memory_table(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const SolveRequest& request);

/// At which point a step is timed.
struct OperatingPoint {
  int64_t batch = 1;         ///< sequences per DP rank (all micro-batches together)
  int64_t context = 2048;    ///< mean positions in the cache
  int64_t chunk = 4096;      ///< prompt tokens per DP rank in a prefill step
};
struct StepTime {
  std::map<std::string, double> parts_ms;   ///< as Prediction's
  double total_ms = 0;                      ///< latency of the step through all stages
  double interval_ms = 0;                   ///< time between two steps of the slowest stage, with the plan's batches in flight
  Confidence confidence = Confidence::specification;
  std::string bottleneck;
  std::map<std::string, std::string> algorithms;
};
/// One token for every sequence.
StepTime decode_step(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const OperatingPoint& at);
/// `chunk` prompt tokens per DP rank, the last of a prompt of `context` positions.
StepTime prefill_step(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const OperatingPoint& at);
/// Seconds of each layer in a decode step of the fullest kind; for fastest_cut.
std::vector<double> layer_seconds(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const OperatingPoint& at);

}  // namespace dsinfer
