#include "dsinfer/engine.hpp"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "core/wait.hpp"
#include "engine/announcement.hpp"
#include "engine/answer.hpp"
#include "model/model.hpp"
#include "model/step_times.hpp"

namespace dsinfer {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

uint64_t nanoseconds(Clock::duration d) { return static_cast<uint64_t>(std::chrono::nanoseconds(d).count()); }
double seconds(uint64_t ns) { return static_cast<double>(ns) * 1e-9; }

// A descriptor that poll() finds readable while it is raised. Any thread.
class Signal {
 public:
  Signal() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (fd_ < 0) throw Error(Error::io, "eventfd: the process has no file descriptor left; raise its limit (ulimit -n)");
  }
  ~Signal() { close(fd_); }
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;
  int fd() const { return fd_; }
  void raise() { eventfd_write(fd_, 1); }
  void lower() { eventfd_t count; eventfd_read(fd_, &count); }

 private:
  int fd_;
};

}  // namespace

struct Engine::Impl {
  // Every rank.
  Model model;
  World& world;  // the replica's ranks
  Sampler sampler;
  std::string failure;  // text of what ended the group
  bool down = false;
  uint64_t busy_ns = 0, idle_ns = 0;

  // Leader, stepping thread.
  std::optional<Tokenizer> tokenizer;
  std::optional<Signal> signal;
  std::optional<Scheduler> scheduler;
  std::map<uint64_t, Answer> answers;
  std::map<uint64_t, size_t> results_missing;  // batch in flight → sampling ranks that have not answered
  std::vector<BatchResult> own_results;        // of this rank's sampler
  Clock::time_point flight_since;              // when the first of the batches in flight went out
  Clock::duration waited{};                    // in step() since anything moved
  uint64_t flight_ns = 0;                      // time with batches in flight, up to flight_since

  // Leader, any thread.
  mutable std::mutex mutex;
  std::vector<Answer> inbox;
  std::vector<uint64_t> cancels;
  std::map<uint64_t, bool> alive;  // every request that has not ended → cancel asked for
  uint64_t last_id = 0;
  EngineStats stats;
  EngineOptions options;

  Impl(World& whole, const EngineOptions& o, std::optional<Tokenizer> t)
      : model(whole, o.forward), world(model.world()), sampler(model.config().vocab_size, agree_on_id_limit(t)), tokenizer(std::move(t)), options(o) {
    in_agreement(world, [&] {
      if (o.max_queue < 1) throw Error(Error::invalid_argument, "max_queue is " + std::to_string(o.max_queue) + ", expected at least 1");
      if (o.micro_batches < 0) throw Error(Error::invalid_argument, "micro_batches is " + std::to_string(o.micro_batches) + ", expected 0 (the plan's) or more");
      if (!leads()) return;
      signal.emplace();
      const ForwardOptions& f = model.options();
      scheduler.emplace(SchedulerOptions{model.plan().dp, o.micro_batches > 0 ? o.micro_batches : model.plan().micro_batches, f.max_tokens, f.max_sequences,
                                         model.max_len(), f.page_size, model.num_pages(), o.shuffle_pages});
    });
    publish();
  }

  ~Impl() {
    try {
      shutdown();
    } catch (const std::exception&) {  // the group has failed; its followers know
    }
  }

  bool leads() const { return world.rank() == 0; }

  int64_t agree_on_id_limit(const std::optional<Tokenizer>& t) {
    int64_t limit = model.config().vocab_size;
    if (leads() && t) limit = std::min<int64_t>(limit, t->id_limit());
    return std::stoll(world.broadcast(std::to_string(limit), 0));
  }

  // Runs what can end the group: an error is told to all ranks, and stays.
  template <class Work> auto guarded(Work work) {
    check_failure();
    try {
      return work();
    } catch (const Error& e) {
      if (e.code() != Error::group_failed) world.report_failure(e.what());
      fail(e.what());
      throw;
    } catch (const std::exception& e) {
      world.report_failure(e.what());
      fail(e.what());
      throw;
    }
  }

  void fail(const char* text) {
    const std::lock_guard lock(mutex);
    failure = text;
  }

  void check_failure() const {
    const std::lock_guard lock(mutex);
    if (!failure.empty()) throw Error(Error::group_failed, failure);
  }

