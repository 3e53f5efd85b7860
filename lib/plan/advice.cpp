/// The least change that would make a question feasible; where it is feasible, what it leaves unused.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "plan/search.hpp"

namespace dsinfer {
namespace {

constexpr double kMostUtilization = 0.95;
constexpr int64_t kFewRequests = 8;      // a team's own service; below some 8 to 16 requests at a time cutting tensors beats spreading requests
constexpr int64_t kMostGpusForFew = 256;  // who has more has many users, and the search takes as long again
constexpr int kMostNodesTried = 64;   // a plan that needs more needs another GPU

/// The same question after one change; what best runs then.
class Changed {
 public:
  Changed(const Question& q, SolveRequest request) : Changed(q, q.fleet, std::move(request)) {}
  Changed(const Question& q, Fleet fleet, SolveRequest request) : fleet_(std::move(fleet)), request_(std::move(request)) {
    request_.judge.reset();
    request_ = settled(q.config, fleet_, std::move(request_));
    question_.emplace(question_of(q.config, fleet_, request_));
  }
  Changed(const Changed&) = delete;
  Changed& operator=(const Changed&) = delete;
  const Question& question() const { return *question_; }
  bool fits() const { return anything_fits(*question_); }
  std::optional<Candidate> best() const {
    if (refused_outright(*question_)) return std::nullopt;
    Found found = search_plans(*question_, 1, false);
    if (found.best.empty() || !found.best.front().fits) return std::nullopt;
    return std::move(found.best.front());
  }

 private:
  Fleet fleet_;
  SolveRequest request_;
  std::optional<Question> question_;
};

std::string holds(const Candidate& c) {
  return fmt::format("{} of weights on the fullest GPU, {} tokens on each DP rank", gigabytes(c.memory.weights_bytes_max), short_count(static_cast<double>(c.memory.kv_tokens_per_dp_rank)));
}

void add(std::vector<Advice>& out, const char* change, const std::string& what, const Candidate& c) {
  out.push_back({change, fmt::format("{}: {} fits ({})", what, c.shape.spec(), holds(c)), c.shape.spec()});
}

// Lighter forms of the weights, the smallest step first.
std::vector<Precision> lighter(const Question& q) {
  const bool units = q.fleet.gpu.fp8_units;
  switch (q.precisions.weights) {
    case Precision::bf16: return units ? std::vector{Precision::fp8, Precision::int4} : std::vector{Precision::fp8_bf16, Precision::int4};
    case Precision::fp8: return units ? std::vector{Precision::int4} : std::vector{Precision::fp8_bf16, Precision::bf16, Precision::int4};
    case Precision::fp8_bf16: return {Precision::int4};
    case Precision::int4: return {};
  }
  return {};
}

void try_precision(const Question& q, std::vector<Advice>& out) {
  for (const Precision precision : lighter(q)) {
    SolveRequest request = q.request;
    request.precision = precision;
    const Changed changed(q, request);
    if (const auto best = changed.best()) add(out, "precision", fmt::format("with {} weights", precision_name(precision)), *best);
  }
}

void try_cache(const Question& q, std::vector<Advice>& out) {
  if (q.precisions.cache != CachePrecision::bf16) return;
  SolveRequest request = q.request;
  request.cache = CachePrecision::fp8;
  if (const auto best = Changed(q, request).best()) add(out, "cache", "with the cache in FP8", *best);
}

void try_nodes(const Question& q, std::vector<Advice>& out) {
  if (refused_outright(q)) return;
  const auto fits = [&](int nodes) { return Changed(q, nodes_of(q.fleet, 0, nodes), q.request).fits(); };
  int low = q.fleet.nodes, high = low;  // low does not fit
  do high = std::min(2 * high, kMostNodesTried);
  while (high < kMostNodesTried && !fits(high) && (low = high, true));
  if (high <= low || !fits(high)) return;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (fits(middle) ? high : low) = middle;
  }
  const Changed changed(q, nodes_of(q.fleet, 0, high), q.request);
  if (const auto best = changed.best()) add(out, "nodes", fmt::format("with {} nodes in place of {}", high, q.fleet.nodes), *best);
}

void try_max_len(const Question& q, const std::string& besides, const SolveRequest& base, std::vector<Advice>& out) {
  SolveRequest request = base;
  request.max_len = 1;
  const Changed changed(q, request);
  if (refused_outright(changed.question())) return;
  const Question& open = changed.question();
  std::optional<Candidate> longest;
  for (Shape& shape : legal_units(open, open.gpus())) {
    shape.replicas = open.gpus() / shape.ranks();
    Candidate c = weigh(open, std::move(shape));
    if (c.fits && (!longest || c.memory.kv_tokens_per_dp_rank > longest->memory.kv_tokens_per_dp_rank)) longest = std::move(c);
  }
  if (!longest || longest->memory.kv_tokens_per_dp_rank < 256) return;  // no conversation
  add(out, "max_len", fmt::format("{}with max_len of at most {} in place of {}", besides, longest->memory.kv_tokens_per_dp_rank, q.request.max_len), *longest);
}

void try_utilization(const Question& q, std::vector<Advice>& out) {
  const auto with = [&](double utilization) {
    SolveRequest request = q.request;
    request.utilization = utilization;
    return request;
  };
  const double now = q.request.utilization;
  if (now > kMostUtilization) {  // refused for this alone
    if (const auto best = Changed(q, with(kMostUtilization)).best()) add(out, "utilization", "with utilization 0.95", *best);
    return;
  }
  if (now == kMostUtilization) return;
  if (!Changed(q, with(kMostUtilization)).fits()) {
    try_max_len(q, "with utilization 0.95, and ", with(kMostUtilization), out);
    return;
  }
  int low = static_cast<int>(std::floor(now * 100)), high = 95;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (Changed(q, with(middle / 100.0)).fits() ? high : low) = middle;
  }
  if (const auto best = Changed(q, with(high / 100.0)).best()) add(out, "utilization", fmt::format("with utilization {:.2f} in place of {}", high / 100.0, now), *best);
}

