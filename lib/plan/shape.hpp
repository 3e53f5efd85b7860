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
  DSINFER_INTERNAL std::string spec() const;  ///< "tp=8,pp=2,dp=1,ep=8"; replicas where there are several
};

/// What the arithmetic of a candidate depends on besides its shape.
struct Precisions {
  Precision weights = Precision::fp8;
  CachePrecision cache = CachePrecision::bf16;
  int64_t int4_group = 128;
  /// As the CPU backend holds them, whatever `weights` and `cache` say: matrices as the checkpoint stores them, vectors, scales and absorbed copies
  /// f32, cache f32.
  bool host = false;
};

/// What the request and the fleet come to: the precision asked for, else the checkpoint's as the GPU can compute it (FP8 without FP8 units: stored FP8, computed
/// BF16), and the host's forms for a fleet of CPUs.
DSINFER_INTERNAL Precisions precisions_for(const ModelConfig& config, const Fleet& fleet, const SolveRequest& request);

/// Whether this GPU computes in this precision; nothing if it does. Rule "precision".
DSINFER_INTERNAL std::optional<Refused> refuse_precision(const ModelConfig& config, const Precisions& precisions, const GpuKind& gpu);

/// The CPU backend of this library runs there.
inline bool is_host(const GpuKind& gpu) { return gpu.curves == "cpu"; }

/// The first rule that `shape` breaks under this precision, as {rule, detail}; nothing if it is legal. With stage_layers empty, the cut is open.
DSINFER_INTERNAL std::optional<Refused> refuse(const ModelConfig& config, const Precisions& precisions, const Shape& shape);

/// Bytes of one layer (and of embedding, head, norms) as a rank of `shape` holds them; built once per (config, precisions, tp, ep, moe_tp), then summed.
struct LayerBytes {
  std::vector<int64_t> layer;             ///< num_hidden_layers entries: weights of one rank
  int64_t embedding = 0, head = 0;        ///< first, last stage; head includes the final norm
  int64_t prediction = 0;                 ///< MTP layer, last stage
  int64_t absorbed_per_layer = 0;
  std::map<std::string, std::vector<int64_t>> by_kind;  ///< as MemoryTable::weights_by_kind, per layer
};
DSINFER_INTERNAL LayerBytes layer_bytes(const ModelConfig& config, const Precisions& precisions, const Shape& shape);

/// The cut with the lightest fullest rank, and of those the one with most tokens.
DSINFER_INTERNAL std::vector<int64_t> best_cut(const ModelConfig& config, const LayerBytes& bytes, const Shape& shape, int64_t budget_bytes, int64_t overhead_bytes, int64_t cache_bytes_per_token_layer);
/// The cut with the least slowest stage, given seconds per layer, among those that fit; empty if none does.
DSINFER_INTERNAL std::vector<int64_t> fastest_cut(const ModelConfig& config, const LayerBytes& bytes, const Shape& shape, int64_t most_bytes, const std::vector<double>& layer_seconds);

/// Bytes that one position takes in one layer's cache.
DSINFER_INTERNAL int64_t cache_bytes_per_token_layer(const ModelConfig& config, const Precisions& precisions);

/// Cuts with best_cut() where the shape has no cut yet. `step_tokens`: most rows of a DP rank in a step (prefill chunk or decode batch), for which activations and
/// buffers are sized; 0 = default_step_tokens().
DSINFER_INTERNAL MemoryTable memory_table(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const SolveRequest& request, int64_t step_tokens = 0);
/// The same with the layers' bytes at hand, as these precisions have them.
MemoryTable memory_table(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const LayerBytes& bytes, const Fleet& fleet, const SolveRequest& request);
DSINFER_INTERNAL int64_t default_step_tokens(const Fleet& fleet);

/// At which point a step is timed.
struct OperatingPoint {
  int64_t batch = 1;         ///< sequences per DP rank (all micro-batches together)
  int64_t context = 2048;    ///< mean positions in the cache
  int64_t chunk = 4096;      ///< prompt tokens per DP rank in a prefill step
  int draft_tokens = 1;      ///< verified beside each token where the shape has a prediction layer
  double skew = -1;          ///< of routed rows over ranks, 0 = perfectly balanced; negative: the curves', by whether there are redundant experts
};
struct StepTime {
  std::map<std::string, double> parts_ms;   ///< as Prediction's
  double total_ms = 0;                      ///< latency of the step through all stages
  double interval_ms = 0;                   ///< time between two steps of the slowest stage, with the plan's batches in flight: each such step brings
                                            ///< batch / micro_batches tokens per DP rank (with drafts: times what is accepted)
  Confidence confidence = Confidence::specification;
  std::string bottleneck;
  std::map<std::string, std::string> algorithms;
};
/// One token for every sequence. pp = 1 with two micro-batches: computing one overlaps the exchange of the other.
DSINFER_INTERNAL StepTime decode_step(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const OperatingPoint& at);
/// `chunk` prompt tokens per DP rank, the last of a prompt of `context` positions; a chunk longer than that holds several prompts.
DSINFER_INTERNAL StepTime prefill_step(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const OperatingPoint& at);
/// Seconds of each layer in a decode step of the fullest kind; for fastest_cut.
DSINFER_INTERNAL std::vector<double> layer_seconds(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const OperatingPoint& at);

}  // namespace dsinfer
