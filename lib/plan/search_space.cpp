/// Which degrees there are.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "plan/search.hpp"

namespace dsinfer {
namespace {

// Above this, pipelines are tried only at depths that shorten the longest stage or that divide machines evenly.
constexpr int64_t kEveryDepthUpTo = 128;

std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> out;
  for (int64_t d = 1; d <= n / d; ++d) {
    if (n % d) continue;
    out.push_back(d);
    if (d != n / d) out.push_back(n / d);
  }
  std::sort(out.begin(), out.end());
  return out;
}

// ⌈layers / pp⌉ is the longest stage: of the depths that share it, the least uses the fewest GPUs for the same pace.
std::vector<int64_t> depths(int64_t layers, int64_t most_ranks) {
  std::vector<int64_t> out;
  for (int64_t pp = 1; pp <= std::min(layers, most_ranks); ++pp) {
    const bool shortens = pp == 1 || (layers + pp - 1) / pp < (layers + pp - 2) / (pp - 1);
    if (most_ranks <= kEveryDepthUpTo || shortens || (pp & (pp - 1)) == 0) out.push_back(pp);
  }
  return out;
}

}  // namespace

std::vector<Shape> legal_units(const Question& q, int64_t most_ranks, int64_t exact_ranks) {
  const ModelConfig& config = q.config;
  const bool experts = config.n_routed_experts > 0;
  const auto eps = experts ? divisors(config.n_routed_experts + q.request.redundant_experts) : std::vector<int64_t>{1};
  const auto moe_tps = experts ? divisors(config.moe_intermediate_size) : std::vector<int64_t>{};
  const auto tps = divisors(config.num_attention_heads), pps = depths(config.num_hidden_layers, exact_ranks ? exact_ranks : most_ranks);
  std::set<std::pair<int64_t, int64_t>> spreads;  // (ranks of a stage, ep)
  for (const int64_t ep : eps) {
    if (experts) for (const int64_t moe_tp : moe_tps) if (ep <= most_ranks / moe_tp) spreads.emplace(ep * moe_tp, ep);
    if (!experts) for (const int64_t tp : tps) for (int64_t dp = 1; dp <= most_ranks / tp; dp *= 2) spreads.emplace(tp * dp, 1);
  }
  std::vector<Shape> out;
  for (const auto& [ranks, ep] : spreads) {
    for (const int64_t tp : tps) {
      if (ranks % tp) continue;
      Shape shape;
      shape.tp = tp, shape.dp = ranks / tp, shape.ep = ep;
      shape.redundant_experts = q.request.redundant_experts;
      shape.prediction_layer = q.request.prediction_layer;
      if (refuse(config, q.precisions, shape)) continue;  // no rule ties the depth to another degree
      for (const int64_t pp : pps) {
        shape.pp = pp;
        if (exact_ranks ? shape.ranks() == exact_ranks : shape.ranks() <= most_ranks) out.push_back(shape);
      }
    }
  }
  return out;
}

std::vector<RejectedPlan> refused_shapes(const Question& q, int64_t ranks) {
  struct Group { RejectedPlan first; int64_t count = 0; };
  std::vector<Group> groups;
  std::map<std::pair<std::string, std::string>, size_t> known;
  // All factors of a small world; of a large one those that are powers of two, and few deep pipelines.
  std::vector<int64_t> factors = divisors(ranks);
  if (factors.size() > 16) std::erase_if(factors, [](int64_t f) { return (f & (f - 1)) != 0; });
  for (const int64_t pp : factors) {
    for (const int64_t tp : factors) {
      if (pp > ranks / tp || ranks % (tp * pp)) continue;
      const int64_t dp = ranks / tp / pp;
      for (const int64_t ep : std::set<int64_t, std::greater<>>{tp * dp, 1}) {
        Shape shape;
        shape.tp = tp, shape.pp = pp, shape.dp = dp, shape.ep = ep;
        shape.redundant_experts = q.request.redundant_experts;
        shape.prediction_layer = q.request.prediction_layer;
        const auto refused = refuse(q.config, q.precisions, shape);
        if (!refused) continue;
        const auto [at, fresh] = known.emplace(std::pair{refused->rule, refused->detail}, groups.size());
        if (fresh) groups.push_back({{shape.spec(), refused->rule, refused->detail}, 0});
        ++groups[at->second].count;
      }
    }
  }
  std::vector<RejectedPlan> out;
  for (Group& group : groups) {
    if (group.count > 1) group.first.detail += fmt::format(" ({} plans of {} GPUs break this)", group.count, ranks);
    out.push_back(std::move(group.first));
  }
  return out;
}

}  // namespace dsinfer
