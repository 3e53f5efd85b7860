/// The operating point of a plan: how many sequences decode together and how long a prefill chunk is, within memory, load and limits.
///
/// Prefill and decode share the GPUs. A replica with B requests in flight serves each in one cycle: its output tokens, a decode step each,
/// and the prompts of all B, one after the other at the prefill rate R. Hence, with step time T and prompt I, output O:
///   cycle = O·T + B·I/R,  requests/s = B / cycle,  TPOT = T + (B-1)·I/(R·O)
/// A request alone waits for nobody. TTFT adds the queue before the prefill server (M/D/1, Pollaczek and Khinchine) and the steps between chunks.
#include "plan/operating.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "plan/memory.hpp"

namespace dsinfer {
namespace {

// Experts cut across as well as spread (or cut over ranks with attention of their own): one exchange after another, each as slow as its slowest rank.
// Nobody has published a measurement; by judgement such a plan has to be 3 % faster to be chosen.
constexpr double kMixedExperts = 1.03;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

StepTime with_mixed_experts(StepTime step, const Shape& shape) {
  if (shape.moe_tp() == 1 || (shape.dp == 1 && shape.ep == 1)) return step;
  step.parts_ms["other"] += step.total_ms * (kMixedExperts - 1);
  step.total_ms *= kMixedExperts, step.interval_ms *= kMixedExperts;
  return step;
}

StepTime prefill_time(const Question& q, const Shape& shape, int64_t context, int64_t chunk) {
  OperatingPoint at;
  at.context = context, at.chunk = chunk;
  return with_mixed_experts(prefill_step(q.config, q.precisions, shape, q.fleet, at), shape);
}

StepTime decode_time(const Question& q, const Shape& shape, int64_t batch) {
  OperatingPoint at;
  at.batch = batch;
  at.context = q.request.workload.input_len + ceil_div(q.request.workload.output_len, 2);
  at.draft_tokens = std::max(1, static_cast<int>(std::ceil(q.request.draft_acceptance)));  // to accept so many, as many have to be drafted
  return with_mixed_experts(decode_step(q.config, q.precisions, shape, q.fleet, at), shape);
}

Prefill prefill_of(const Question& q, Shape shape, int64_t chunk) {
  Prefill p;
  shape.micro_batches = static_cast<int>(shape.pp);  // chunks follow each other through the stages
  p.chunk = chunk;
  p.steps = ceil_div(q.input_len, chunk);
  // A chunk of a longer prompt sees half of it on average: as if it ended at (prompt + chunk) / 2.
  const int64_t seen = q.request.workload.input_len;
  const int64_t context = seen > chunk ? (seen + chunk) / 2 : seen;
  p.step = prefill_time(q, shape, context, chunk);
  // Decode steps come between prompts, so a pipeline fills and drains with each: its chunks keep chunks / (chunks + pp - 1) of the pace.
  const double filled = static_cast<double>(p.steps) / static_cast<double>(p.steps + shape.pp - 1);
  p.tokens_per_s = filled * static_cast<double>(shape.dp * chunk) / (std::max(p.step.interval_ms, 1e-6) / 1e3);
  const StepTime first = chunk <= q.input_len ? p.step : prefill_time(q, shape, context, q.input_len);
  p.alone_ms = first.total_ms + static_cast<double>(p.steps - 1) * first.interval_ms;
  return p;
}

// A sequence's next step begins when all batches in flight have had theirs.
double round_ms(int micro_batches, const StepTime& step) { return std::max(step.total_ms, static_cast<double>(micro_batches) * step.interval_ms); }

void miss(Candidate& c, double ratio, std::string text) {
  if (!(ratio > 1)) return;
  c.meets_limits = false;
  if (ratio > c.excess) c.excess = ratio, c.missed = std::move(text);
}

// Better of two points of one plan.
bool beats(const Candidate& a, const Candidate& b) {
  if (a.meets_limits != b.meets_limits) return a.meets_limits;
  if (!a.meets_limits && a.excess != b.excess) return a.excess < b.excess;
  return a.predicted.tokens_per_s.value > b.predicted.tokens_per_s.value;
}

}  // namespace

// All up to 16, then eight in each octave.
std::vector<int64_t> batch_steps(int64_t most) {
  std::vector<int64_t> out;
  for (int64_t b = 1; b <= most; b += b < 16 ? 1 : int64_t{1} << (std::bit_width(static_cast<uint64_t>(b)) - 4)) out.push_back(b);
  return out;
}

int64_t most_batch(const Question& q, const Candidate& c) {
  const int64_t held = std::max<int64_t>(1, c.memory.kv_tokens_per_dp_rank / q.sequence_len);
  const int64_t load = q.request.workload.concurrency;
  const int64_t scheduled = c.shape.pp * step_limits(q.fleet, q.request, 0).max_sequences;  // what the buffers are counted for
  const int64_t asked = load > 0 ? ceil_div(load, c.shape.replicas * c.shape.dp) : scheduled;
  return std::min({held, asked, scheduled});
}

Operation::Operation(const Question& q, const Candidate& c) : q_(q), shape_(c.shape), most_batch_(most_batch(q, c)) {
  const int64_t longest = default_step_tokens(q.fleet);
  for (const int64_t chunk : {longest, longest / 2, longest / 4}) {
    if (chunk < 1) break;
    prefills_.push_back(prefill_of(q, shape_, chunk));
    if (chunk <= q.input_len / 64) break;  // smaller chunks only add steps
  }
}

const Operation::Decode& Operation::decode(int64_t batch) const {
  const auto [at, fresh] = decodes_.try_emplace(batch);
  Decode& d = at->second;
  if (!fresh) return d;
  const bool given = q_.request.judge && q_.request.judge->micro_batches > 0;
  Shape shape = shape_;
  shape.micro_batches = given ? q_.request.judge->micro_batches : static_cast<int>(std::clamp<int64_t>(batch, 1, shape.pp));
  d.micro_batches = shape.micro_batches;
  d.step = decode_time(q_, shape, batch);
  d.round_ms = round_ms(d.micro_batches, d.step);
  // Without a pipeline, two batches in turn hide the exchange of one behind the work of the other, at the price of smaller steps.
  if (!given && shape.pp == 1 && shape.dp > 1 && shape.ep > 1 && batch > 1) {
    shape.micro_batches = 2;
    StepTime overlapped = decode_time(q_, shape, batch);
    if (const double round = round_ms(2, overlapped); round < d.round_ms) d = {2, std::move(overlapped), round};
  }
  return d;
}

double Operation::decode_ms(int64_t batch) const { return decode(batch).round_ms / (1 + q_.request.draft_acceptance); }

void Operation::predict(Candidate& out, int64_t batch, const Prefill& prefill) const {
  const Workload& load = q_.request.workload;
  const Decode& d = decode(batch);
  const auto output = static_cast<double>(load.output_len), input = static_cast<double>(q_.input_len);
  const auto replicas = static_cast<double>(shape_.replicas);
  const double asked = load.concurrency > 0 ? static_cast<double>(load.concurrency) : 1e300;
  const double flight = std::min(static_cast<double>(shape_.dp * batch), std::max(1.0, asked / replicas));  // of a replica
  const double active = std::min(replicas, asked);                                                        // replicas with work
  const double token_ms = decode_ms(batch);
  const double prompt_ms = 1e3 * input / prefill.tokens_per_s;  // of the prefill server's time
  const double cycle_ms = output * token_ms + std::max(flight * prompt_ms, prefill.alone_ms);
  const double requests_per_ms = flight / cycle_ms;
  const double busy = std::min(requests_per_ms * prompt_ms, 1.0);
  const double queue_ms = std::min(busy * prefill.alone_ms / (2 * std::max(1 - busy, 1e-9)), (flight - 1) * prompt_ms);
  const double between_ms = flight > 1 ? static_cast<double>(prefill.steps) * d.round_ms : 0;

  Prediction& p = out.predicted;
  const Confidence both = std::min(d.step.confidence, prefill.step.confidence);
  p.tpot_ms = {token_ms + (flight - 1) * prompt_ms / output, both};
  p.ttft_ms = {queue_ms + prefill.alone_ms + between_ms, both};
  p.requests_per_s = active * requests_per_ms * 1e3;
  p.tokens_per_s = {p.requests_per_s * output, both};
  p.tokens_per_s_per_gpu = p.tokens_per_s.value / static_cast<double>(shape_.ranks() * shape_.replicas);
  p.prefill_tokens_per_s = {replicas * prefill.tokens_per_s, prefill.step.confidence};
  p.batch_per_dp_rank = batch;
  p.concurrency = static_cast<int64_t>(std::llround(active * flight));
  p.chunk_tokens = prefill.chunk;
  out.shape.micro_batches = d.micro_batches;
  limit(out);
}

void Operation::limit(Candidate& c) const {
  const SolveRequest& request = q_.request;
  const Prediction& p = c.predicted;
  c.meets_limits = true, c.excess = 1, c.missed.clear();
  if (request.ttft_ms && p.ttft_ms.value > *request.ttft_ms) miss(c, p.ttft_ms.value / *request.ttft_ms, fmt::format("TTFT {:.1f} ms against {:.1f} ms", p.ttft_ms.value, *request.ttft_ms));
  if (request.tpot_ms && p.tpot_ms.value > *request.tpot_ms) miss(c, p.tpot_ms.value / *request.tpot_ms, fmt::format("TPOT {:.1f} ms against {:.1f} ms", p.tpot_ms.value, *request.tpot_ms));
}

// The load, judged at the point that was found: no smaller batch serves more. And what is told of the point.
void Operation::limit_load(Candidate& c) const {
  const Workload& load = q_.request.workload;
  Prediction& p = c.predicted;
  if (load.rate > 0) miss(c, load.rate / std::max(p.requests_per_s, 1e-12), fmt::format("{:.2f} requests/s of {:.2f} asked", p.requests_per_s, load.rate));
  if (load.concurrency > 0)
    miss(c, static_cast<double>(load.concurrency) / static_cast<double>(std::max<int64_t>(p.concurrency, 1)), fmt::format("room for {} requests in flight of {} asked", p.concurrency, load.concurrency));
  const int64_t held = c.memory.kv_tokens_per_dp_rank;
  if (held < q_.sequence_len) miss(c, static_cast<double>(q_.sequence_len) / static_cast<double>(std::max<int64_t>(held, 1)), fmt::format("room for {} tokens of a DP rank, a request has {}", held, q_.sequence_len));

  const Decode& d = decode(p.batch_per_dp_rank);
  const auto prefill = std::find_if(prefills_.begin(), prefills_.end(), [&](const Prefill& known) { return known.chunk == p.chunk_tokens; });
  p.decode_ms = d.step.parts_ms;
  p.prefill_ms = prefill->step.parts_ms;
  p.bottleneck = d.step.bottleneck;
  p.algorithms = d.step.algorithms;
}

double Operation::most_tokens_per_s(const Candidate& c) const {
  Candidate scratch;
  scratch.shape = c.shape;
  double most = 0;
  for (const Prefill& prefill : prefills_) {
    predict(scratch, most_batch_, prefill);
    most = std::max(most, scratch.predicted.tokens_per_s.value);
  }
  return most;
}

void Operation::operate_at(Candidate& c, int64_t batch) const {
  predict(c, batch, prefills_.front());
  limit_load(c);
}

void Operation::operate(Candidate& c) const {
  const std::vector<int64_t> sizes = batch_steps(most_batch_);
  const bool smallest = q_.request.objective == Objective::latency && q_.request.workload.rate > 0;
  Candidate best;
  for (size_t i = 0; i < prefills_.size(); ++i) {
    Candidate trial;
    trial.shape = c.shape;
    const auto at = [&](size_t size) { predict(trial, sizes[size], prefills_[i]); return trial.meets_limits; };
    // The largest batch within the limits, which only tighten with the batch; for latency under a rate the smallest that sustains it.
    size_t low = 0, high = sizes.size() - 1;
    if (smallest) {
      while (low < high) {
        const size_t middle = (low + high) / 2;
        at(middle);
        if (trial.predicted.requests_per_s >= q_.request.workload.rate) high = middle;
        else low = middle + 1;
      }
      at(low);
    } else if (!at(high)) {
      while (high - low > 1) {
        const size_t middle = (low + high) / 2;
        (at(middle) ? low : high) = middle;
      }
      at(low);
    }
    if (i == 0 || beats(trial, best)) best = trial;
  }
  c.shape.micro_batches = best.shape.micro_batches;
  c.predicted = best.predicted;
  c.meets_limits = best.meets_limits, c.excess = best.excess, c.missed = best.missed;
  limit_load(c);
}

void operate(const Question& q, Candidate& c) { Operation(q, c).operate(c); }
void operate_at(const Question& q, Candidate& c, int64_t batch) { Operation(q, c).operate_at(c, batch); }
double most_tokens_per_s(const Question& q, const Candidate& c) { return Operation(q, c).most_tokens_per_s(c); }

}  // namespace dsinfer
