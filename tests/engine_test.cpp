#include "dsinfer/engine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "checkpoint_writer.hpp"
#include "ranks.hpp"
#include "tiny_tokenizer.hpp"

namespace dsinfer {
namespace {

using namespace std::chrono_literals;
using test::on_threads;
using ::testing::HasSubstr;

// One checkpoint for all tests of this process.
const std::filesystem::path& model() {
  static const std::filesystem::path folder = [] {
    const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / ("engine_test_" + std::to_string(getpid()));
    testing_support::write_checkpoint(path, testing_support::tiny_config_json(), {.dtype = DType::f32, .seed = 5});
    std::atexit([] { std::filesystem::remove_all(std::filesystem::path(::testing::TempDir()) / ("engine_test_" + std::to_string(getpid()))); });
    return path;
  }();
  return folder;
}

bool has_words() {  // DSINFER_TEXT=OFF builds without
  try {
    Tokenizer::parse(testing::tiny_tokenizer().dump());
    return true;
  } catch (const Error& e) {
    return e.code() != Error::unsupported;
  }
}

Tokenizer tokenizer() { return Tokenizer::parse(testing::tiny_tokenizer().dump()); }

EngineOptions small(const std::string& plan, int ranks) {
  EngineOptions o;
  o.forward.model = model();
  o.forward.plan = solve(ModelConfig::load(model()), PlanRequest::parse(plan, ranks));
  o.forward.threads = 1;
  o.forward.max_tokens = 24;
  o.forward.max_sequences = 16;
  o.forward.max_len = 96;
  o.forward.page_size = 4;
  o.forward.num_pages = 400;
  return o;
}

struct Outcome {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<Event> events;
  const Event& last() const { return events.back(); }
};

struct Result {
  std::vector<Outcome> outcomes;    // of the requests, in order
  std::vector<EngineStats> stats;   // of each rank
};

// Steps until every request has ended.
std::map<uint64_t, Outcome> finish(Engine& engine, size_t requests) {
  std::map<uint64_t, Outcome> outcomes;
  std::vector<Event> events;
  for (size_t ended = 0; ended < requests;) {
    events.clear();
    engine.step(events, 100ms);
    for (Event& event : events) {
      Outcome& outcome = outcomes[event.request];
      outcome.text += event.text;
      if (event.kind == Event::Kind::token) outcome.tokens.push_back(event.token);
      else ++ended;
      outcome.events.push_back(std::move(event));
    }
  }
  return outcomes;
}

Result run(int ranks, const EngineOptions& options, const std::vector<Request>& requests, bool with_text = false) {
  Result result;
  result.stats.resize(static_cast<size_t>(ranks));
  on_threads(ranks, [&](World& world) {
    std::optional<Tokenizer> words;
    if (with_text && world.rank() == 0) words = tokenizer();
    Engine engine(world, options, std::move(words));
    if (world.rank() == 0) {
      for (const Request& request : requests) engine.submit(request);
      for (auto& [id, outcome] : finish(engine, requests.size())) result.outcomes.push_back(std::move(outcome));
      engine.shutdown();
    } else {
      while (engine.follow(100ms) != StepResult::shutdown) {}
    }
    result.stats[static_cast<size_t>(world.rank())] = engine.stats();
  });
  return result;
}

Request ask(int32_t first, int64_t length, int64_t max_tokens = 8) {
  Request request;
  for (int64_t i = 0; i < length; ++i) request.prompt.push_back(static_cast<int32_t>((first + i * 7) % 300));
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

std::vector<Request> mixed_requests(int64_t count) {
  std::vector<Request> requests;
  for (int64_t i = 0; i < count; ++i) {
    requests.push_back(ask(static_cast<int32_t>(i * 31), 3 + i * 5 % 40, 6 + i % 5));
    if (i % 3 == 1) {
      requests.back().sampling.temperature = 0.9f;
      requests.back().sampling.top_k = 20;
      requests.back().sampling.seed = static_cast<uint64_t>(i);
    }
    if (i % 3 == 2) requests.back().sampling.repetition_penalty = 1.3f, requests.back().sampling.frequency_penalty = 0.2f;
  }
  return requests;
}

std::vector<std::vector<int32_t>> tokens_of(const Result& run) {
  std::vector<std::vector<int32_t>> tokens;
  for (const Outcome& outcome : run.outcomes) tokens.push_back(outcome.tokens);
  return tokens;
}

TEST(Engine, GivesTheSameTokensUnderEveryPlan) {
  const std::vector<Request> requests = mixed_requests(6);
  const auto expected = tokens_of(run(1, small("tp=1", 1), requests));
  ASSERT_EQ(expected.size(), 6u);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(expected[i].size(), static_cast<size_t>(requests[i].max_tokens));
  for (const auto& [plan, ranks] : std::map<std::string, int>{{"tp=2", 2}, {"pp=2", 2}, {"dp=2", 2}, {"tp=2,dp=2,ep=2", 4}, {"pp=4", 4}, {"tp=2,pp=2,dp=2,ep=4", 8}, {"tp=2,pp=2,dp=4,ep=2", 16}}) {
    EXPECT_EQ(tokens_of(run(ranks, small(plan, ranks), requests)), expected) << plan;
  }
}

TEST(Engine, AnswersSixteenTogetherInLessThanAQuarterOfTheStepsWithTheTokensEachGetsAlone) {
  const std::vector<Request> requests = mixed_requests(16);
  const Result together = run(1, small("tp=1", 1), requests);
  uint64_t steps_alone = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const Result alone = run(1, small("tp=1", 1), {requests[i]});
    steps_alone += alone.stats[0].steps;
    EXPECT_EQ(alone.outcomes[0].tokens, together.outcomes[i].tokens) << "request " << i;
  }
  EXPECT_LT(together.stats[0].steps * 4, steps_alone);
}

TEST(Engine, PreemptsWhenPagesRunOutAndChangesNoToken) {
  const std::vector<Request> requests = mixed_requests(12);
  const auto expected = tokens_of(run(1, small("tp=1", 1), requests));
  for (const auto& [plan, ranks] : std::map<std::string, int>{{"tp=1", 1}, {"dp=2", 2}, {"pp=2", 2}}) {
    EngineOptions tight = small(plan, ranks);
    tight.forward.num_pages = 14;  // 56 positions; the longest request needs 52
    tight.shuffle_pages = true;
    const Result preempted = run(ranks, tight, requests);
    EXPECT_GT(preempted.stats[0].preemptions, 0u) << plan;
    EXPECT_EQ(tokens_of(preempted), expected) << plan;
    EXPECT_EQ(preempted.stats[0].pages_used, 0);
  }
}

TEST(Engine, KeepsPipelineStagesBusierTheMoreBatchesAreInFlight) {
  // Wide enough that a stage's work outweighs its messages.
  const std::filesystem::path wide = model().string() + "_wide";
  testing_support::write_checkpoint(wide, testing_support::tiny_config_json({{"hidden_size", 512}, {"moe_intermediate_size", 256}, {"intermediate_size", 1024}}));
  const auto idle_share = [&](int batches_in_flight) {
    EngineOptions o = small("pp=4", 4);
    o.forward.model = wide;
    o.forward.plan = solve(ModelConfig::load(wide), PlanRequest::parse("pp=4", 4));
    o.micro_batches = batches_in_flight;
    std::vector<Request> requests;
    for (int32_t i = 0; i < 16; ++i) requests.push_back(ask(i, 16, 24));
    double busy = 0, idle = 0;
    const Result result = run(4, o, requests);
    for (const EngineStats& s : result.stats) {
      EXPECT_GT(s.stage_busy_seconds, 0);
      busy += s.stage_busy_seconds;
      idle += s.stage_idle_seconds;
    }
    RecordProperty("idle_share_" + std::to_string(batches_in_flight), std::to_string(idle / (busy + idle)));
    return idle / (busy + idle);
  };
  EXPECT_LT(idle_share(4), idle_share(1));
  std::filesystem::remove_all(wide);
}

TEST(Engine, SharesRequestsOutOverDataParallelRanks) {
  const Result both = run(2, small("dp=2,ep=2", 2), {ask(1, 20), ask(2, 20)});
  EXPECT_EQ(both.stats[0].forward.rows, both.stats[1].forward.rows);
}

TEST(Engine, EndsAtStopTokensAndEndTokensUnlessToldOtherwise) {
  const Result free_run = run(1, small("tp=1", 1), {ask(3, 10, 8)});
  const std::vector<int32_t>& tokens = free_run.outcomes[0].tokens;
  EXPECT_EQ(free_run.outcomes[0].last().reason, FinishReason::length);
  Request stopped = ask(3, 10, 8);
  stopped.stop_tokens = {tokens[4]};
  const size_t first = static_cast<size_t>(std::find(tokens.begin(), tokens.end(), tokens[4]) - tokens.begin());
  const Outcome outcome = run(1, small("tp=1", 1), {stopped}).outcomes[0];
  EXPECT_EQ(outcome.tokens, std::vector<int32_t>(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(first) + 1));
  EXPECT_EQ(outcome.last().reason, FinishReason::stop);
  EXPECT_EQ(outcome.last().completion_tokens, static_cast<int64_t>(first) + 1);
  EXPECT_EQ(outcome.last().prompt_tokens, 10);
  EXPECT_GT(outcome.last().ttft_ms, 0);
}

TEST(Engine, EndsAtTheTokensOfGenerationConfigToo) {
  const std::vector<int32_t> tokens = run(1, small("tp=1", 1), {ask(3, 10, 8)}).outcomes[0].tokens;
  const std::filesystem::path folder = model().string() + "_ends", file = folder / "generation_config.json";
  std::filesystem::copy(model(), folder);
  EngineOptions options = small("tp=1", 1);
  options.forward.model = folder;
  std::ofstream(file) << R"({"eos_token_id": [)" << tokens[4] << "]}";
  Request request = ask(3, 10, 8);
  request.ignore_eos = false;
  const Outcome outcome = run(1, options, {request}).outcomes[0];
  const size_t first = static_cast<size_t>(std::find(tokens.begin(), tokens.end(), tokens[4]) - tokens.begin());
  EXPECT_EQ(outcome.last().reason, FinishReason::stop);
  EXPECT_EQ(outcome.last().completion_tokens, static_cast<int64_t>(first) + 1);
  std::ofstream(file) << R"({"eos_token_id": "one"})";
  on_threads(1, [&](World& world) {
    try {
      Engine engine(world, options);
      ADD_FAILURE() << "nobody read generation_config.json";
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("generation_config.json"));
    }
  });
  std::filesystem::remove_all(folder);
}

TEST(Engine, NeverChoosesIdsThatTheTokenizerLacksAndStreamsTheTextOfTheTokens) {
  if (!has_words()) GTEST_SKIP() << "built without text";
  std::vector<Request> requests = mixed_requests(4);
  for (Request& request : requests) request.max_tokens = 24, request.sampling.temperature = 3;
  const Tokenizer words = tokenizer();
  const Result result = run(2, small("dp=2", 2), requests, true);
  for (const Outcome& outcome : result.outcomes) {
    for (const int32_t token : outcome.tokens) EXPECT_LT(token, words.id_limit());
    EXPECT_EQ(outcome.text, words.decode(outcome.tokens));
  }
}

TEST(Engine, EndsBeforeAStopStringThatStraddlesTokens) {
  if (!has_words()) GTEST_SKIP() << "built without text";
  Request request = ask(40, 6, 20);
  request.sampling.temperature = 0.5f;
  const std::string text = run(1, small("tp=1", 1), {request}, true).outcomes[0].text;
  ASSERT_GT(text.size(), 8u);
  size_t at = 3, end = text.size() / 2 + 2;  // whole characters, so that the stop string is UTF-8
  while ((text[at] & 0xC0) == 0x80) ++at;
  while (end < text.size() && (text[end] & 0xC0) == 0x80) ++end;
  request.stop = {"never in there", text.substr(at, end - at)};
  const Outcome stopped = run(1, small("tp=1", 1), {request}, true).outcomes[0];
  EXPECT_EQ(stopped.text, text.substr(0, text.find(request.stop[1])));
  EXPECT_EQ(stopped.last().reason, FinishReason::stop);
}

TEST(Engine, ReportsLogprobsOfTheChosenTokenAndTheBest) {
  Request request = ask(9, 12, 4);
  request.sampling.logprobs = 5;
  const Outcome outcome = run(1, small("tp=1", 1), {request}).outcomes[0];
  EXPECT_EQ(outcome.tokens.size(), 4u);
  for (const Event& event : outcome.events) {
    if (event.kind != Event::Kind::token) continue;
    ASSERT_EQ(event.top.size(), 5u);
    EXPECT_EQ(event.top[0].id, event.token);
    EXPECT_EQ(event.top[0].logprob, event.logprob);
    double sum = 0;
    for (size_t i = 0; i < 5; ++i) {
      sum += std::exp(event.top[i].logprob);
      if (i > 0) {
        EXPECT_LE(event.top[i].logprob, event.top[i - 1].logprob);
      }
    }
    EXPECT_LT(sum, 1 + 1e-6);
  }
}

TEST(Engine, EndsWithLengthAtTheContextLimit) {
  const Outcome outcome = run(1, small("tp=1", 1), {ask(1, 90, 100)}).outcomes[0];
  EXPECT_EQ(outcome.tokens.size(), 6u);  // 96 in all
  EXPECT_EQ(outcome.last().reason, FinishReason::length);
}

std::string refusal(Engine& engine, const Request& request, Error::Code code = Error::invalid_argument) {
  try {
    engine.submit(request);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "accepted";
}

TEST(Engine, RefusesRequestsThatCannotWork) {
  EngineOptions options = small("tp=1", 1);
  options.max_queue = 2;
  options.forward.num_pages = 10;
  auto world = single_world();
  Engine engine(*world, options);
  EXPECT_THAT(refusal(engine, ask(1, 0)), HasSubstr("prompt is empty"));
  EXPECT_THAT(refusal(engine, ask(1, 96)), HasSubstr("context of 96"));
  EXPECT_THAT(refusal(engine, ask(1, 50)), HasSubstr("num_pages"));
  Request bad = ask(1, 4);
  bad.prompt[2] = 320;
  EXPECT_THAT(refusal(engine, bad), HasSubstr("prompt token 2 is 320"));
  bad = ask(1, 4, 0);
  EXPECT_THAT(refusal(engine, bad), HasSubstr("max_tokens"));
  bad = ask(1, 4);
  bad.stop = {"x"};
  EXPECT_THAT(refusal(engine, bad), HasSubstr("no tokenizer"));
  bad = ask(1, 4);
  bad.sampling.top_p = 2;
  EXPECT_THAT(refusal(engine, bad), HasSubstr("top_p"));
  engine.submit(ask(1, 4));
  engine.submit(ask(2, 4));
  EXPECT_THAT(refusal(engine, ask(3, 4), Error::busy), HasSubstr("max_queue is 2"));
  EXPECT_EQ(finish(engine, 2).size(), 2u);
  EXPECT_EQ(engine.submit(ask(3, 4)), 3u);
  EXPECT_THROW(engine.follow(1ms), Error);
}

TEST(Engine, CancelsAtAnyTime) {
  auto world = single_world();
  Engine engine(*world, small("tp=1", 1));
  const uint64_t first = engine.submit(ask(1, 8, 50)), second = engine.submit(ask(2, 8, 50)), third = engine.submit(ask(3, 8, 5));
  EXPECT_TRUE(engine.cancel(second));
  std::vector<Event> events;
  for (int i = 0; i < 3; ++i) engine.step(events, 0ms);
  EXPECT_TRUE(engine.cancel(first));
  EXPECT_TRUE(engine.cancel(first));
  std::map<uint64_t, Outcome> outcomes = finish(engine, 2);
  EXPECT_EQ(outcomes.at(first).last().reason, FinishReason::cancelled);
  EXPECT_EQ(outcomes.at(third).last().reason, FinishReason::length);
  const auto cancelled = std::find_if(events.begin(), events.end(), [&](const Event& e) { return e.request == second; });
  ASSERT_NE(cancelled, events.end());
  EXPECT_EQ(cancelled->reason, FinishReason::cancelled);
  EXPECT_FALSE(engine.cancel(first));
  EXPECT_FALSE(engine.cancel(99));
  EXPECT_EQ(engine.stats().pages_used, 0);
  EXPECT_EQ(engine.stats().requests_finished, 3u);
}

TEST(Engine, TakesSubmitAndCancelFromAnyThreadWhileItSteps) {
  on_threads(4, [&](World& world) {
    EngineOptions options = small("tp=2,dp=2,ep=4", 4);
    Engine engine(world, options);
    if (world.rank() != 0) {
      while (engine.follow(100ms) != StepResult::shutdown) {}
      return;
    }
    constexpr int kClients = 3, kEach = 6;
    std::vector<std::thread> clients;
    for (int c = 0; c < kClients; ++c) {
      clients.emplace_back([&engine, c] {
        for (int i = 0; i < kEach; ++i) {
          const uint64_t id = engine.submit(ask(c * 10 + i, 5 + i, 6));
          if (i % 2) engine.cancel(id);
          EXPECT_GE(engine.stats().pages_total, 0);
        }
      });
    }
    size_t ended = 0;
    for (const auto& [id, outcome] : finish(engine, kClients * kEach)) {
      ended += outcome.last().kind == Event::Kind::finished;
      EXPECT_EQ(std::count_if(outcome.events.begin(), outcome.events.end(), [](const Event& e) { return e.kind == Event::Kind::finished; }), 1);
    }
    EXPECT_EQ(ended, static_cast<size_t>(kClients * kEach));
    for (std::thread& client : clients) client.join();
  });
}

TEST(Engine, HasADescriptorThatIsReadableWhileThereIsSomethingToDo) {
  auto world = single_world();
  Engine engine(*world, small("tp=1", 1));
  const auto readable = [&] {
    pollfd entry{engine.event_fd(), POLLIN, 0};
    return poll(&entry, 1, 0) == 1;
  };
  EXPECT_FALSE(readable());
  engine.submit(ask(1, 4, 2));
  EXPECT_TRUE(readable());
  finish(engine, 1);
  EXPECT_FALSE(readable());
  std::vector<Event> events;
  EXPECT_EQ(engine.step(events, 1ms), StepResult::idle);
  engine.shutdown();
  EXPECT_EQ(engine.step(events, 1ms), StepResult::shutdown);
  EXPECT_THROW(engine.submit(ask(1, 4)), Error);
}

TEST(Engine, LetsFollowersGoWhenTheLeaderIsDestroyedInMidAnswer) {
  std::atomic<int> gone{0};
  on_threads(4, [&](World& world) {
    Engine engine(world, small("tp=2,pp=2", 4));
    if (world.rank() == 0) {
      engine.submit(ask(1, 60, 30));
      std::vector<Event> events;
      engine.step(events, 0ms);
      return;
    }
    while (engine.follow(50ms) != StepResult::shutdown) {}
    ++gone;
  });
  EXPECT_EQ(gone, 3);
}

TEST(Engine, RefusesAFaultThatItCannotRead) {
  for (const char* value : {"2", "2:", ":4", "two:4", "2:4x", "-1:4", "2:-4", "", "2:99999999999999999999", "2:4:6"}) {
    setenv("DSINFER_FAULT", value, 1);
    on_threads(1, [&](World& world) {
      try {
        Engine engine(world, small("tp=1", 1));
        ADD_FAILURE() << "\"" << value << "\" was taken";
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), Error::invalid_argument) << e.what();
        EXPECT_THAT(e.what(), HasSubstr("DSINFER_FAULT is \"" + std::string(value) + "\", expected RANK:STEP"));
      }
    });
  }
  unsetenv("DSINFER_FAULT");
}

