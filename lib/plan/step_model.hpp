/// What the parts of the cost model share: a tally of microseconds by part and by reason, and the arithmetic a rank does. Internal to lib/plan/step_*.cpp,
/// and for a caller whose numbers are not one of our Precisions.
#pragma once
#include <array>
#include <cstddef>

#include "plan/curves.hpp"
#include "plan/shape.hpp"

namespace dsinfer {

/// How weights of a kind are held and multiplied.
struct WeightForm {
  double bytes = 1;   ///< per weight, scales included
  double tflops = 0;  ///< peak of its GEMM
};

/// Forms of everything that a step reads.
struct Numerics {
  WeightForm attention, dense, experts, head;
  double cache_bytes = 1152;   ///< per position and layer
  double core_tflops = 0;      ///< peak of attention over the cache
  double dispatch_bytes = 2;   ///< per hidden value sent to an expert
  std::string precision;       ///< "fp8", … as CurveFamily::precisions
};
DSINFER_INTERNAL Numerics numerics_of(const ModelConfig& config, const Precisions& precisions, const GpuKind& gpu, const Curves& curves);

enum class Part { attention, experts, dense, head, all_to_all, all_reduce, pipeline, bubble, draft, other, count };
enum class Bound { attention_weights, cache, core_math, expert_weights, expert_math, other_weights, other_math, traffic, exchange_inside, exchange_between,
                    reduce_inside, reduce_between, hop, waiting, launches, count };

/// Microseconds by part; the same once more by what they are spent on.
struct DSINFER_INTERNAL Tally {
  std::array<double, static_cast<size_t>(Part::count)> parts{};
  std::array<double, static_cast<size_t>(Bound::count)> reasons{};
  void add(Part part, Bound reason, double us) {
    parts[static_cast<size_t>(part)] += us;
    reasons[static_cast<size_t>(reason)] += us;
  }
  void add(const Tally& other, double times);
  /// Takes `us` from the exchange: it flew while something else was computed.
  void hide_exchange(double us);
  double part(Part p) const { return parts[static_cast<size_t>(p)]; }
  double total() const;
};

/// Everything that the formulas look at. Borrowed; lives as long as a call.
struct DSINFER_INTERNAL StepModel {
  StepModel(const ModelConfig& config, const Numerics& numerics, const Shape& shape, const Fleet& fleet);
  const ModelConfig& config;
  const Numerics& numerics;
  const Shape& shape;
  const Fleet& fleet;
  const Curves& curves;
  const CurveFamily& family;
  double tp, dp, ep, moe_tp;

  // step_kernels.cpp. `tokens`: rows on one DP rank.
  double stream_us(double bytes, double share) const;
  double math_us(double flops, double tflops, double share, double bytes_per_flop) const;
  /// Weights read once, multiplied by `tokens` rows: loads and arithmetic overlap in part (root of the squares).
  void gemm(Tally& tally, Part part, double weights, const WeightForm& form, double tokens, Bound memory, Bound math) const;
  void attention_projections(Tally& tally, double tokens) const;
  void absorbed_core(Tally& tally, double sequences, double queries, double context) const;
  void prefill_core(Tally& tally, double tokens, double context) const;
  /// `delivered`: the exchange lays rows out by expert and sums what comes back, as low-latency kernels do.
  void routed_experts(Tally& tally, double tokens, double skew, bool delivered) const;
  void feed_forward(Tally& tally, bool moe, double tokens, double skew, bool delivered) const;
  void shared_expert(Tally& tally, double tokens) const;
  void head(Tally& tally, double tokens) const;
  /// Norms, quantisation, residual: bytes outside GEMMs.
  void small_operations(Tally& tally, double tokens) const;

  // step_exchange.cpp
  void all_reduces(Tally& tally, double tokens, std::map<std::string, std::string>* algorithms) const;
  /// Dispatch and combine of a layer; nothing if tokens of one DP rank stay where they are.
  void exchange(Tally& tally, double tokens, bool captured, std::map<std::string, std::string>* algorithms) const;
  double hop_us(double tokens, int64_t boundary) const;
};

/// Layers of each stage, even if the shape has no cut yet.
std::vector<int64_t> stage_layers_of(const ModelConfig& config, const Shape& shape);
/// The time of `layers`, given that of one dense and of one MoE layer.
Tally layers_of_stage(const ModelConfig& config, Range layers, const Tally& dense, const Tally& moe);
/// Throws invalid_argument naming the field for nonsense.
void check_step(const ModelConfig& config, const Numerics& numerics, const Shape& shape, const Fleet& fleet, const OperatingPoint& at);
/// parts_ms, bottleneck and confidence from the tally.
void describe(StepTime& step, const Tally& tally, const StepModel& model, const OperatingPoint& at);

DSINFER_INTERNAL StepTime decode_step(const ModelConfig& config, const Numerics& numerics, const Shape& shape, const Fleet& fleet, const OperatingPoint& at);
DSINFER_INTERNAL StepTime prefill_step(const ModelConfig& config, const Numerics& numerics, const Shape& shape, const Fleet& fleet, const OperatingPoint& at);

}  // namespace dsinfer