std::vector<Advice> make_feasible(const Question& q) {
  std::vector<Advice> out;
  if (q.request.judge) {
    if (const auto best = Changed(q, q.request).best()) add(out, "plan", "another plan on the same machines", *best);
  }
  const bool judged_alone = !out.empty();
  try_precision(q, out);
  if (!judged_alone && !refused_outright(q)) try_cache(q, out);
  if (!judged_alone) try_nodes(q, out), try_utilization(q, out);
  if (!judged_alone && !refused_outright(q)) try_max_len(q, "", q.request, out);
  return out;
}

// Fewer nodes hold it too, where that is so.
void remark_nodes(const Question& q, std::vector<Advice>& out) {
  if (q.fleet.nodes == 1 || q.fleet.nodes > kMostNodesTried) return;
  const auto fits = [&](int nodes) { return Changed(q, nodes_of(q.fleet, 0, nodes), q.request).fits(); };
  int low = 0, high = q.fleet.nodes;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (fits(middle) ? high : low) = middle;
  }
  if (high < q.fleet.nodes) out.push_back({"nodes", fmt::format("the model fits on {} of the {} nodes already; the others add throughput, not possibility", high, q.fleet.nodes), ""});
}

void remark_lengths(const Question& q, const Candidate& best, std::vector<Advice>& out) {
  const int64_t held = best.memory.kv_tokens_per_dp_rank, context = q.config.max_position_embeddings;
  const int64_t possible = context > 0 ? std::min(held, context) : held;
  if (q.request.max_len <= possible / 4)
    out.push_back({"max_len", fmt::format("max_len {} is far below what memory allows: {} tokens on each DP rank; up to {} would do", q.request.max_len, short_count(static_cast<double>(held)), possible), ""});
  if (q.sequence_len > q.request.max_len)
    out.push_back({"max_len", fmt::format("requests of input_len + output_len = {} tokens are longer than max_len {}", q.sequence_len, q.request.max_len), ""});
  if (context > 0 && q.request.max_len > context)
    out.push_back({"max_len", fmt::format("max_len {} is more than the model was made for (max_position_embeddings {})", q.request.max_len, context), ""});
}

