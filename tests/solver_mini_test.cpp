// Every plan that the solver calls legal for the shipped model runs on that many ranks, says the same words, and holds the bytes that the table says.
// As part of the suite on 1, 2 and 4 ranks; DSINFER_LONG=1 in the environment adds 8 and 16 (minutes).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "dsinfer/forward.hpp"
#include "dsinfer/solver.hpp"
#include "ranks.hpp"

namespace dsinfer {
namespace {

using namespace test;

constexpr int64_t kPageSize = 16, kPages = 20;
constexpr double kTie = 1e-3;  // where the two best logits lie closer, either may win

struct Words {
  std::vector<int32_t> tokens;
  std::vector<double> gaps;  ///< between the two best logits
};

// Greedy continuation of fixed ids on rank 0: one prefill, then decode steps on the last dp rank, so that others are idle.
Words speak(Forward& forward) {
  Words words;
  ForwardSequence sequence;
  sequence.dp_rank = forward.plan().dp - 1;
  for (int32_t i = 0; i < 24; ++i) sequence.tokens.push_back(300 + 37 * i % 1000);
  for (int32_t page = 0; page < 4; ++page) sequence.pages.push_back(page);
  for (int step = 0; step < 8; ++step) {
    sequence.logit_rows = {static_cast<int32_t>(sequence.tokens.size()) - 1};
    const Logits logits = forward.run({&sequence, 1});
    const auto row = logits.row(0);
    const auto best = std::max_element(row.begin(), row.end());
    float second = -1e30f;
    for (auto it = row.begin(); it != row.end(); ++it) {
      if (it != best) second = std::max(second, *it);
    }
    words.tokens.push_back(static_cast<int32_t>(best - row.begin()));
    words.gaps.push_back(static_cast<double>(*best) - second);
    sequence.position += static_cast<int64_t>(sequence.tokens.size());
    sequence.tokens = {words.tokens.back()};
    sequence.decode = true;
  }
  return words;
}

struct Outcome {
  Words words;
  std::vector<ForwardStats> stats;
};

Outcome run(const Plan& plan) {
  Outcome result;
  result.stats.resize(static_cast<size_t>(plan.world_size));
  on_threads(plan.world_size, [&](World& world) {
    ForwardOptions options;
    options.model = DSINFER_MINI_DIR;
    options.plan = plan;
    options.threads = 1;
    options.max_len = 256;
    options.page_size = kPageSize;
    options.num_pages = kPages;
    Forward forward(world, options);
    result.stats[static_cast<size_t>(world.rank())] = forward.stats();
    if (world.rank() == 0) {
      result.words = speak(forward);
      forward.shutdown();
    } else {
      while (forward.follow(std::chrono::milliseconds(500))) {}
    }
  });
  return result;
}

// The plans of `ranks` ranks that the solver finds legal, as it answers when asked to judge each.
std::vector<PlanAnswer> legal_plans(const ModelConfig& config, int ranks) {
  const Fleet cpus = describe_fleet(Catalogue::shipped(), 1, ranks, "cpu", "");
  std::vector<PlanAnswer> plans;
  for (int tp = 1; tp <= ranks; ++tp) {
    for (int pp = 1; pp <= ranks / tp; ++pp) {
      if (ranks % (tp * pp) != 0) continue;
      const int dp = ranks / tp / pp;
      for (int ep = 1; ep <= tp * dp; ++ep) {
        if (tp * dp % ep != 0) continue;
        SolveRequest request;
        request.max_len = 256;
        request.judge = PlanRequest();
        request.judge->world_size = ranks;
        request.judge->tp = tp, request.judge->pp = pp, request.judge->dp = dp, request.judge->ep = ep;
        SolveAnswer answer = solve(config, cpus, request);
        if (answer.feasible) plans.push_back(std::move(answer.plans.at(0)));
      }
    }
  }
  return plans;
}

TEST(SolverOfTheShippedModel, CallsOnlyPlansLegalThatRunAndSayTheSame) {
  const ModelConfig config = ModelConfig::load(DSINFER_MINI_DIR);
  const Words expected = run(legal_plans(config, 1).at(0).plan).words;
  const char* longer = std::getenv("DSINFER_LONG");
  for (const int ranks : {1, 2, 4, 8, 16}) {
    if (ranks > 4 && !longer) break;
    const std::vector<PlanAnswer> plans = legal_plans(config, ranks);
    EXPECT_FALSE(plans.empty()) << ranks;
    std::printf("%d ranks: %zu legal plans\n", ranks, plans.size());
    for (const PlanAnswer& answer : plans) {
      SCOPED_TRACE(answer.plan.spec());
      const Plan plan = Plan::from_json(answer.plan.to_json(), config);  // as --save-plan and --plan FILE pass it on
      const Outcome result = run(plan);
      for (size_t i = 0; i < expected.tokens.size() && expected.gaps[i] >= kTie; ++i) ASSERT_EQ(result.words.tokens.at(i), expected.tokens[i]) << "token " << i;
      int64_t fullest = 0, cache = 0;
      for (int i = 0; i < ranks; ++i) {
        const auto stage = static_cast<size_t>(plan.rank(i).pp_rank);
        const ForwardStats& held = result.stats[static_cast<size_t>(i)];
        if (answer.memory.weights_bytes_by_stage.at(stage) == answer.memory.weights_bytes_max) fullest = std::max(fullest, held.weight_bytes);
        cache = std::max(cache, held.cache_bytes);
      }
      EXPECT_EQ(fullest, answer.memory.weights_bytes_max + answer.memory.absorbed_bytes);
      EXPECT_EQ(cache, answer.memory.cache_bytes_per_token_max * kPages * kPageSize);
    }
  }
}

}  // namespace
}  // namespace dsinfer
