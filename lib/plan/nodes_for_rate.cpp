/// How many nodes a load needs.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "dsinfer/error.hpp"
#include "plan/search.hpp"

namespace dsinfer {
namespace {

constexpr int kMostGpus = 1 << 17;

struct Unit {
  Candidate candidate;
  int64_t nodes_at_least = 0;
};

// Nodes that `rate` needs when each replica of `ranks` GPUs serves `each`; more than `most` comes back as most + 1.
int64_t nodes_needed(double rate, double each, int64_t ranks, int64_t per_node, int64_t most) {
  const double gpus = std::ceil(rate / std::max(each, 1e-12) - 1e-9) * static_cast<double>(ranks);
  return gpus > static_cast<double>(most * per_node) ? most + 1 : (std::max(static_cast<int64_t>(gpus), ranks) + per_node - 1) / per_node;
}

// Replicas multiply a unit's rate, so the unit that needs fewest nodes is found without growing any fleet.
int64_t fewest_nodes(const Question& q, double rate, int64_t most) {
  const int64_t per_node = q.fleet.gpus_per_node;
  std::vector<Unit> units;
  for (Shape& shape : legal_units(q, q.gpus())) {
    Candidate c = weigh(q, std::move(shape));
    if (!c.fits) continue;
    const double bound = most_tokens_per_s(q, c) / static_cast<double>(q.request.workload.output_len);
    const int64_t nodes = nodes_needed(rate, bound, c.shape.ranks(), per_node, most);
    if (nodes <= most) units.push_back({std::move(c), nodes});
  }
  std::stable_sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.nodes_at_least < b.nodes_at_least; });
  int64_t fewest = most + 1;
  for (Unit& unit : units) {
    if (unit.nodes_at_least >= fewest) break;
    operate(q, unit.candidate);
    if (!unit.candidate.meets_limits) continue;
    fewest = std::min(fewest, nodes_needed(rate, unit.candidate.predicted.requests_per_s, unit.candidate.shape.ranks(), per_node, most));
  }
  return fewest;
}

}  // namespace

SolveAnswer nodes_for_rate(const ModelConfig& config, const Fleet& one_node, const SolveRequest& given, int max_nodes) {
  SolveRequest request = given;
  if (!(request.workload.rate > 0)) throw Error(Error::invalid_argument, fmt::format("rate is {}, expected more than 0 requests a second", request.workload.rate));
  if (max_nodes < 1 || int64_t{max_nodes} * std::max(one_node.gpus_per_node, 1) > kMostGpus)
    throw Error(Error::invalid_argument, fmt::format("max_nodes is {}, expected 1 … {}", max_nodes, kMostGpus / std::max(one_node.gpus_per_node, 1)));
  check_request(config, one_node, request);
  request.judge.reset();
  request.workload.concurrency = 0;  // follows from the rate
  const double rate = request.workload.rate;

  // A replica alone need not serve all of the rate; limits on its times hold.
  const Fleet grown = nodes_of(one_node, 0, max_nodes);
  SolveRequest alone = request;
  alone.workload.rate = 0, alone.objective = Objective::throughput;
  alone = settled(config, grown, std::move(alone));
  const Question q = question_of(config, grown, alone);
  const int64_t nodes = refused_outright(q) ? int64_t{max_nodes} + 1 : fewest_nodes(q, rate, max_nodes);
  const bool enough = nodes <= max_nodes;
  SolveAnswer answer = solve(config, nodes_of(one_node, 0, static_cast<int>(std::min<int64_t>(nodes, max_nodes))), request);
  answer.advice.insert(answer.advice.begin(),
                       {"nodes", enough ? fmt::format("{} nodes sustain {:.2f} requests/s, the fewest that do", nodes, rate)
                                        : fmt::format("{} nodes do not sustain {:.2f} requests/s within the limits", max_nodes, rate),
                        answer.plans.empty() ? "" : answer.plans.front().plan.spec()});
  return answer;
}

}  // namespace dsinfer
