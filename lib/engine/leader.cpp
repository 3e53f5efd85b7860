#include "engine/leader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/wait.hpp"
#include "model/step_times.hpp"

namespace dsinfer {
namespace {

using std::chrono::milliseconds;

SchedulerOptions scheduler_options(const Model& model, const EngineOptions& o) {
  const ForwardOptions& f = model.options();
  return {model.plan().dp, o.micro_batches > 0 ? o.micro_batches : model.plan().micro_batches, f.max_tokens, f.max_sequences, model.max_len(), f.page_size, model.num_pages(), o.shuffle_pages};
}

}  // namespace

Leader::Leader(RankSteps& steps, EngineBoard& board, const EngineOptions& options, const Tokenizer* tokenizer)
    : steps_(steps), board_(board), world_(steps.world()), options_(options), tokenizer_(tokenizer), scheduler_(scheduler_options(steps.model(), options)) {}

uint64_t Leader::submit(Request request) {
  check_request(request, {steps_.model().config().vocab_size, steps_.model().max_len(), scheduler_.context(), tokenizer_ != nullptr});
  const std::lock_guard lock(board_.mutex);
  if (!board_.failure.empty()) throw Error(Error::group_failed, board_.failure);
  if (board_.down) throw Error(Error::invalid_argument, "Engine::submit after shutdown()");
  if (static_cast<int64_t>(alive_.size()) >= options_.max_queue) {
    throw Error(Error::busy, std::to_string(alive_.size()) + " requests wait or run and max_queue is " + std::to_string(options_.max_queue) + "; try again when one has ended");
  }
  const uint64_t id = ++last_id_;
  inbox_.emplace_back(id, std::move(request), tokenizer_, steps_.model().end_tokens(), scheduler_.context());
  alive_.emplace(id, false);
  signal_.raise();
  return id;
}

bool Leader::cancel(uint64_t request) {
  const std::lock_guard lock(board_.mutex);
  const auto found = alive_.find(request);
  if (found == alive_.end()) return false;
  if (!std::exchange(found->second, true) && !board_.down) cancels_.push_back(request);  // shut_down() takes no mail
  return true;
}

StepResult Leader::step(std::vector<Event>& events, milliseconds timeout) {
  const Clock::time_point deadline = Clock::now() + timeout;
  if (std::optional<Error> failed = world_.failure()) throw *failed;
  bool worked = take_inbox(events);
  worked |= take_results(events);
  worked |= send_batches();
  worked |= take_results(events);  // of this rank's own sampler
  if (!worked && !results_missing_.empty()) {
    wait_for_results(deadline, events);
    worked = true;
  } else if (!worked) {
    wait_idle(world_, std::chrono::duration_cast<milliseconds>(deadline - Clock::now()), [&] { return has_mail(); });
    worked = take_inbox(events);
  }
  const bool idle = publish();
  return !worked && idle ? StepResult::idle : StepResult::worked;
}

bool Leader::take_inbox(std::vector<Event>& events) {
  std::vector<Answer> arrived;
  std::vector<uint64_t> cancelled;
  {
    const std::lock_guard lock(board_.mutex);
    arrived.swap(inbox_);
    cancelled.swap(cancels_);
  }
  for (Answer& answer : arrived) {
    scheduler_.add(answer.id(), answer.take_prompt());
    answers_.emplace(answer.id(), std::move(answer));
  }
  for (const uint64_t id : cancelled) {
    const auto found = answers_.find(id);
    if (found == answers_.end()) continue;  // ended meanwhile
    found->second.end(FinishReason::cancelled, events);
    forget(found);
  }
  return !arrived.empty() || !cancelled.empty();
}

void Leader::forget(std::map<uint64_t, Answer>::iterator answer) {
  const std::lock_guard lock(board_.mutex);
  scheduler_.remove(answer->first);
  alive_.erase(answer->first);
  ++board_.stats.requests_finished;
  answers_.erase(answer);
}

// Hands out as many batches as may be in flight, running this rank's part of each.
bool Leader::send_batches() {
  bool sent = false;
  StepLap lap;
  while (std::optional<ScheduledBatch> scheduled = scheduler_.next()) {
    Announcement a;
    a.scheduled = std::move(*scheduled);
    for (const auto& owners : a.scheduled.owners) {
      for (const SegmentOwner& owner : owners) if (owner.first) a.starts.push_back({owner.request, answers_.at(owner.request).request().sampling});
    }
    const Clock::time_point now = Clock::now();
    if (results_missing_.empty()) flight_since_ = now;
    a.flight_ns = flight_ns_ + nanoseconds(now - flight_since_);
    results_missing_[a.scheduled.batch.step] = static_cast<size_t>(steps_.model().plan().dp);
    const std::string bytes = a.to_bytes();
    for (int peer = 1; peer < world_.size(); ++peer) world_.post(peer, bytes);
    lap(&StepTimes::schedule);
    BatchResult own = steps_.execute(a);
    lap = {};
    if (steps_.model().yields_logits()) own_results_.push_back(std::move(own));
    waited_ = {};
    sent = true;
  }
  return sent;
}

bool Leader::take_results(std::vector<Event>& events) {
  bool any = false;
  for (const BatchResult& result : std::exchange(own_results_, {})) take_result(result, events), any = true;
  while (std::optional<Message> message = world_.receive()) take_result(BatchResult::from_bytes(message->bytes), events), any = true;
  return any;
}

void Leader::take_result(const BatchResult& result, std::vector<Event>& events) {
  StepLap lap;
  waited_ = {};
  for (const Choice& choice : result.choices) {
    const auto found = answers_.find(choice.request);
    if (found == answers_.end()) continue;  // cancelled meanwhile
    Answer& answer = found->second;
    answer.take(choice, events);
    count_token(answer, choice);
    if (answer.finished()) forget(found);
    else scheduler_.append(choice.request, choice.token);
  }
  lap(&StepTimes::token);
  size_t& missing = results_missing_.at(result.step);
  if (--missing > 0) return;
  results_missing_.erase(result.step);
  scheduler_.retire(result.step);
  if (results_missing_.empty()) flight_ns_ += nanoseconds(Clock::now() - flight_since_);
}

void Leader::count_token(const Answer& answer, const Choice& choice) {
  if (choice.token < 0) return;
  const std::lock_guard lock(board_.mutex);
  ++board_.stats.completion_tokens;
  if (answer.completion_tokens() > 1) return;
  board_.stats.prompt_tokens += static_cast<uint64_t>(answer.prompt_tokens());
  board_.stats.ttft_ms_sum += answer.ttft_ms();
}

// Nothing can go out until tokens are back. The stall clock goes on over several short steps, so it is kept here. As in wait_until, only time in which
// the loop ran counts.
void Leader::wait_for_results(Clock::time_point deadline, std::vector<Event>& events) {
  const Clock::duration limit = world_.stall_timeout();
  Clock::time_point last = Clock::now();
  for (Backoff backoff; !take_results(events) && !has_mail(); backoff.pause()) {
    if (std::optional<Error> failed = world_.failure()) throw *failed;
    const Clock::time_point now = Clock::now();
    waited_ += std::min(now - last, limit / 4);
    last = now;
    if (waited_ >= limit) throw Error(Error::stalled, stall_text());
    if (now >= deadline) return;
  }
}

std::string Leader::stall_text() const {
  return kStallWords + fmt::format("{:g} s while the leader waited for the tokens of batch {}: a rank is stopped, dead or stuck; if it is only slow, raise the stall limit",
                                   static_cast<double>(world_.stall_timeout().count()) / 1000, results_missing_.begin()->first);
}

bool Leader::has_mail() const {
  const std::lock_guard lock(board_.mutex);
  return !inbox_.empty() || !cancels_.empty();
}

// Brings what other threads may read up to date. Returns whether no request is alive.
bool Leader::publish() {
  const std::lock_guard lock(board_.mutex);
  steps_.publish(board_.stats);
  EngineStats& stats = board_.stats;
  stats.preemptions = scheduler_.preemptions();
  stats.waiting = scheduler_.waiting() + static_cast<int64_t>(inbox_.size());
  stats.running = scheduler_.running();
  stats.pages_total = scheduler_.pages_total();
  stats.pages_used = scheduler_.pages_used();
  const bool idle = alive_.empty() && results_missing_.empty();
  if (idle) signal_.lower();
  return idle;
}

void Leader::refuse_more() {
  const std::lock_guard lock(board_.mutex);
  board_.down = true;
  inbox_.clear();
  cancels_.clear();
}

void Leader::shut_down() {
  std::vector<Event> dropped;
  while (!results_missing_.empty()) wait_for_results(Clock::now() + world_.stall_timeout(), dropped);
  Announcement end;
  end.kind = Announcement::Kind::shutdown;
  const std::string bytes = end.to_bytes();
  for (int peer = 1; peer < world_.size(); ++peer) world_.post(peer, bytes);
  signal_.raise();  // step() says shutdown
}

}  // namespace dsinfer
