/// One given plan: the shape it means, or the rule it breaks.
#include <fmt/format.h>

#include <numeric>

#include "plan/search.hpp"

namespace dsinfer {
namespace {

// Degrees are at most 2^31 each: their product is formed where it cannot overflow.
double product(std::initializer_list<int64_t> factors) {
  double out = 1;
  for (const int64_t f : factors) out *= static_cast<double>(f);
  return out;
}

std::optional<Refused> check_ranks(const Question& q, const PlanRequest& judge, const Shape& s) {
  const double ranks = product({s.tp, s.pp, s.dp, s.replicas});
  const std::string spelled = fmt::format("tp·pp·dp·replicas = {}·{}·{}·{} = {:.0f}", s.tp, s.pp, s.dp, s.replicas, ranks);
  if (ranks > static_cast<double>(q.gpus())) return Refused{"ranks", fmt::format("{} needs more than the {} GPUs there are", spelled, q.gpus())};
  if (judge.world_size > 0 && ranks != static_cast<double>(judge.world_size)) return Refused{"ranks", fmt::format("{} is not world_size = {}", spelled, judge.world_size)};
  if ((s.tp * s.dp) % s.ep != 0) return Refused{"ranks", fmt::format("ep={} does not divide tp·dp = {}·{} = {} (ep·moe_tp = tp·dp)", s.ep, s.tp, s.dp, s.tp * s.dp)};
  return std::nullopt;
}

std::optional<Refused> check_cut(const Question& q, const Shape& s) {
  if (s.stage_layers.empty()) return std::nullopt;
  if (static_cast<int64_t>(s.stage_layers.size()) != s.pp) return Refused{"stages", fmt::format("layers= has {} stages, pp={}", s.stage_layers.size(), s.pp)};
  double sum = 0;
  for (const int64_t layers : s.stage_layers) {
    if (layers < 1) return Refused{"stages", fmt::format("layers= has a stage of {}, expected 1 or more", layers)};
    sum += static_cast<double>(layers);
  }
  if (sum != static_cast<double>(q.config.num_hidden_layers))
    return Refused{"stages", fmt::format("layers= sums to {:.0f}, num_hidden_layers = {}", sum, q.config.num_hidden_layers)};
  return std::nullopt;
}

}  // namespace

Given given_shape(const Question& q, const PlanRequest& judge) {
  Given given;
  Shape& s = given.shape;
  const auto degree = [&](const char* name, int value, int64_t silent) {
    if (value < 0 && !given.refused) given.refused = Refused{"ranks", fmt::format("{}={}, expected 1 or more", name, value)};
    return value > 0 ? static_cast<int64_t>(value) : silent;
  };
  s.tp = degree("tp", judge.tp, 1);
  s.dp = degree("dp", judge.dp, 1);
  s.pp = degree("pp", judge.pp, std::max<int64_t>(1, static_cast<int64_t>(judge.layers_per_stage.size())));
  s.replicas = degree("replicas", judge.replicas, 1);
  s.ep = degree("ep", judge.ep, q.config.n_routed_experts > 0 ? s.tp * s.dp : 1);
  s.stage_layers = judge.layers_per_stage;
  s.redundant_experts = q.request.redundant_experts;
  s.prediction_layer = q.request.prediction_layer;
  if (judge.micro_batches < 0 || judge.micro_batches > 1024)
    given.refused = Refused{"micro-batches", fmt::format("micro_batches={}, expected 1 … 1024", judge.micro_batches)};
  if (!given.refused) given.refused = check_ranks(q, judge, s);
  if (!given.refused) given.refused = check_cut(q, s);
  if (!given.refused) given.refused = refuse(q.config, q.precisions, s);
  return given;
}

}  // namespace dsinfer
