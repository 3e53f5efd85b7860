/// Engines on threads over one small checkpoint, and what came of their requests.
#pragma once
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include "checkpoint_writer.hpp"
#include "dsinfer/engine.hpp"
#include "ranks.hpp"
#include "tiny_tokenizer.hpp"

namespace dsinfer::test {

using namespace std::chrono_literals;

// One checkpoint for all tests of this process.
inline const std::filesystem::path& model() {
  static const std::filesystem::path folder = [] {
    const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / ("engine_test_" + std::to_string(getpid()));
    testing_support::write_checkpoint(path, testing_support::tiny_config_json(), {.dtype = DType::f32, .seed = 5});
    std::atexit([] { std::filesystem::remove_all(std::filesystem::path(::testing::TempDir()) / ("engine_test_" + std::to_string(getpid()))); });
    return path;
  }();
  return folder;
}

inline bool has_words() {  // DSINFER_TEXT=OFF builds without
  try {
    Tokenizer::parse(testing::tiny_tokenizer().dump());
    return true;
  } catch (const Error& e) {
    return e.code() != Error::unsupported;
  }
}

inline Tokenizer tokenizer() { return Tokenizer::parse(testing::tiny_tokenizer().dump()); }

inline EngineOptions small(const std::string& plan, int ranks) {
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
inline std::map<uint64_t, Outcome> finish(Engine& engine, size_t requests) {
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

inline Result run(int ranks, const EngineOptions& options, const std::vector<Request>& requests, bool with_text = false) {
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

inline Request ask(int32_t first, int64_t length, int64_t max_tokens = 8) {
  Request request;
  for (int64_t i = 0; i < length; ++i) request.prompt.push_back(static_cast<int32_t>((first + i * 7) % 300));
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

inline std::vector<Request> mixed_requests(int64_t count) {
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

inline std::vector<std::vector<int32_t>> tokens_of(const Result& run) {
  std::vector<std::vector<int32_t>> tokens;
  for (const Outcome& outcome : run.outcomes) tokens.push_back(outcome.tokens);
  return tokens;
}

}  // namespace dsinfer::test
