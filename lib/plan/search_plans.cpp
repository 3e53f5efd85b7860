/// From legal shapes to the best few: weigh all, drop what does not fit, time what can still win.
#include <algorithm>
#include <memory>
#include <numeric>
#include <set>
#include <tuple>

#include "plan/operating.hpp"

namespace dsinfer {
namespace {

constexpr size_t kMisfitsKept = 256;
constexpr size_t kParetoBatches = 20;  // by powers of two

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// The first guess of what is neither weights nor cache, for the tie between equally light cuts; then the plan's own sum takes its place.
constexpr int64_t kGuessedOverhead = int64_t{4} * 1000 * 1000 * 1000;

Shape cut_for(const Question& q, Shape shape, const LayerBytes& bytes, const MemoryTable* known) {
  const int64_t budget = static_cast<int64_t>(q.request.utilization * static_cast<double>(q.fleet.gpu.memory_bytes));
  const int64_t overhead = q.request.overhead_bytes ? static_cast<int64_t>(*q.request.overhead_bytes) : known ? known->overhead_bytes : kGuessedOverhead;
  shape.stage_layers = best_cut(q.config, bytes, shape, budget, overhead, cache_bytes_per_token_layer(q.config, q.precisions));
  return shape;
}

bool holds_a_sequence(const Question& q, const MemoryTable& memory) { return memory.room_bytes >= 0 && memory.kv_tokens_per_dp_rank >= q.request.max_len; }

Candidate weighed(const Question& q, Shape shape, const LayerBytes& bytes) {
  Candidate c;
  c.memory = memory_table(q.config, q.precisions, shape, bytes, q.fleet, q.request);
  c.fits = holds_a_sequence(q, c.memory);
  c.shape = std::move(shape);
  return c;
}

struct Bounded {
  Bounded(const Question& q, Candidate c, std::shared_ptr<const LayerBytes> layers) : candidate(std::move(c)), bytes(std::move(layers)), operation(q, candidate), bound(operation.most_tokens_per_s(candidate)) {}
  Candidate candidate;
  std::shared_ptr<const LayerBytes> bytes;
  Operation operation;
  double gain = 1;    ///< by which a faster cut could raise it
  double bound;       ///< tokens a second at most: a replica's rate grows with its batch, so it is the rate at the largest that fits
};

// What a pipeline could gain if its layers were cut to equal times; a little more, for prefill and decode weigh layers differently.
double gain_of_faster_cut(const Question& q, const Candidate& c, int64_t batch) {
  if (c.shape.pp == 1) return 1;
  OperatingPoint at;
  at.batch = batch, at.context = q.sequence_len;
  const std::vector<double> seconds = layer_seconds(q.config, q.precisions, c.shape, q.fleet, at);
  double slowest = 0, all = 0;
  size_t layer = 0;
  for (const int64_t layers : c.shape.stage_layers) {
    double stage = 0;
    for (int64_t i = 0; i < layers && layer < seconds.size(); ++i) stage += seconds[layer++];
    slowest = std::max(slowest, stage), all += stage;
  }
  return all > 0 ? 1.1 * slowest * static_cast<double>(c.shape.pp) / all : 1;
}

// The user's speed alone on the machine: no batch is faster.
double fastest_user(const Bounded& b) {
  Candidate c = b.candidate;
  b.operation.operate_at(c, 1);
  return 1e3 / c.predicted.tpot_ms.value;
}

// The points of a plan on the way from one user to many.
void add_points(const Question& q, const Bounded& b, std::vector<Candidate>& points) {
  const int64_t most = most_batch(q, b.candidate);
  for (size_t i = 0; i < kParetoBatches; ++i) {
    const int64_t batch = std::min(int64_t{1} << i, most);
    Candidate point = b.candidate;
    b.operation.operate_at(point, batch);
    points.push_back(std::move(point));
    if (batch == most) return;
  }
}

// Points of the lightest cuts, and those that were chosen.
std::vector<Candidate> front_of(const Question& q, const std::vector<const Bounded*>& order, std::vector<Candidate> points, bool prune) {
  for (const Bounded* plan : order) {
    const Bounded& b = *plan;
    if (prune) {
      const double user = fastest_user(b);
      const bool hopeless = std::any_of(points.begin(), points.end(), [&](const Candidate& p) {
        return p.predicted.tokens_per_s.value > b.bound && 1e3 / p.predicted.tpot_ms.value > user;
      });
      if (hopeless) continue;
    }
    add_points(q, b, points);
    if (points.size() > 512) points = pareto_front(q, points);
  }
  points = pareto_front(q, points);
  thin(points);
  return points;
}

void keep_misfit(std::vector<Candidate>& misfits, Candidate c) {
  const auto lighter = [](const Candidate& a, const Candidate& b) { return a.memory.room_bytes > b.memory.room_bytes; };
  misfits.insert(std::upper_bound(misfits.begin(), misfits.end(), c, lighter), std::move(c));
  if (misfits.size() > kMisfitsKept) misfits.pop_back();
}

}  // namespace

int64_t expert_nodes(const Fleet& fleet, const Shape& shape) { return ceil_div(shape.tp * shape.dp, fleet.gpus_per_node); }

std::shared_ptr<const LayerBytes> LayerBytesOf::operator()(const Shape& shape) {
  if (!bytes_ || shape.tp != tp_ || shape.dp != dp_ || shape.ep != ep_) {
    bytes_ = std::make_shared<const LayerBytes>(layer_bytes(q_.config, q_.precisions, shape));
    tp_ = shape.tp, dp_ = shape.dp, ep_ = shape.ep;
  }
  return bytes_;
}

Candidate weigh(const Question& q, Shape shape, const LayerBytes& bytes) {
  if (!shape.stage_layers.empty()) return weighed(q, std::move(shape), bytes);  // the caller's own cut
  if (shape.pp == 1) {
    shape.stage_layers = {q.config.num_hidden_layers};
    return weighed(q, std::move(shape), bytes);
  }
  Candidate first = weighed(q, cut_for(q, shape, bytes, nullptr), bytes);
  if (q.request.overhead_bytes) return first;  // nothing was guessed
  Shape again = cut_for(q, first.shape, bytes, &first.memory);
  return again.stage_layers == first.shape.stage_layers ? first : weighed(q, std::move(again), bytes);
}

Candidate weigh(const Question& q, Shape shape) {
  const LayerBytes bytes = layer_bytes(q.config, q.precisions, shape);
  return weigh(q, std::move(shape), bytes);
}

std::optional<Candidate> weigh_fastest(const Question& q, const Candidate& lightest, const LayerBytes& bytes) {
  if (lightest.shape.pp == 1) return std::nullopt;
  OperatingPoint at;
  at.batch = std::min<int64_t>(most_batch(q, lightest), 64), at.context = q.sequence_len;
  Shape shape = lightest.shape;
  shape.stage_layers = fastest_cut(q.config, bytes, shape, lightest.memory.weights_bytes_max, layer_seconds(q.config, q.precisions, shape, q.fleet, at));
  if (shape.stage_layers.empty() || shape.stage_layers == lightest.shape.stage_layers) return std::nullopt;
  Candidate c = weighed(q, std::move(shape), bytes);
  return c.fits ? std::optional(std::move(c)) : std::nullopt;
}

bool better(const Question& q, const Candidate& a, const Candidate& b) {
  if (a.fits != b.fits) return a.fits;
  if (!a.fits) return a.memory.room_bytes > b.memory.room_bytes;
  if (a.meets_limits != b.meets_limits) return a.meets_limits;
  if (!a.meets_limits && a.excess != b.excess) return a.excess < b.excess;  // the closest first
  if (q.request.objective == Objective::latency) {
    if (a.predicted.tpot_ms.value != b.predicted.tpot_ms.value) return a.predicted.tpot_ms.value < b.predicted.tpot_ms.value;
    if (a.predicted.ttft_ms.value != b.predicted.ttft_ms.value) return a.predicted.ttft_ms.value < b.predicted.ttft_ms.value;
  }
  if (a.predicted.tokens_per_s.value != b.predicted.tokens_per_s.value) return a.predicted.tokens_per_s.value > b.predicted.tokens_per_s.value;
  const auto order = [&](const Candidate& c) {
    return std::tuple(expert_nodes(q.fleet, c.shape), c.shape.tp, c.shape.pp, c.shape.dp, c.shape.ep, c.shape.stage_layers);
  };
  return order(a) < order(b);
}

namespace {

// Times plans in the order of their bounds; those that cannot come among the best any more are only noted.
std::vector<Candidate> time_all(const Question& q, const std::vector<const Bounded*>& order, size_t enough, std::vector<Candidate>& hopeless) {
  std::vector<Candidate> timed;
  std::multiset<double, std::greater<>> met;  // rates of those within the limits
  for (const Bounded* b : order) {
    Candidate c = b->candidate;
    if (met.size() >= enough && b->bound * b->gain < *std::next(met.begin(), static_cast<std::ptrdiff_t>(enough) - 1)) {
      c.predicted.tokens_per_s.value = b->bound * b->gain;
      hopeless.push_back(std::move(c));
      continue;
    }
    std::optional<Candidate> fast = weigh_fastest(q, c, *b->bytes);
    b->operation.operate(c);
    if (fast) {
      operate(q, *fast);
      if (better(q, *fast, c)) c = std::move(*fast);
    }
    if (c.meets_limits) met.insert(c.predicted.tokens_per_s.value);
    timed.push_back(std::move(c));
  }
  return timed;
}

// The best to the front. If nothing fits: of one tp, pp, dp the lightest stands for the others.
void settle(const Question& q, std::vector<Candidate> timed, int64_t keep, Found& found) {
  std::stable_sort(timed.begin(), timed.end(), [&](const Candidate& a, const Candidate& b) { return better(q, a, b); });
  const auto kept = std::min<std::ptrdiff_t>(keep, std::ssize(timed));
  found.best.assign(timed.begin(), timed.begin() + kept);
  found.dominated.insert(found.dominated.begin(), timed.begin() + kept, timed.end());
  if (!found.best.empty()) return;
  std::set<std::tuple<int64_t, int64_t, int64_t>> spread;
  for (const Candidate& c : found.misfits)
    if (std::ssize(found.best) < keep && spread.insert({c.shape.tp, c.shape.pp, c.shape.dp}).second) found.best.push_back(c);
}

}  // namespace

Found search_plans(const Question& q, int64_t keep, bool front, bool prune) {
  Found found;
  std::vector<std::unique_ptr<Bounded>> all;
  LayerBytesOf bytes_of(q);
  for (Shape& shape : legal_units(q, q.gpus())) {
    shape.replicas = q.gpus() / shape.ranks();
    ++found.legal;
    std::shared_ptr<const LayerBytes> bytes = bytes_of(shape);
    Candidate light = weigh(q, std::move(shape), *bytes);
    if (!light.fits) {
      keep_misfit(found.misfits, std::move(light));
      continue;
    }
    ++found.fitting;
    all.push_back(std::make_unique<Bounded>(q, std::move(light), std::move(bytes)));
    Bounded& b = *all.back();
    b.gain = std::max(1.0, gain_of_faster_cut(q, b.candidate, most_batch(q, b.candidate)));
  }
  found.considered = found.legal;
  std::vector<const Bounded*> order;
  for (const auto& b : all) order.push_back(b.get());
  std::stable_sort(order.begin(), order.end(), [](const Bounded* a, const Bounded* b) { return a->bound * a->gain > b->bound * b->gain; });
  const bool bounded = prune && q.request.objective == Objective::throughput;
  settle(q, time_all(q, order, bounded ? static_cast<size_t>(keep) : order.size() + 1, found.dominated), keep, found);
  if (front) found.pareto = front_of(q, order, found.fitting > 0 ? found.best : std::vector<Candidate>(), prune);
  return found;
}

bool anything_fits(const Question& q) {
  if (refused_outright(q)) return false;
  std::vector<Shape> units = legal_units(q, q.gpus());
  // The lightest plans spread over all ranks.
  std::stable_sort(units.begin(), units.end(), [](const Shape& a, const Shape& b) { return a.ranks() > b.ranks(); });
  LayerBytesOf bytes_of(q);
  const double budget = q.request.utilization * static_cast<double>(q.fleet.gpu.memory_bytes);
  for (Shape& shape : units) {
    shape.replicas = q.gpus() / shape.ranks();
    const std::shared_ptr<const LayerBytes> bytes = bytes_of(shape);
    const double whole = std::accumulate(bytes->layer.begin(), bytes->layer.end(), static_cast<double>(bytes->embedding + bytes->head));
    if (whole > budget * static_cast<double>(shape.pp)) continue;  // some stage is heavier than the budget, wherever it is cut
    if (weigh(q, std::move(shape), *bytes).fits) return true;
  }
  return false;
}

}  // namespace dsinfer
