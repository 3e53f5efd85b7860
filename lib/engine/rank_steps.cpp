#include "engine/rank_steps.hpp"

#include <algorithm>
#include <chrono>

#include "model/step_times.hpp"

namespace dsinfer {
namespace {

using Clock = std::chrono::steady_clock;

int64_t agree_on_id_limit(World& world, int64_t limit, const std::optional<Tokenizer>& tokenizer) {
  if (world.rank() == 0 && tokenizer) limit = std::min<int64_t>(limit, tokenizer->id_limit());
  return std::stoll(world.broadcast(std::to_string(limit), 0));
}

}  // namespace

RankSteps::RankSteps(World& whole, const ForwardOptions& options, const std::optional<Tokenizer>& tokenizer)
    : model_(whole, options), world_(model_.world()), sampler_(model_.config().vocab_size, agree_on_id_limit(world_, model_.config().vocab_size, tokenizer)) {}

BatchResult RankSteps::execute(const Announcement& a) {
  const Clock::time_point begin = Clock::now();
  const uint64_t waited_before = model_.stats().comm_wait_ns;
  std::vector<SampledRow> sampled;
  std::vector<LogitAsk> asks;
  if (model_.yields_logits()) sampled = feed_sampler(a);
  for (const SampledRow& row : sampled) asks.push_back(sampler_.ask(row.request));
  LogitRows& logits = model_.forward(a.scheduled.batch, asks, sampler_.id_limit());
  BatchResult result;
  result.step = a.scheduled.batch.step;
  StepLap lap;
  for (size_t i = 0; i < sampled.size(); ++i) result.choices.push_back(choose(sampled[i], logits, static_cast<int64_t>(i)));
  lap(&StepTimes::choose);
  const uint64_t took = nanoseconds(Clock::now() - begin), waiting = std::min(took, model_.stats().comm_wait_ns - waited_before);
  busy_ns_ += took - waiting;
  const uint64_t flight = a.flight_ns + took;
  idle_ns_ = flight - std::min(flight, busy_ns_);
  return result;
}

// Tells the sampler what this batch is of; gives the rows that it will be asked about, in the order of their logits.
std::vector<RankSteps::SampledRow> RankSteps::feed_sampler(const Announcement& a) {
  std::vector<SampledRow> sampled;
  const auto dp_rank = static_cast<size_t>(model_.rank_plan().dp_rank);
  for (const uint64_t id : a.scheduled.released) sampler_.release(id);
  for (const Announcement::Start& start : a.starts) {
    for (const SegmentOwner& owner : a.scheduled.owners[dp_rank]) {
      if (owner.request == start.request) sampler_.start(start.request, start.sampling, owner.prompt_tokens);
    }
  }
  const BatchPart& part = a.scheduled.batch.parts[dp_rank];
  const int32_t* tokens = part.tokens.data();
  for (size_t i = 0; i < part.segments.size(); ++i) {
    const Segment& segment = part.segments[i];
    const SegmentOwner& owner = a.scheduled.owners[dp_rank][i];
    sampler_.feed(owner.request, segment.position, {tokens, static_cast<size_t>(segment.rows)});
    tokens += segment.rows;
    if (owner.samples) sampled.push_back({owner.request, segment.position + segment.rows - 1});
  }
  return sampled;
}

Choice RankSteps::choose(const SampledRow& row, LogitRows& logits, int64_t i) {
  if (const auto answer = logits.answer(i)) {
    if (std::optional<Choice> choice = sampler_.choose(row.request, row.position, answer->summary, answer->best)) return std::move(*choice);
  }
  return sampler_.choose(row.request, row.position, logits.whole(i));
}

void RankSteps::publish(EngineStats& stats) const {
  constexpr double kNanosecond = 1e-9;
  stats.forward = model_.stats();
  stats.steps = stats.forward.steps;
  stats.stage_busy_seconds = static_cast<double>(busy_ns_) * kNanosecond;
  stats.stage_idle_seconds = static_cast<double>(idle_ns_) * kNanosecond;
}

}  // namespace dsinfer