  // ---- Every rank: one batch ----

  BatchResult execute(const Announcement& a) {
    const Clock::time_point begin = Clock::now();
    const uint64_t waited_before = model.stats().comm_wait_ns;
    std::vector<SampledRow> sampled;
    std::vector<LogitAsk> asks;
    if (model.yields_logits()) sampled = feed_sampler(a);
    for (const SampledRow& row : sampled) asks.push_back(sampler.ask(row.request));
    LogitRows& logits = model.forward(a.scheduled.batch, asks, sampler.id_limit());
    BatchResult result;
    result.step = a.scheduled.batch.step;
    StepLap lap;
    for (size_t i = 0; i < sampled.size(); ++i) result.choices.push_back(choose(sampled[i], logits, static_cast<int64_t>(i)));
    lap(&StepTimes::choose);
    const uint64_t took = nanoseconds(Clock::now() - begin), waiting = std::min(took, model.stats().comm_wait_ns - waited_before);
    busy_ns += took - waiting;
    const uint64_t flight = a.flight_ns + took;
    idle_ns = flight - std::min(flight, busy_ns);
    return result;
  }

  struct SampledRow {
    uint64_t request;
    int64_t position;
  };

  // Tells the sampler what this batch is of; gives the rows that it will be asked about, in the order of their logits.
  std::vector<SampledRow> feed_sampler(const Announcement& a) {
    std::vector<SampledRow> sampled;
    const auto dp_rank = static_cast<size_t>(model.rank_plan().dp_rank);
    for (const uint64_t id : a.scheduled.released) sampler.release(id);
    for (const Announcement::Start& start : a.starts) {
      for (const SegmentOwner& owner : a.scheduled.owners[dp_rank]) {
        if (owner.request == start.request) sampler.start(start.request, start.sampling, owner.prompt_tokens);
      }
    }
    const BatchPart& part = a.scheduled.batch.parts[dp_rank];
    const int32_t* tokens = part.tokens.data();
    for (size_t i = 0; i < part.segments.size(); ++i) {
      const Segment& segment = part.segments[i];
      const SegmentOwner& owner = a.scheduled.owners[dp_rank][i];
      sampler.feed(owner.request, segment.position, {tokens, static_cast<size_t>(segment.rows)});
      tokens += segment.rows;
      if (owner.samples) sampled.push_back({owner.request, segment.position + segment.rows - 1});
    }
    return sampled;
  }

  Choice choose(const SampledRow& row, LogitRows& logits, int64_t i) {
    if (const auto answer = logits.answer(i)) {
      if (std::optional<Choice> choice = sampler.choose(row.request, row.position, answer->summary, answer->best)) return std::move(*choice);
    }
    return sampler.choose(row.request, row.position, logits.whole(i));
  }

  // ---- Followers ----

  StepResult follow(milliseconds timeout) {
    if (leads()) throw Error(Error::invalid_argument, "Engine::follow is for ranks other than the leader; rank 0 calls step()");
    if (down) return StepResult::shutdown;
    return guarded([&] {
      std::optional<Message> message;
      if (!wait_idle(world, timeout, [&] { return (message = world.receive()).has_value(); })) return StepResult::idle;
      const Announcement a = Announcement::from_bytes(message->bytes);
      if (a.kind == Announcement::Kind::shutdown) {
        down = true;
        return StepResult::shutdown;
      }
      const BatchResult result = execute(a);
      if (model.yields_logits()) world.post(0, result.to_bytes());
      publish();
      return StepResult::worked;
    });
  }

  // ---- Leader ----

  void require_leader(const char* call) const {
    if (!leads()) throw Error(Error::invalid_argument, std::string("Engine::") + call + " is the leader's; other ranks call follow()");
  }

  uint64_t submit(Request request) {
    require_leader("submit");
    check_request(request, {model.config().vocab_size, model.max_len(), scheduler->context(), tokenizer.has_value()});
    const std::lock_guard lock(mutex);
    if (!failure.empty()) throw Error(Error::group_failed, failure);
    if (down) throw Error(Error::invalid_argument, "Engine::submit after shutdown()");
    if (static_cast<int64_t>(alive.size()) >= options.max_queue) {
      throw Error(Error::busy, std::to_string(alive.size()) + " requests wait or run and max_queue is " + std::to_string(options.max_queue) + "; try again when one has ended");
    }
    const uint64_t id = ++last_id;
    inbox.emplace_back(id, std::move(request), tokenizer ? &*tokenizer : nullptr, model.end_tokens(), scheduler->context());
    alive.emplace(id, false);
    signal->raise();
    return id;
  }

