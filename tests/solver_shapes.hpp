/// Configs, shapes and fleets for the tests of the plan solver's arithmetic.
#pragma once
#include <random>
#include <string>
#include <vector>

#include "checkpoint_writer.hpp"
#include "dsinfer/error.hpp"
#include "plan/shape.hpp"

namespace dsinfer::test {

inline ModelConfig real_config(const std::string& name) { return ModelConfig::load(std::string(DSINFER_TEST_DATA) + "/configs/" + name + ".json"); }
inline const ModelConfig& deepseek_v3() {
  static const ModelConfig config = real_config("deepseek-v3");
  return config;
}
inline ModelConfig tiny_config(const nlohmann::json& changes = nlohmann::json::object()) { return ModelConfig::parse(testing_support::tiny_config_json(changes)); }

inline Shape shape_of(int64_t tp, int64_t pp, int64_t dp, int64_t ep, std::vector<int64_t> layers = {}) {
  Shape shape;
  shape.tp = tp, shape.pp = pp, shape.dp = dp, shape.ep = ep;
  shape.stage_layers = std::move(layers);
  return shape;
}

inline Precisions in(Precision weights, CachePrecision cache = CachePrecision::bf16) {
  Precisions precisions;
  precisions.weights = weights;
  precisions.cache = cache;
  return precisions;
}
inline Precisions on_host() {
  Precisions precisions;
  precisions.host = true;
  return precisions;
}

/// A Plan that lies as `shape` says.
inline Plan plan_of(const ModelConfig& config, const Shape& shape) {
  PlanRequest request;
  request.world_size = static_cast<int>(shape.ranks());
  request.tp = static_cast<int>(shape.tp), request.pp = static_cast<int>(shape.pp), request.dp = static_cast<int>(shape.dp), request.ep = static_cast<int>(shape.ep);
  request.layers_per_stage = shape.stage_layers;
  return solve(config, request);
}

/// Every shape with tp · pp · dp = ranks and ep any divisor of tp · dp.
inline std::vector<Shape> all_shapes(int64_t ranks) {
  std::vector<Shape> shapes;
  for (int64_t tp = 1; tp <= ranks; ++tp)
    for (int64_t pp = 1; tp * pp <= ranks; ++pp) {
      if (ranks % (tp * pp) != 0) continue;
      for (int64_t ep = 1; ep <= ranks / pp; ++ep)
        if (ranks / pp % ep == 0) shapes.push_back(shape_of(tp, pp, ranks / tp / pp, ep));
    }
  return shapes;
}

template <class Call> std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    return std::string(code_name(e.code())) + ": " + e.what();
  }
  return "no error";
}

}  // namespace dsinfer::test
