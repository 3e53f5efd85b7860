/// solve(): from a question to its answer.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "plan/search.hpp"

namespace dsinfer {
namespace {

// A list that a person reads to its end.
constexpr size_t kMostRefused = 16, kMostTooBig = 16, kMostDominated = 8;

std::string rate(double tokens_per_s) { return fmt::format("{} tokens/s", short_count(tokens_per_s)); }

RejectedPlan too_big(const Question& q, const Candidate& c) {
  const MemoryTable& m = c.memory;
  std::string detail = fmt::format("weights {} + overhead {} of a budget of {}", gigabytes(m.weights_bytes_max), gigabytes(m.overhead_bytes), gigabytes(m.budget_bytes));
  if (m.room_bytes < 0) detail += fmt::format(": {} too much", gigabytes(-m.room_bytes));
  else detail += fmt::format(": room for {} tokens of a DP rank, max_len is {}", m.kv_tokens_per_dp_rank, q.request.max_len);
  return {c.shape.spec(), "memory", std::move(detail)};
}

RejectedPlan dominated(const Question& q, const Candidate& c, const Candidate& winner) {
  std::string detail;
  if (winner.meets_limits && !c.meets_limits) detail = c.missed;
  else if (q.request.objective == Objective::latency)
    detail = fmt::format("TPOT {:.1f} ms, {} has {:.1f} ms", c.predicted.tpot_ms.value, winner.shape.spec(), winner.predicted.tpot_ms.value);
  else detail = fmt::format("{} at most, {} delivers {}", rate(c.predicted.tokens_per_s.value), winner.shape.spec(), rate(winner.predicted.tokens_per_s.value));
  return {c.shape.spec(), "dominated", std::move(detail)};
}

// The misfits that stand for the others: of each tp, pp, dp the lightest, plans over all GPUs before smaller ones.
void list_too_big(const Question& q, const Found& found, std::vector<RejectedPlan>& out) {
  std::set<std::tuple<int64_t, int64_t, int64_t>> seen;
  std::vector<const Candidate*> order;
  for (const Candidate& c : found.misfits) order.push_back(&c);
  std::stable_sort(order.begin(), order.end(), [&](const Candidate* a, const Candidate* b) { return a->shape.ranks() == q.gpus() && b->shape.ranks() != q.gpus(); });
  size_t listed = 0;
  for (const Candidate* c : order) {
    if (!seen.insert({c->shape.tp, c->shape.pp, c->shape.dp}).second || listed++ >= kMostTooBig) continue;
    out.push_back(too_big(q, *c));
  }
}

void list_dominated(const Question& q, const Found& found, std::vector<RejectedPlan>& out) {
  std::set<std::pair<int64_t, int64_t>> seen;
  size_t listed = 0;
  for (const Candidate& c : found.dominated) {
    if (listed >= kMostDominated) return;
    if (!seen.insert({c.shape.tp, c.shape.pp}).second) continue;
    out.push_back(dominated(q, c, found.best.front()));
    ++listed;
  }
}

std::string why_best(const Question& q, const Found& found) {
  const Candidate& best = found.best.front();
  if (!best.fits) return fmt::format("closest to fitting: {} too much on the fullest rank", gigabytes(std::max<int64_t>(0, -best.memory.room_bytes)));
  std::string out = q.request.objective == Objective::latency ? "shortest time for each token" : "most tokens a second";
  out += best.meets_limits ? fmt::format(" of {} plans that fit", found.fitting) : " of those closest to the limits, which no plan meets: " + best.missed;
  if (best.shape.ranks() * best.shape.replicas < q.gpus()) out += fmt::format("; {} GPUs stay idle and it still wins", q.gpus() - best.shape.ranks() * best.shape.replicas);
  return out;
}

std::string why_next(const Question& q, const Candidate& c, const Candidate& best) {
  if (!c.fits) return fmt::format("{} too much on the fullest rank", gigabytes(std::max<int64_t>(0, -c.memory.room_bytes)));
  if (best.meets_limits && !c.meets_limits) return "misses a limit: " + c.missed;
  if (q.request.objective == Objective::latency) return fmt::format("{:.2f}× the best's time for each token", c.predicted.tpot_ms.value / best.predicted.tpot_ms.value);
  return fmt::format("{:.0f} % of the best's tokens a second", 100 * c.predicted.tokens_per_s.value / std::max(best.predicted.tokens_per_s.value, 1e-9));
}

void judge_one(const Question& q, SolveAnswer& answer) {
  Given given = given_shape(q, *q.request.judge);
  answer.plans_considered = 1;
  if (given.refused) {
    answer.rejected.push_back({given.shape.spec(), given.refused->rule, given.refused->detail});
    answer.advice = advise(q, {});
    return;
  }
  answer.plans_legal = 1;
  Candidate c = weigh(q, given.shape);
  Found found;
  if (c.fits) {
    operate(q, c);
    answer.plans_fitting = 1;
    answer.feasible = true;
    found.best = {c};
  } else {
    found.best = found.misfits = {c};
    answer.rejected.push_back(too_big(q, c));
  }
  std::string why = !c.fits ? "does not fit: " + answer.rejected.back().detail : c.meets_limits ? "legal, and fits" : "legal, and fits, but misses a limit: " + c.missed;
  if (c.fits && c.shape.ranks() * c.shape.replicas < q.gpus()) why += fmt::format("; {} of {} GPUs stay idle", q.gpus() - c.shape.ranks() * c.shape.replicas, q.gpus());
  answer.plans.push_back(finish(q, c, std::move(why)));
  answer.advice = advise(q, found);
}

void search_all(const Question& q, SolveAnswer& answer) {
  const Found found = search_plans(q, q.request.top, true);
  answer.plans_considered = found.considered, answer.plans_legal = found.legal, answer.plans_fitting = found.fitting;
  answer.rejected = refused_shapes(q, q.gpus());
  if (answer.rejected.size() > kMostRefused) answer.rejected.resize(kMostRefused);
  list_too_big(q, found, answer.rejected);
  if (found.fitting > 0) list_dominated(q, found, answer.rejected);
  for (size_t i = 0; i < found.best.size(); ++i)
    answer.plans.push_back(finish(q, found.best[i], i == 0 ? why_best(q, found) : why_next(q, found.best[i], found.best.front())));
  for (const Candidate& c : found.pareto) answer.pareto.push_back(finish(q, c, ""));
  answer.feasible = found.fitting > 0;
  if (q.request.split_roles && answer.feasible) answer.roles = split_roles(q, found);
  answer.advice = advise(q, found);
}

}  // namespace

PlanAnswer finish(const Question& q, const Candidate& c, std::string why) {
  PlanAnswer out;
  const Shape& s = c.shape;
  Plan& plan = out.plan;
  plan.world_size = static_cast<int>(s.ranks() * s.replicas);
  plan.tp = static_cast<int>(s.tp), plan.pp = static_cast<int>(s.pp), plan.dp = static_cast<int>(s.dp), plan.ep = static_cast<int>(s.ep);
  plan.moe_tp = static_cast<int>(s.moe_tp()), plan.replicas = static_cast<int>(s.replicas);
  // A pipeline keeps as many batches in flight as it has stages, however few users the prediction is for.
  const bool given = q.request.judge && q.request.judge->micro_batches > 0;
  plan.micro_batches = given ? q.request.judge->micro_batches : std::max(s.micro_batches, static_cast<int>(s.pp));
  plan.stage_begin = {0};
  for (size_t i = 0; i < s.stage_layers.size(); ++i) {
    out.stages.push_back({plan.stage_begin.back(), s.stage_layers[i], i < c.memory.weights_bytes_by_stage.size() ? c.memory.weights_bytes_by_stage[i] : 0});
    plan.stage_begin.push_back(plan.stage_begin.back() + s.stage_layers[i]);
  }
  plan.config = q.config;
  // World ranks are started node by node on the GPUs in use: a rank's number is its GPU's place among them.
  const std::vector<int> map = map_ranks(q.fleet, s);
  std::vector<int> used = map;
  std::sort(used.begin(), used.end());
  for (const int gpu : map) {
    plan.world_rank.push_back(static_cast<int>(std::lower_bound(used.begin(), used.end(), gpu) - used.begin()));
    const FleetGpu& at = q.fleet.gpus[static_cast<size_t>(gpu)];
    const auto node = static_cast<size_t>(at.node);
    out.rank_map.push_back((node < q.fleet.node_names.size() ? q.fleet.node_names[node] : "node" + std::to_string(at.node)) + "/" + at.label);
  }
  out.memory = c.memory;
  out.predicted = c.predicted;
  out.feasible = c.fits;
  out.meets_limits = c.fits && c.meets_limits;
  out.why = std::move(why);
  return out;
}

SolveAnswer solve(const ModelConfig& config, const Fleet& fleet, const SolveRequest& request) {
  check_request(config, fleet, request);
  SolveAnswer answer;
  answer.fleet = fleet;
  answer.request = settled(config, fleet, request);
  const Question q = question_of(config, answer.fleet, answer.request);
  if (auto refused = refused_outright(q)) {
    answer.rejected.push_back(std::move(*refused));
    answer.advice = advise(q, {});
  } else if (request.judge) {
    judge_one(q, answer);
  } else {
    search_all(q, answer);
  }
  return answer;
}

}  // namespace dsinfer