  bool cancel(uint64_t request) {
    require_leader("cancel");
    const std::lock_guard lock(mutex);
    const auto found = alive.find(request);
    if (found == alive.end()) return false;
    if (!std::exchange(found->second, true)) cancels.push_back(request);
    return true;
  }

  StepResult step(std::vector<Event>& events, milliseconds timeout) {
    require_leader("step");
    if (down) return StepResult::shutdown;
    return guarded([&] {
      const Clock::time_point deadline = Clock::now() + timeout;
      if (std::optional<Error> failed = world.failure()) throw *failed;
      bool worked = take_inbox(events);
      worked |= take_results(events);
      worked |= send_batches();
      worked |= take_results(events);  // of this rank's own sampler
      if (!worked && !results_missing.empty()) {
        wait_for_results(deadline, events);
        worked = true;
      } else if (!worked) {
        wait_idle(world, std::chrono::duration_cast<milliseconds>(deadline - Clock::now()), [&] { return has_mail(); });
        worked = take_inbox(events);
      }
      const bool idle = publish();
      return !worked && idle ? StepResult::idle : StepResult::worked;
    });
  }

  bool take_inbox(std::vector<Event>& events) {
    std::vector<Answer> arrived;
    std::vector<uint64_t> cancelled;
    {
      const std::lock_guard lock(mutex);
      arrived.swap(inbox);
      cancelled.swap(cancels);
    }
    for (Answer& answer : arrived) {
      scheduler->add(answer.id(), answer.take_prompt());
      answers.emplace(answer.id(), std::move(answer));
    }
    for (const uint64_t id : cancelled) {
      const auto found = answers.find(id);
      if (found == answers.end()) continue;  // ended meanwhile
      found->second.end(FinishReason::cancelled, events);
      forget(found);
    }
    return !arrived.empty() || !cancelled.empty();
  }

  void forget(std::map<uint64_t, Answer>::iterator answer) {
    const std::lock_guard lock(mutex);
    scheduler->remove(answer->first);
    alive.erase(answer->first);
    ++stats.requests_finished;
    answers.erase(answer);
  }

  // Hands out as many batches as may be in flight, running this rank's part of each.
  bool send_batches() {
    bool sent = false;
    StepLap lap;
    while (std::optional<ScheduledBatch> scheduled = scheduler->next()) {
      Announcement a;
      a.scheduled = std::move(*scheduled);
      for (const auto& owners : a.scheduled.owners) {
        for (const SegmentOwner& owner : owners) if (owner.first) a.starts.push_back({owner.request, answers.at(owner.request).request().sampling});
      }
      const Clock::time_point now = Clock::now();
      if (results_missing.empty()) flight_since = now;
      a.flight_ns = flight_ns + nanoseconds(now - flight_since);
      results_missing[a.scheduled.batch.step] = static_cast<size_t>(model.plan().dp);
      const std::string bytes = a.to_bytes();
      for (int peer = 1; peer < world.size(); ++peer) world.post(peer, bytes);
      lap(&StepTimes::schedule);
      BatchResult own = execute(a);
      lap = {};
      if (model.yields_logits()) own_results.push_back(std::move(own));
      waited = {};
      sent = true;
    }
    return sent;
  }

  bool take_results(std::vector<Event>& events) {
    bool any = false;
    for (const BatchResult& result : std::exchange(own_results, {})) take_result(result, events), any = true;
    while (std::optional<Message> message = world.receive()) take_result(BatchResult::from_bytes(message->bytes), events), any = true;
    return any;
  }

  void take_result(const BatchResult& result, std::vector<Event>& events) {
    StepLap lap;
    waited = {};
    for (const Choice& choice : result.choices) {
      const auto found = answers.find(choice.request);
      if (found == answers.end()) continue;  // cancelled meanwhile
      Answer& answer = found->second;
      answer.take(choice, events);
      count_token(answer, choice);
      if (answer.finished()) forget(found);
      else scheduler->append(choice.request, choice.token);
    }
    lap(&StepTimes::token);
    size_t& missing = results_missing.at(result.step);
    if (--missing > 0) return;
    results_missing.erase(result.step);
    scheduler->retire(result.step);
    if (results_missing.empty()) flight_ns += nanoseconds(Clock::now() - flight_since);
  }

