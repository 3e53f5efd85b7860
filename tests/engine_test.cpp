// What engines answer: the same tokens under every plan, ends, texts, refusals.
#include <cmath>
#include <fstream>

#include "engine_runs.hpp"

namespace dsinfer {
namespace {

using namespace test;
using ::testing::HasSubstr;

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
  std::ofstream(file) << R"({"eos_token_id": [-1, )" << (int64_t{1} << 32) + tokens[4] << "]}";
  EXPECT_EQ(run(1, options, {request}).outcomes[0].last().completion_tokens, 8);
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
