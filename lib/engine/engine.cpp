#include "dsinfer/engine.hpp"

#include "core/wait.hpp"
#include "engine/leader.hpp"

namespace dsinfer {

using std::chrono::milliseconds;

struct Engine::Impl {
  RankSteps steps;
  World& world;  // the replica's ranks
  std::optional<Tokenizer> tokenizer;
  EngineBoard board;
  std::optional<Leader> leader;

  Impl(World& whole, const EngineOptions& o, std::optional<Tokenizer> t) : steps(whole, o.forward, t), world(steps.world()), tokenizer(std::move(t)) {
    in_agreement(world, [&] {
      if (o.max_queue < 1) throw Error(Error::invalid_argument, "max_queue is " + std::to_string(o.max_queue) + ", expected at least 1");
      if (o.micro_batches < 0) throw Error(Error::invalid_argument, "micro_batches is " + std::to_string(o.micro_batches) + ", expected 0 (the plan's) or more");
      if (steps.leads()) leader.emplace(steps, board, o, tokenizer ? &*tokenizer : nullptr);
    });
    publish();
  }

  ~Impl() {
    try {
      shutdown();
    } catch (const std::exception&) {  // the group has failed; its followers know
    }
  }

  Leader& as_leader(const char* call) {
    if (!leader) throw Error(Error::invalid_argument, std::string("Engine::") + call + " is the leader's; other ranks call follow()");
    return *leader;
  }

  // Runs what can end the group: an error is told to all ranks, and stays.
  template <class Work> auto guarded(Work work) {
    board.check_failure();
    try {
      return work();
    } catch (const Error& e) {
      if (e.code() != Error::group_failed) world.report_failure(e.what());
      board.fail(e.what());
      throw;
    } catch (const std::exception& e) {
      world.report_failure(e.what());
      board.fail(e.what());
      throw;
    }
  }

  void publish() {
    if (leader) {
      leader->publish();
      return;
    }
    const std::lock_guard lock(board.mutex);
    steps.publish(board.stats);
  }

  StepResult follow(milliseconds timeout) {
    if (leader) throw Error(Error::invalid_argument, "Engine::follow is for ranks other than the leader; rank 0 calls step()");
    if (board.down) return StepResult::shutdown;
    return guarded([&] {
      std::optional<Message> message;
      if (!wait_idle(world, timeout, [&] { return (message = world.receive()).has_value(); })) return StepResult::idle;
      const Announcement a = Announcement::from_bytes(message->bytes);
      if (a.kind == Announcement::Kind::shutdown) {
        board.down = true;
        return StepResult::shutdown;
      }
      const BatchResult result = steps.execute(a);
      if (steps.model().yields_logits()) world.post(0, result.to_bytes());
      publish();
      return StepResult::worked;
    });
  }

  StepResult step(std::vector<Event>& events, milliseconds timeout) {
    Leader& all = as_leader("step");
    if (board.down) return StepResult::shutdown;
    return guarded([&] { return all.step(events, timeout); });
  }

  void shutdown() {
    if (board.down || !leader) return;
    leader->refuse_more();
    guarded([&] { leader->shut_down(); });
  }
};

Engine::Engine(World& world, const EngineOptions& options, std::optional<Tokenizer> tokenizer)
    : impl_(std::make_unique<Impl>(world, options, std::move(tokenizer))) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

const Plan& Engine::plan() const { return impl_->steps.model().plan(); }
const ModelConfig& Engine::config() const { return impl_->steps.model().config(); }
const Tokenizer* Engine::tokenizer() const { return impl_->tokenizer ? &*impl_->tokenizer : nullptr; }
uint64_t Engine::submit(Request request) { return impl_->as_leader("submit").submit(std::move(request)); }
bool Engine::cancel(uint64_t request) { return impl_->as_leader("cancel").cancel(request); }
StepResult Engine::step(std::vector<Event>& events, milliseconds timeout) { return impl_->step(events, timeout); }
StepResult Engine::follow(milliseconds timeout) { return impl_->follow(timeout); }
void Engine::shutdown() { impl_->shutdown(); }
int Engine::event_fd() const { return impl_->leader ? impl_->leader->event_fd() : -1; }

EngineStats Engine::stats() const {
  const std::lock_guard lock(impl_->board.mutex);
  return impl_->board.stats;
}

}  // namespace dsinfer