  void count_token(const Answer& answer, const Choice& choice) {
    if (choice.token < 0) return;
    const std::lock_guard lock(mutex);
    ++stats.completion_tokens;
    if (answer.completion_tokens() > 1) return;
    stats.prompt_tokens += static_cast<uint64_t>(answer.prompt_tokens());
    stats.ttft_ms_sum += answer.ttft_ms();
  }

  // Nothing can go out until tokens are back. The stall clock goes on over several short steps, so it is kept here. As in wait_until, only time in which
  // the loop ran counts.
  void wait_for_results(Clock::time_point deadline, std::vector<Event>& events) {
    const Clock::duration limit = world.stall_timeout();
    Clock::time_point last = Clock::now();
    for (Backoff backoff; !take_results(events) && !has_mail(); backoff.pause()) {
      if (std::optional<Error> failed = world.failure()) throw *failed;
      const Clock::time_point now = Clock::now();
      waited += std::min(now - last, limit / 4);
      last = now;
      if (waited >= limit) throw Error(Error::stalled, stall_text());
      if (now >= deadline) return;
    }
  }

  std::string stall_text() const {
    return kStallWords + fmt::format("{:g} s while the leader waited for the tokens of batch {}: a rank is stopped, dead or stuck; if it is only slow, raise the stall limit",
                                     static_cast<double>(world.stall_timeout().count()) / 1000, results_missing.begin()->first);
  }

  bool has_mail() const {
    const std::lock_guard lock(mutex);
    return !inbox.empty() || !cancels.empty();
  }

  // Brings what other threads may read up to date. Returns whether no request is alive.
  bool publish() {
    const std::lock_guard lock(mutex);
    stats.forward = model.stats();
    stats.steps = stats.forward.steps;
    stats.stage_busy_seconds = seconds(busy_ns);
    stats.stage_idle_seconds = seconds(idle_ns);
    if (!scheduler) return true;
    stats.preemptions = scheduler->preemptions();
    stats.waiting = scheduler->waiting() + static_cast<int64_t>(inbox.size());
    stats.running = scheduler->running();
    stats.pages_total = scheduler->pages_total();
    stats.pages_used = scheduler->pages_used();
    const bool idle = alive.empty() && results_missing.empty();
    if (idle) signal->lower();
    return idle;
  }

  // Batches in flight end first: their hidden rows are still on the way between stages.
  void shutdown() {
    if (down || !leads()) return;
    {
      const std::lock_guard lock(mutex);
      down = true;
      inbox.clear();
      cancels.clear();
    }
    guarded([&] {
      std::vector<Event> dropped;
      while (!results_missing.empty()) wait_for_results(Clock::now() + world.stall_timeout(), dropped);
      Announcement end;
      end.kind = Announcement::Kind::shutdown;
      const std::string bytes = end.to_bytes();
      for (int peer = 1; peer < world.size(); ++peer) world.post(peer, bytes);
      signal->raise();  // step() says shutdown
    });
  }
};

Engine::Engine(World& world, const EngineOptions& options, std::optional<Tokenizer> tokenizer)
    : impl_(std::make_unique<Impl>(world, options, std::move(tokenizer))) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

const Plan& Engine::plan() const { return impl_->model.plan(); }
const ModelConfig& Engine::config() const { return impl_->model.config(); }
const Tokenizer* Engine::tokenizer() const { return impl_->tokenizer ? &*impl_->tokenizer : nullptr; }
uint64_t Engine::submit(Request request) { return impl_->submit(std::move(request)); }
bool Engine::cancel(uint64_t request) { return impl_->cancel(request); }
StepResult Engine::step(std::vector<Event>& events, milliseconds timeout) { return impl_->step(events, timeout); }
StepResult Engine::follow(milliseconds timeout) { return impl_->follow(timeout); }
void Engine::shutdown() { impl_->shutdown(); }
int Engine::event_fd() const { return impl_->signal ? impl_->signal->fd() : -1; }

EngineStats Engine::stats() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->stats;
}

}  // namespace dsinfer