void remark_limits(const Question& q, const Candidate& best, std::vector<Advice>& out) {
  if (best.meets_limits) return;
  out.push_back({"limits", fmt::format("{} meets the limits; the closest misses by {:.2f}×: {}", q.request.judge ? "the plan does not" : "no plan", best.excess, best.missed), ""});
  const Workload& load = q.request.workload;
  if (load.rate > 0 && best.predicted.requests_per_s > 0 && best.predicted.requests_per_s < load.rate)
    out.push_back({"nodes", fmt::format("{:.2f} requests/s need about {:.0f} nodes of this kind", load.rate, std::ceil(q.fleet.nodes * load.rate / best.predicted.requests_per_s)), ""});
}

// A judged plan beside the best for the same question.
void remark_plan(const Question& q, const Candidate& judged, std::vector<Advice>& out) {
  if (!q.request.judge) return;
  const Changed changed(q, q.request);
  const auto best = changed.best();
  if (!best || !better(changed.question(), *best, judged) || best->shape.spec() == judged.shape.spec()) return;
  if (q.request.objective == Objective::latency)
    out.push_back({"plan", fmt::format("{} needs {:.1f} ms for a token, this plan {:.1f} ms", best->shape.spec(), best->predicted.tpot_ms.value, judged.predicted.tpot_ms.value), best->shape.spec()});
  else
    out.push_back({"plan", fmt::format("{} delivers {} tokens/s, this plan {}", best->shape.spec(), short_count(best->predicted.tokens_per_s.value), short_count(judged.predicted.tokens_per_s.value)), best->shape.spec()});
}

// Where no load was named, the plan is the one for many users; a house with few is served better by another.
void remark_few(const Question& q, const Candidate& best, std::vector<Advice>& out) {
  const SolveRequest& r = q.request;
  const bool named = r.workload.concurrency > 0 || r.workload.rate > 0 || r.ttft_ms || r.tpot_ms || r.objective == Objective::latency || r.judge;
  if (named || q.gpus() > kMostGpusForFew || best.predicted.concurrency <= kFewRequests) return;
  SolveRequest request = r;
  request.workload.concurrency = kFewRequests;
  const auto few = Changed(q, request).best();
  if (!few || few->shape.spec() == best.shape.spec()) return;
  out.push_back({"concurrency", fmt::format("this is for as many requests at a time as fit ({}); for {} at a time {} is best: {:.1f} ms a token, {} tokens/s", best.predicted.concurrency, kFewRequests,
                                            few->shape.spec(), few->predicted.tpot_ms.value, short_count(few->predicted.tokens_per_s.value)), few->shape.spec()});
}

void remark_precision(const Question& q, std::vector<Advice>& out) {
  if (q.precisions.weights != Precision::bf16 || !q.config.fp8 || q.precisions.host) return;
  out.push_back({"precision", fmt::format("the checkpoint is FP8: {} holds it in half the bytes", q.fleet.gpu.fp8_units ? "fp8" : "fp8_bf16 (FP8 in memory, BF16 arithmetic)"), ""});
}

}  // namespace

std::vector<Advice> advise(const Question& q, const Found& found) {
  const bool feasible = !found.best.empty() && found.best.front().fits;
  if (!feasible) return make_feasible(q);
  std::vector<Advice> out;
  const Candidate& best = found.best.front();
  remark_plan(q, best, out);
  remark_limits(q, best, out);
  remark_few(q, best, out);
  remark_nodes(q, out);
  remark_lengths(q, best, out);
  remark_precision(q, out);
  return out;
}

}  // namespace dsinfer
