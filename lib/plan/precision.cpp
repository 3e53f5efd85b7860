// What each precision asks: of a GPU, of the dimensions, of the checkpoint.
#include <fmt/format.h>

#include <limits>

#include "plan/shape.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kFp8Block = 128;    // of every released FP8 checkpoint; for one that has yet to be quantised
constexpr int64_t kInt4Packing = 8;   // 4-bit values in a 32-bit word, along the rows (AWQ's output features)
constexpr double kFirstFp8Capability = 8.9, kFirstBf16Capability = 8.0;

const char* name_of(Precision precision) {
  switch (precision) {
    case Precision::fp8: return "fp8";
    case Precision::fp8_bf16: return "fp8_bf16";
    case Precision::bf16: return "bf16";
    case Precision::int4: return "int4";
  }
  return "?";
}

CutUnits units_of(const ModelConfig& config, const Precisions& precisions) {
  if (precisions.host) return checkpoint_units(config);
  switch (precisions.weights) {
    case Precision::bf16: return {};
    case Precision::int4: if (config.int4) return checkpoint_units(config); return {kInt4Packing, precisions.int4_group, precisions.int4_group, "int4-group", "int4 packing", "int4 group"};
    case Precision::fp8: case Precision::fp8_bf16: break;
  }
  if (config.fp8) return checkpoint_units(config);
  return {kFp8Block, kFp8Block, 1, "fp8-block", "FP8 block", "FP8 block"};
}

std::optional<Refused> refuse_ranks(const Shape& shape) {
  // Each factor is at most 2^20 once the rules have seen it; the world's size is an int.
  const long double ranks = static_cast<long double>(shape.tp) * static_cast<long double>(shape.pp) * static_cast<long double>(shape.dp) * static_cast<long double>(shape.replicas);
  for (const auto& [name, value] : {std::pair{"tp", shape.tp}, {"pp", shape.pp}, {"dp", shape.dp}, {"ep", shape.ep}, {"replicas", shape.replicas}})
    if (value < 1) return Refused{"ranks", fmt::format("{}={}, expected at least 1", name, value)};
  if (ranks > static_cast<long double>(std::numeric_limits<int32_t>::max()))
    return Refused{"ranks", fmt::format("tp·pp·dp·replicas = {}·{}·{}·{} = {:.0f} is more ranks than any world has", shape.tp, shape.pp, shape.dp, shape.replicas, static_cast<double>(ranks))};
  return {};
}

}  // namespace

std::string Shape::spec() const {
  std::string text = fmt::format("tp={},pp={},dp={},ep={}", tp, pp, dp, ep);
  if (replicas != 1) text += fmt::format(",replicas={}", replicas);
  return text;
}

Precisions precisions_for(const ModelConfig& config, const Fleet& fleet, const SolveRequest& request) {
  Precisions precisions;
  precisions.host = is_host(fleet.gpu);
  precisions.cache = request.cache.value_or(CachePrecision::bf16);
  if (config.int4) precisions.int4_group = config.int4->group_size;
  if (request.precision) {
    precisions.weights = *request.precision;
  } else if (config.int4) {
    precisions.weights = Precision::int4;
  } else if (!config.fp8) {
    precisions.weights = Precision::bf16;
  } else if (fleet.gpu.fp8_units) {
    precisions.weights = Precision::fp8;
  } else {
    precisions.weights = precisions.host || fleet.gpu.compute_capability >= kFirstBf16Capability ? Precision::fp8_bf16 : Precision::bf16;
  }
  return precisions;
}

std::optional<Refused> refuse_precision(const ModelConfig& config, const Precisions& precisions, const GpuKind& gpu) {
  const char* name = name_of(precisions.weights);
  const auto refused = [](std::string detail) { return Refused{"precision", std::move(detail)}; };
  if (is_host(gpu)) {
    const bool fp8 = precisions.weights == Precision::fp8 || precisions.weights == Precision::fp8_bf16;
    if ((precisions.weights == Precision::int4) != config.int4.has_value() || fp8 != config.fp8.has_value())
      return refused(fmt::format("precision {}: the CPU backend computes with a checkpoint as it is stored, here in {}; leave precision out", name, config.int4 ? "int4" : config.fp8 ? "fp8" : "bf16"));
    return {};
  }
  if (precisions.weights == Precision::fp8 && !gpu.fp8_units)
    return refused(fmt::format("precision fp8: {} has no FP8 units (compute capability {:.1f}; they begin with {:.1f}); take bf16, int4{}", gpu.id, gpu.compute_capability, kFirstFp8Capability,
                               gpu.compute_capability >= kFirstBf16Capability ? ", or fp8_bf16 (the same bytes, computed in BF16)" : ""));
  if (precisions.weights == Precision::fp8_bf16 && gpu.compute_capability < kFirstBf16Capability)
    return refused(fmt::format("precision fp8_bf16: {} lacks kernels that read FP8 and compute in BF16 (compute capability {:.1f}, expected {:.1f} or more); take bf16 or int4", gpu.id, gpu.compute_capability,
                               kFirstBf16Capability));
  if (gpu.bf16_tflops <= 0) return refused(fmt::format("precision {}: {} has no BF16 units (bf16_tflops = {})", name, gpu.id, gpu.bf16_tflops));
  return {};
}

std::optional<Refused> refuse(const ModelConfig& config, const Precisions& precisions, const Shape& shape) {
  if (auto broken = refuse_ranks(shape)) return broken;
  if (!precisions.host && precisions.weights == Precision::int4 && (precisions.int4_group < kInt4Packing || precisions.int4_group % kInt4Packing != 0))
    return Refused{"int4-group", fmt::format("int4_group = {}, expected a multiple of {}; nearest legal: {}", precisions.int4_group, kInt4Packing, kInt4Packing)};
  if (shape.prediction_layer && config.num_nextn_predict_layers < 1)
    return Refused{"prediction-layer", "the model has no MTP layer (num_nextn_predict_layers = 0); leave prediction_layer out"};
  Degrees degrees;
  degrees.tp = shape.tp;
  degrees.pp = shape.pp;
  degrees.dp = shape.dp;
  degrees.ep = shape.ep;
  degrees.world_size = shape.ranks();  // of one replica: more of them change no dimension
  degrees.layers_per_stage = shape.stage_layers;
  return refusal(config, units_of(config, precisions), shape.redundant_experts, degrees);
}

}  // namespace dsinfer