TEST(Engine, EndsOnAllRanksWithOneTextWhenARankFailsInAStep) {
  setenv("DSINFER_FAULT", "2:4", 1);
  std::vector<std::string> texts(4), later(4);
  on_threads(4, [&](World& world) {
    const auto rank = static_cast<size_t>(world.rank());
    Engine engine(world, small("tp=2,pp=2", 4));
    std::vector<Event> events;
    const auto work = [&] {
      if (rank != 0) while (engine.follow(100ms) != StepResult::shutdown) {}
      else for (engine.submit(ask(1, 8, 50));;) engine.step(events, 100ms);
    };
    try {
      work();
    } catch (const Error& e) {
      texts[rank] = e.what();
    }
    try {
      if (rank != 0) engine.follow(1ms);
      else engine.submit(ask(1, 4));
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Error::group_failed);
      later[rank] = e.what();
    }
  });
  unsetenv("DSINFER_FAULT");
  for (const std::string& text : texts) EXPECT_THAT(text, HasSubstr("injected"));
  for (const std::string& text : later) EXPECT_THAT(text, HasSubstr("injected"));
}

TEST(Engine, AnswersTheSameWithMoreBatchesInFlightThanStages) {
  const std::vector<Request> requests = mixed_requests(9);
  const auto alone = tokens_of(run(1, small("tp=1", 1), requests));
  for (const auto& [plan, ranks] : {std::pair{"pp=2,dp=2", 4}, {"dp=2,ep=2", 2}}) {  // the second as the plan solver has it to hide an exchange
    EngineOptions options = small(plan, ranks);
    options.micro_batches = 5;
    EXPECT_EQ(tokens_of(run(ranks, options, requests)), alone) << plan;
  }
}

TEST(EngineStats, HaveATextInExpositionFormatAndAJsonForm) {
  const Result one = run(1, small("tp=1", 1), {ask(1, 8, 4)});
  const std::string text = one.stats[0].text();
  EXPECT_THAT(text, HasSubstr("# TYPE dsinfer_completion_tokens_total counter\ndsinfer_completion_tokens_total 4\n"));
  EXPECT_THAT(text, HasSubstr("\ndsinfer_prompt_tokens_total 8\n"));
  const nlohmann::json json = nlohmann::json::parse(one.stats[0].to_json());
  EXPECT_EQ(json.at("steps_total"), 4);
  EXPECT_EQ(json.at("requests_finished_total"), 1);
}

}  // namespace
}  // namespace dsinfer
