// The plan solver as its user meets it: verdicts of the guides, the plan on top, advice, judging, monotony, nonsense.
#include "dsinfer/solver.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>

#include "checkpoint_writer.hpp"
#include "dsinfer/error.hpp"
#include "effort.hpp"
#include "plan/search.hpp"

namespace dsinfer {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const ModelConfig& v3() {
  static const ModelConfig config = ModelConfig::load(std::string(DSINFER_TEST_DATA) + "/configs/deepseek-v3.json");
  return config;
}

Fleet machines(int nodes, const char* gpu, const char* link, const char* inside = "") { return describe_fleet(Catalogue::shipped(), nodes, 8, gpu, link, inside); }

SolveRequest with(double utilization, std::optional<double> overhead_gb, Precision precision = Precision::fp8, int64_t max_len = 4096) {
  SolveRequest request;
  request.utilization = utilization;
  if (overhead_gb) request.overhead_bytes = *overhead_gb * 1e9;
  request.precision = precision;
  request.max_len = max_len;
  return request;
}

SolveAnswer judged(const Fleet& fleet, SolveRequest request, const std::string& spec) {
  request.judge = PlanRequest::parse(spec, 1);
  request.judge->world_size = 0;
  return solve(v3(), fleet, request);
}

std::string advice_of(const SolveAnswer& answer, const std::string& change) {
  std::string out;
  for (const Advice& a : answer.advice) if (a.change == change) out += a.text + "\n";
  return out;
}

std::string rejected_of(const SolveAnswer& answer, const std::string& rule) {
  std::string out;
  for (const RejectedPlan& r : answer.rejected) if (r.rule == rule) out += r.plan + ": " + r.detail + "\n";
  return out;
}

template <class Call> std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    return std::string(code_name(e.code())) + ": " + e.what();
  }
  return "no error";
}

// ---- the guides --------------------------------------------------------------------------------------------------

struct Verdict {
  const char* name;
  int nodes;
  const char *gpu, *link;
  double utilization;
  Precision precision;
  const char* plan;
  double overhead_gb;
  bool feasible;
  double weights_gb, tokens;  // 0: not stated
  int64_t max_len = 4096;
};

const std::vector<Verdict>& verdicts() {
  using enum Precision;
  static const std::vector<Verdict> all = {
      {"L20 guide", 2, "l20-48g", "roce100x2", 0.8, fp8, "tp=8,pp=2", 2, false, 42.7, 0, 65536},
      {"L20 at 0.95", 2, "l20-48g", "roce100x2", 0.95, fp8, "tp=8,pp=2", 2, false, 42.7, 32.3e3, 65536},
      {"L20 TP16", 2, "l20-48g", "roce100x2", 0.8, fp8, "tp=16", 2, false, 43.1, 0},
      {"L20 int4 TP4xPP4", 2, "l20-48g", "roce100x2", 0.8, int4, "tp=4,pp=4", 2, true, 22.6, 760e3, 65536},
      {"L20 int4 TP2xPP8", 2, "l20-48g", "roce100x2", 0.8, int4, "tp=2,pp=8", 2, true, 24.0, 1.38e6, 65536},
      {"L20 int4 DP8xEP8xPP2", 2, "l20-48g", "roce100x2", 0.8, int4, "dp=8,pp=2", 2, true, 27.5, 264e3, 65536},
      {"L20 3 nodes", 3, "l20-48g", "roce100x2", 0.8, fp8, "tp=8,pp=3", 2, true, 29.1, 327e3, 65536},
      {"H20 one node", 1, "h20-96g", "roce400x8", 0.92, fp8, "tp=8", 4, true, 85.1, 75e3},
      {"H20 TP8xPP2", 2, "h20-96g", "roce400x8", 0.9, fp8, "tp=8,pp=2", 4, true, 42.7, 1.24e6},
      {"H20 TP16", 2, "h20-96g", "roce400x8", 0.9, fp8, "tp=16", 4, true, 43.1, 644e3},
      {"H20 DP16xEP16", 2, "h20-96g", "roce400x8", 0.9, fp8, "dp=16", 5, true, 60.0, 390e3},
      {"H20 DP2xTP8+EP16", 2, "h20-96g", "roce400x8", 0.9, fp8, "dp=2,tp=8", 5, true, 44.3, 613e3},
      {"H100 one node", 1, "h100-80g", "ib400x8", 0.9, fp8, "tp=8", 4, false, 85.1, 0},
      {"H100 TP8xPP2", 2, "h100-80g", "ib400x8", 0.9, fp8, "tp=8,pp=2", 4, true, 42.7, 821e3},
      {"H100 DP16xEP16", 2, "h100-80g", "ib400x8", 0.9, fp8, "dp=16", 5, true, 60.0, 171e3},
      {"A800 TP8xPP4", 4, "a800-80g", "ib200x1", 0.9, bf16, "tp=8,pp=4", 4, true, 43.6, 1.63e6},
      {"A800 DP8xTP4+EP32", 4, "a800-80g", "ib200x1", 0.9, bf16, "dp=8,tp=4", 4.5, true, 51.0, 311e3},
      {"A800 DP32xEP32", 4, "a800-80g", "ib200x1", 0.9, bf16, "dp=32", 4.5, false, 75.1, 0},
      {"A800 TP32", 4, "a800-80g", "ib200x1", 0.9, bf16, "tp=32", 4, true, 43.9, 418e3},
      {"A800 3 nodes", 3, "a800-80g", "ib200x1", 0.9, bf16, "tp=8,pp=3", 4, true, 58.1, 659e3},
      {"A800 2 nodes, FP8 stored", 2, "a800-80g", "ib200x1", 0.9, fp8_bf16, "tp=8,pp=2", 4, true, 42.7, 830e3},
      {"A100-40 TP8xPP8", 8, "a100-40g", "ib200x1", 0.9, bf16, "tp=8,pp=8", 3, true, 23.3, 1.35e6},
      {"A100-40 DP64xEP64", 8, "a100-40g", "ib200x1", 0.9, bf16, "dp=64", 3.5, false, 54.7, 0},
      {"A100-40 5 nodes", 5, "a100-40g", "ib200x1", 0.9, bf16, "tp=8,pp=5", 3, true, 34.9, 56e3},
      {"A100-40 int4", 2, "a100-40g", "ib200x1", 0.9, int4, "tp=8,pp=2", 3, true, 22.3, 361e3},
      {"GCU guide", 4, "gcu-48g", "roce200x1", 0.8, int4, "dp=8,tp=4,ep=32", 3, true, 14.1, 344e3, 2048},
      {"GCU DP32xEP32", 4, "gcu-48g", "roce200x1", 0.8, int4, "dp=32", 3, true, 22.4, 225e3, 2048},
      {"GCU one node", 1, "gcu-48g", "roce200x1", 0.8, int4, "tp=8", 3, false, 44.5, 0, 2048},
  };
  return all;
}

TEST(Solver, GivesEveryVerdictOfTheGuides) {
  for (const Verdict& v : verdicts()) {
    SCOPED_TRACE(v.name);
    const SolveAnswer answer = judged(machines(v.nodes, v.gpu, v.link), with(v.utilization, v.overhead_gb, v.precision, v.max_len), v.plan);
    ASSERT_EQ(answer.plans.size(), 1u);
    const PlanAnswer& plan = answer.plans.front();
    EXPECT_EQ(answer.feasible, v.feasible);
    EXPECT_EQ(plan.feasible, v.feasible);
    EXPECT_NEAR(static_cast<double>(plan.memory.weights_bytes_max) / 1e9, v.weights_gb, 0.005 * v.weights_gb);
    if (v.tokens > 0) {
      EXPECT_NEAR(static_cast<double>(plan.memory.kv_tokens_per_dp_rank), v.tokens, 0.012 * v.tokens);
    }
    EXPECT_EQ(answer.rejected.size(), v.feasible ? 0u : 1u);
    if (!v.feasible) {
      EXPECT_EQ(answer.rejected.front().rule, "memory");
      EXPECT_FALSE(answer.advice.empty());
    }
    // Our own sum of the overhead beside it.
    const Fleet fleet = machines(v.nodes, v.gpu, v.link);
    const SolveRequest request = settled(v3(), fleet, with(v.utilization, std::nullopt, v.precision, v.max_len));
    const Question q = question_of(v3(), fleet, request);
    PlanRequest given = PlanRequest::parse(v.plan, 1);
    given.world_size = 0;
    const MemoryTable own = weigh(q, given_shape(q, given).shape).memory;
    EXPECT_GT(own.overhead_bytes, 1'000'000'000);
    EXPECT_LT(own.overhead_bytes, 8'000'000'000);
  }
}

TEST(Solver, PutsWideExpertParallelismOnTopForThroughputOnH20AndH100) {
  for (const auto& [gpu, link] : {std::pair{"h20-96g", "roce400x8"}, std::pair{"h100-80g", "ib400x8"}}) {
    const SolveAnswer answer = solve(v3(), machines(2, gpu, link), {});
    ASSERT_TRUE(answer.feasible);
    EXPECT_EQ(answer.plans.front().plan.spec(), "tp=1,pp=1,dp=16,ep=16") << gpu;
    EXPECT_THAT(answer.text(), HasSubstr("Run tp=1,pp=1,dp=16,ep=16 on 2 × 8 " + std::string(gpu)));
  }
}

TEST(Solver, KeepsTensorParallelInsideOneNodeBehindSlowLinks) {
  for (const int64_t users : {1, 8, 16}) {
    SolveRequest request = with(0.9, std::nullopt, Precision::bf16);
    request.workload.concurrency = users;
    const SolveAnswer answer = solve(v3(), machines(4, "a800-80g", "ib200x1"), request);
    EXPECT_EQ(answer.plans.front().plan.tp, 8) << users;
    EXPECT_EQ(answer.plans.front().plan.pp, 4) << users;
  }
  const SolveAnswer many = solve(v3(), machines(4, "a800-80g", "ib200x1"), with(0.9, std::nullopt, Precision::bf16));
  EXPECT_EQ(many.plans.front().plan.pp, 4) << "only hops of the pipeline leave a node";
  EXPECT_LE(many.plans.front().plan.tp * many.plans.front().plan.dp, 8);
}

// The right answer for each guide's cluster, to the question that its text asks. Where many users are meant, no load is named; where one reads of batch 1,
// of few users or of a limit, that is the question.
struct RightAnswer {
  const char* name;
  int nodes;
  const char *gpu, *link;
  Precision precision;
  int64_t users;   // 0: as many as fit
  double tpot_ms;  // 0: no limit
  int tp, pp, dp;  // of each replica; 0: any
};

class RightAnswerTest : public testing::TestWithParam<RightAnswer> {};

TEST_P(RightAnswerTest, IsOnTop) {
  const RightAnswer& want = GetParam();
  SolveRequest request = with(0.9, std::nullopt, want.precision);
  request.workload.concurrency = want.users;
  if (want.tpot_ms > 0) request.tpot_ms = want.tpot_ms;
  const SolveAnswer answer = solve(v3(), machines(want.nodes, want.gpu, want.link), request);
  ASSERT_TRUE(answer.feasible);
  const Plan& plan = answer.plans.front().plan;
  SCOPED_TRACE(plan.spec());
  EXPECT_TRUE(answer.plans.front().meets_limits);
  if (want.tp) {
    EXPECT_EQ(plan.tp, want.tp);
  }
  if (want.pp) {
    EXPECT_EQ(plan.pp, want.pp);
  }
  if (want.dp) {
    EXPECT_EQ(plan.dp, want.dp);
  }
}

INSTANTIATE_TEST_SUITE_P(Guides, RightAnswerTest,
                         testing::Values(RightAnswer{"H20ForThroughput", 2, "h20-96g", "roce400x8", Precision::fp8, 0, 0, 1, 1, 16},
                                         RightAnswer{"H20ForFewUsers", 2, "h20-96g", "erdma", Precision::fp8, 8, 0, 8, 0, 1},  // TP8 with pp 2, or in two replicas where a node holds it
                                         RightAnswer{"H100ForThroughput", 2, "h100-80g", "ib400x8", Precision::fp8, 0, 0, 1, 1, 16},
                                         RightAnswer{"H100Within20Milliseconds", 2, "h100-80g", "ib400x8", Precision::fp8, 0, 20, 8, 2, 1},
                                         RightAnswer{"A800ForFewUsers", 4, "a800-80g", "ib200x1", Precision::bf16, 8, 0, 8, 4, 1},
                                         RightAnswer{"A800ForManyUsersKeepsTheStagesOnNodes", 4, "a800-80g", "ib200x1", Precision::bf16, 0, 0, 0, 4, 0},
                                         RightAnswer{"A100ForFewUsers", 8, "a100-40g", "ib200x1", Precision::bf16, 8, 0, 8, 8, 1},
                                         RightAnswer{"A100ForManyUsersKeepsTheStagesOnNodes", 8, "a100-40g", "ib200x1", Precision::bf16, 0, 0, 0, 8, 0},
                                         RightAnswer{"L20InInt4CutsLittleAndPipelines", 2, "l20-48g", "roce100x2", Precision::int4, 8, 0, 4, 4, 1},
                                         RightAnswer{"GcuWithHealthyNetwork", 4, "gcu-48g", "roce200x8", Precision::int4, 0, 100, 1, 1, 32}),
                         [](const auto& tested) { return std::string(tested.param.name); });

TEST(Solver, NamesThePlanForFewUsersBesideTheOneForMany) {
  EXPECT_THAT(advice_of(solve(v3(), machines(4, "a800-80g", "ib200x1"), with(0.9, std::nullopt, Precision::bf16)), "concurrency"), AllOf(HasSubstr("for 8 at a time tp=8,pp=4"), HasSubstr("ms a token")));
  EXPECT_THAT(advice_of(solve(v3(), machines(2, "h20-96g", "roce400x8"), {}), "concurrency"), HasSubstr("for 8 at a time tp=8"));
}

TEST(Solver, PrefersDataParallelAttentionForTheGcuGuide) {
  SolveRequest request = with(0.8, 3, Precision::int4, 2048);
  const Fleet fleet = machines(4, "gcu-48g", "roce200x8");
  const SolveAnswer guide = judged(fleet, request, "dp=8,tp=4,ep=32");
  ASSERT_TRUE(guide.feasible);
  EXPECT_THAT(advice_of(guide, "max_len"), HasSubstr("max_len 2048 is far below what memory allows: 34"));
  const SolveAnswer other = judged(fleet, request, "dp=32");
  EXPECT_GT(other.plans.front().predicted.tokens_per_s.value, guide.plans.front().predicted.tokens_per_s.value);
}

TEST(Solver, OffersWhatTheL20GuideCouldHaveDone) {
  const SolveAnswer answer = solve(v3(), machines(2, "l20-48g", "roce100x2"), with(0.8, 2, Precision::fp8, 65536));
  EXPECT_FALSE(answer.feasible);
  ASSERT_FALSE(answer.plans.empty());
  EXPECT_FALSE(answer.plans.front().feasible);
  EXPECT_EQ(answer.plans.front().plan.spec(), "tp=8,pp=2,dp=1,ep=1");  // the lightest of 16 ranks
  EXPECT_THAT(advice_of(answer, "precision"), HasSubstr("int4"));
  EXPECT_THAT(advice_of(answer, "nodes"), HasSubstr("with 3 nodes in place of 2"));
  EXPECT_THAT(advice_of(answer, "max_len"), AllOf(HasSubstr("utilization 0.95"), HasSubstr("max_len of at most")));
  EXPECT_THAT(rejected_of(answer, "memory"), AllOf(HasSubstr("tp=16,pp=1"), HasSubstr("tp=1,pp=16"), HasSubstr("dp=16")));
  EXPECT_THAT(answer.text(), AllOf(HasSubstr("Not feasible on 2 × 8 l20-48g"), HasSubstr("42.7 GB"), HasSubstr("38.6 GB")));
}

TEST(Solver, SaysThatTheFourthA800NodeIsOptional) {
  const SolveAnswer answer = solve(v3(), machines(4, "a800-80g", "ib200x1"), with(0.9, 4, Precision::bf16));
  EXPECT_THAT(advice_of(answer, "nodes"), HasSubstr("fits on 3 of the 4 nodes"));
  EXPECT_THAT(advice_of(answer, "precision"), HasSubstr("fp8_bf16"));
  EXPECT_THAT(rejected_of(answer, "memory"), HasSubstr("tp=1,pp=1,dp=32"));
}

TEST(Solver, RefusesTensorParallelismOf32InFp8WithItsNumbers) {
  const SolveAnswer answer = solve(v3(), machines(4, "h100-80g", "ib400x8"), {});
  EXPECT_THAT(rejected_of(answer, "fp8-block"), AllOf(HasSubstr("tp=32"), HasSubstr("576"), HasSubstr("128")));
  EXPECT_FALSE(rejected_of(answer, "dominated").empty());
}

// ---- judging -----------------------------------------------------------------------------------------------------

TEST(SolverJudge, TakesWhatIsLeftOutAsOneAndSpreadsExpertsOverAllRanks) {
  const SolveAnswer answer = judged(machines(2, "h20-96g", "roce400x8"), {}, "tp=8,pp=2");
  const Plan& plan = answer.plans.front().plan;
  EXPECT_EQ(plan.spec(), "tp=8,pp=2,dp=1,ep=8");
  EXPECT_EQ(plan.moe_tp, 1);
  EXPECT_EQ(plan.stage_begin, (std::vector<int64_t>{0, 32, 61}));
  const SolveAnswer cut = judged(machines(2, "h20-96g", "roce400x8"), {}, "tp=8,pp=2,layers=31+30");
  EXPECT_EQ(cut.plans.front().plan.stage_begin, (std::vector<int64_t>{0, 31, 61}));
  EXPECT_NEAR(static_cast<double>(cut.plans.front().memory.weights_bytes_max) / 1e9, 43.9, 0.2);
}

TEST(SolverJudge, NamesTheRuleThatAPlanBreaks) {
  const Fleet fleet = machines(4, "h100-80g", "ib400x8");
  const auto refused = [&](const char* spec) {
    const SolveAnswer answer = judged(fleet, {}, spec);
    EXPECT_FALSE(answer.feasible) << spec;
    EXPECT_TRUE(answer.plans.empty()) << spec;
    return answer.rejected.empty() ? std::string("nothing") : answer.rejected.front().rule + ": " + answer.rejected.front().detail;
  };
  EXPECT_THAT(refused("tp=32"), AllOf(HasSubstr("fp8-block"), HasSubstr("576")));
  EXPECT_THAT(refused("tp=3"), HasSubstr("3"));
  EXPECT_THAT(refused("tp=8,pp=8"), AllOf(HasSubstr("ranks"), HasSubstr("64"), HasSubstr("32 GPUs")));
  EXPECT_THAT(refused("tp=2000000000,pp=2000000000,dp=2000000000"), HasSubstr("ranks"));
  EXPECT_THAT(refused("tp=8,dp=2,ep=3"), HasSubstr("ep=3"));
  EXPECT_THAT(refused("tp=8,pp=2,layers=30+30"), AllOf(HasSubstr("60"), HasSubstr("61")));
  EXPECT_THAT(refused("tp=8,pp=2,layers=61"), HasSubstr("stages"));
  EXPECT_THAT(refused("tp=8,pp=2,micro_batches=2000"), HasSubstr("1024"));
}

TEST(SolverJudge, ComparesWithTheBestPlan) {
  const SolveAnswer answer = judged(machines(2, "l20-48g", "roce100x2"), with(0.9, std::nullopt, Precision::int4), "tp=16");
  ASSERT_TRUE(answer.feasible);
  EXPECT_THAT(advice_of(answer, "plan"), HasSubstr("delivers"));
}

// ---- outright refusals and nonsense ------------------------------------------------------------------------------

TEST(Solver, RefusesFp8ArithmeticOnGpusWithoutItsUnits) {
  const SolveAnswer answer = solve(v3(), machines(4, "a800-80g", "ib200x1"), with(0.9, std::nullopt, Precision::fp8));
  EXPECT_FALSE(answer.feasible);
  EXPECT_FALSE(rejected_of(answer, "precision").empty());
  EXPECT_THAT(advice_of(answer, "precision"), HasSubstr("fp8_bf16"));
}

TEST(Solver, RefusesUtilizationAbove095) {
  const SolveAnswer answer = solve(v3(), machines(2, "h20-96g", "roce400x8"), with(0.98, std::nullopt));
  EXPECT_FALSE(answer.feasible);
  EXPECT_THAT(rejected_of(answer, "utilization"), AllOf(HasSubstr("2.05 GB"), HasSubstr("0.95")));
  EXPECT_THAT(advice_of(answer, "utilization"), HasSubstr("fits"));
}

TEST(Solver, NamesTheFieldThatMakesNoSense) {
  const Fleet fleet = machines(2, "h20-96g", "roce400x8");
  const auto error = [&](const std::function<void(SolveRequest&)>& spoil) {
    SolveRequest request;
    spoil(request);
    return error_of([&] { solve(v3(), fleet, request); });
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(error([](SolveRequest& r) { r.workload.input_len = -1; }), HasSubstr("invalid_argument: input_len is -1"));
  EXPECT_THAT(error([](SolveRequest& r) { r.workload.output_len = 0; }), HasSubstr("output_len"));
  EXPECT_THAT(error([](SolveRequest& r) { r.workload.concurrency = -5; }), HasSubstr("concurrency"));
  EXPECT_THAT(error([&](SolveRequest& r) { r.workload.rate = nan; }), HasSubstr("rate"));
  EXPECT_THAT(error([&](SolveRequest& r) { r.workload.prefix_hit = 2; }), HasSubstr("prefix_hit"));
  EXPECT_THAT(error([&](SolveRequest& r) { r.utilization = nan; }), HasSubstr("utilization"));
  EXPECT_THAT(error([&](SolveRequest& r) { r.utilization = 1.5; }), HasSubstr("utilization"));
  EXPECT_THAT(error([](SolveRequest& r) { r.max_len = int64_t{1} << 62; }), HasSubstr("max_len"));
  EXPECT_THAT(error([](SolveRequest& r) { r.overhead_bytes = -1; }), HasSubstr("overhead_bytes"));
  EXPECT_THAT(error([](SolveRequest& r) { r.tpot_ms = 0; }), HasSubstr("tpot_ms"));
  EXPECT_THAT(error([](SolveRequest& r) { r.redundant_experts = -1; }), HasSubstr("redundant_experts"));
  EXPECT_THAT(error([](SolveRequest& r) { r.top = 0; }), HasSubstr("top"));
  EXPECT_THAT(error([](SolveRequest& r) { r.draft_acceptance = 1; }), HasSubstr("draft_acceptance"));
  EXPECT_THAT(error_of([] { machines(1'000'000'000, "h20-96g", "roce400x8"); }), AllOf(HasSubstr("nodes"), HasSubstr("1000000000")));
  EXPECT_THAT(error_of([] { machines(2, "h21", "roce400x8"); }), AllOf(HasSubstr("h21"), HasSubstr("h20-96g")));
  Fleet broken = fleet;
  broken.nodes = -2;
  EXPECT_THAT(error_of([&] { solve(v3(), broken, {}); }), HasSubstr("nodes"));
  broken = fleet;
  broken.gpu.memory_bytes = -1;
  EXPECT_THAT(error_of([&] { solve(v3(), broken, {}); }), HasSubstr("memory_bytes"));
  EXPECT_THAT(error_of([&] { nodes_for_rate(v3(), fleet, {}); }), HasSubstr("rate"));
  EXPECT_THAT(error_of([] { parse_precision("fp4"); }), AllOf(HasSubstr("fp4"), HasSubstr("fp8_bf16")));
}

// ---- the search --------------------------------------------------------------------------------------------------

int64_t count_of(Precision precision, int64_t ranks) {
  const Fleet fleet = machines(static_cast<int>((ranks + 7) / 8), "h100-80g", "ib400x8");
  const SolveRequest request = settled(v3(), fleet, with(0.9, 4, precision));
  return static_cast<int64_t>(legal_units(question_of(v3(), fleet, request), ranks, ranks).size());
}

TEST(SolverSearch, FindsAsManyLegalPlansAsThereAre) {
  EXPECT_EQ(count_of(Precision::fp8, 8), 30);
  EXPECT_EQ(count_of(Precision::fp8, 16), 55);
  EXPECT_EQ(count_of(Precision::fp8, 32), 80);
  EXPECT_EQ(count_of(Precision::bf16, 32), 91);
  EXPECT_EQ(count_of(Precision::bf16, 64), 139);
}

// All degrees up to `most`, without structure.
TEST(SolverSearch, MissesNothingThatTheRulesAllow) {
  const Fleet fleet = machines(2, "h100-80g", "ib400x8");
  const SolveRequest request = settled(v3(), fleet, {});
  const Question q = question_of(v3(), fleet, request);
  std::set<std::string> expected, found;
  for (int64_t tp = 1; tp <= 16; ++tp)
    for (int64_t pp = 1; pp <= 16 / tp; ++pp)
      for (int64_t dp = 1; dp <= 16 / tp / pp; ++dp)
        for (int64_t ep = 1; ep <= tp * dp; ++ep) {
          Shape shape;
          shape.tp = tp, shape.pp = pp, shape.dp = dp, shape.ep = ep;
          if (tp * dp % ep == 0 && !refuse(v3(), q.precisions, shape)) expected.insert(shape.spec());
        }
  for (const Shape& shape : legal_units(q, 16)) EXPECT_TRUE(found.insert(shape.spec()).second);
  EXPECT_EQ(found, expected);
}

std::string list_of(const std::vector<Candidate>& candidates) {
  std::string out;
  for (const Candidate& c : candidates) {
    out += c.shape.spec() + " layers";
    for (const int64_t layers : c.shape.stage_layers) out += " " + std::to_string(layers);
    out += " batch " + std::to_string(c.predicted.batch_per_dp_rank) + " " + std::to_string(c.predicted.tokens_per_s.value) + " " + std::to_string(c.predicted.tpot_ms.value) + "\n";
  }
  return out;
}

TEST(SolverSearch, PrunedIsTheSameAsBruteForce) {
  std::mt19937 random(7);
  const auto pick = [&](auto... choices) { const std::vector all{choices...}; return all[random() % all.size()]; };
  for (int round = 0; round < 6; ++round) {
    const int nodes = pick(1, 2, 3, 4);
    const Fleet fleet = describe_fleet(Catalogue::shipped(), nodes, pick(4, 8), pick("h100-80g", "h20-96g", "h200-141g", "b200-180g"), pick("ib400x8", "roce200x1"));
    SolveRequest request;
    if (round % 2) request.tpot_ms = pick(15.0, 40.0, 100.0);
    if (round % 3 == 0) request.workload.concurrency = pick(1, 16, 300);
    request.workload.input_len = pick(128, 2048, 9000);
    request.objective = round == 4 ? Objective::latency : Objective::throughput;
    const SolveRequest fixed = settled(v3(), fleet, request);
    const Question q = question_of(v3(), fleet, fixed);
    const Found pruned = search_plans(q, 3, true, true), brute = search_plans(q, 3, true, false);
    EXPECT_EQ(list_of(pruned.best), list_of(brute.best)) << round;
    EXPECT_EQ(list_of(pruned.pareto), list_of(brute.pareto)) << round;
    EXPECT_EQ(pruned.fitting, brute.fitting);
  }
}

TEST(SolverSearch, IsDeterministic) {
  const Fleet fleet = machines(2, "h20-96g", "roce400x8");
  EXPECT_EQ(solve(v3(), fleet, {}).to_json(), solve(v3(), fleet, {}).to_json());
}

TEST(SolverSearch, ParetoFrontFallsAndHasEightPointsAtMost) {
  const SolveAnswer answer = solve(v3(), machines(2, "h100-80g", "ib400x8"), {});
  ASSERT_GE(answer.pareto.size(), 3u);
  EXPECT_LE(answer.pareto.size(), 8u);
  for (size_t i = 1; i < answer.pareto.size(); ++i) {
    EXPECT_LT(answer.pareto[i].predicted.tokens_per_s.value, answer.pareto[i - 1].predicted.tokens_per_s.value);
    EXPECT_LT(answer.pareto[i].predicted.tpot_ms.value, answer.pareto[i - 1].predicted.tpot_ms.value);
  }
}

TEST(SolverSearch, LeavesGpusIdleOnlyWhereThatWinsAndSaysSo) {
  const SolveAnswer answer = solve(v3(), describe_fleet(Catalogue::shipped(), 1, 7, "b200-180g", "ib400x8"), {});
  ASSERT_TRUE(answer.feasible);
  const Plan& plan = answer.plans.front().plan;
  if (plan.world_size < 7) {
    EXPECT_THAT(answer.plans.front().why, HasSubstr("idle"));
  }
  EXPECT_EQ(plan.world_size, plan.ranks_per_replica() * plan.replicas);
}

// ---- monotony ----------------------------------------------------------------------------------------------------

struct Drawn { Fleet fleet; SolveRequest request; ModelConfig config; };

Drawn draw(std::mt19937& random) {
  const auto pick = [&](auto... choices) { const std::vector all{choices...}; return all[random() % all.size()]; };
  Drawn d{describe_fleet(Catalogue::shipped(), pick(1, 2, 4), pick(2, 4, 8), pick("h100-80g", "h20-96g", "a800-80g", "l20-48g", "h200-141g"), pick("ib400x8", "roce200x1", "erdma")), {}, v3()};
  d.config.num_hidden_layers = pick(8, 20, 61);
  d.request.precision = d.fleet.gpu.fp8_units ? pick(Precision::fp8, Precision::bf16, Precision::int4) : pick(Precision::fp8_bf16, Precision::bf16);
  d.request.workload.input_len = pick(64, 1000, 6000);
  d.request.workload.concurrency = pick(0, 0, 1, 64);
  d.request.max_len = pick(2048, 16384);
  d.request.top = 1;
  return d;
}

double best_rate(const Drawn& d) {
  const SolveAnswer answer = solve(d.config, d.fleet, d.request);
  return answer.feasible ? answer.plans.front().predicted.tokens_per_s.value : 0;
}

TEST(SolverFuzz, MoreBandwidthNeverSlowsTheBestPlan) {
  std::mt19937 random(11);
  for (int round = 0; round < test::rounds(25); ++round) {
    const Drawn d = draw(random);
    const double before = best_rate(d);
    for (const int which : {0, 1, 2}) {
      Drawn faster = d;
      (which == 0 ? faster.fleet.gpu.memory_gb_per_s : which == 1 ? faster.fleet.between.gb_per_s : faster.fleet.inside.gb_per_s) *= 1.7;
      EXPECT_GE(best_rate(faster), before * (1 - 1e-9)) << round << " bandwidth " << which << " " << d.fleet.gpu.id << " " << d.fleet.nodes << "x" << d.fleet.gpus_per_node;
    }
  }
}

TEST(SolverFuzz, MoreMemoryNeverMakesItInfeasibleNorSlower) {
  std::mt19937 random(13);
  for (int round = 0; round < test::rounds(25); ++round) {
    Drawn d = draw(random);
    const double before = best_rate(d);
    d.fleet.gpu.memory_bytes += d.fleet.gpu.memory_bytes / 3;
    EXPECT_GE(best_rate(d), before * (1 - 1e-9)) << round;
  }
}

TEST(SolverFuzz, ASmallerModelNeverNeedsMore) {
  std::mt19937 random(17);
  for (int round = 0; round < test::rounds(25); ++round) {
    Drawn d = draw(random);
    const SolveAnswer before = solve(d.config, d.fleet, d.request);
    if (round % 2) d.config.num_hidden_layers -= 4;
    else d.config.moe_intermediate_size /= 2;
    const SolveAnswer after = solve(d.config, d.fleet, d.request);
    if (before.feasible) {
      EXPECT_TRUE(after.feasible) << round;
    }
  }
}

TEST(SolverFuzz, AnswersAreWellFormedWhateverIsAsked) {
  std::mt19937 random(19);
  for (int round = 0; round < test::rounds(12); ++round) {
    Drawn d = draw(random);
    d.request.ttft_ms = 100 + static_cast<double>(random() % 3000);
    const SolveAnswer answer = solve(d.config, d.fleet, d.request);
    const json parsed = json::parse(answer.to_json());
    EXPECT_EQ(parsed["feasible"], answer.feasible);
    for (const PlanAnswer& plan : answer.plans) {
      EXPECT_EQ(Plan::from_json(plan.plan.to_json(), plan.plan.config), plan.plan);
      EXPECT_EQ(static_cast<int>(plan.rank_map.size()), plan.plan.world_size);
      EXPECT_EQ(std::set(plan.rank_map.begin(), plan.rank_map.end()).size(), plan.rank_map.size());
      if (plan.feasible) {
        EXPECT_GE(plan.memory.kv_tokens_per_dp_rank, d.request.max_len);
      }
    }
  }
}

// ---- ranks on GPUs -----------------------------------------------------------------------------------------------

TEST(SolverRankMap, PutsTensorParallelGroupsInsideIslands) {
  Fleet fleet = describe_fleet(Catalogue::shipped(), 2, 8, "a800-80g", "ib200x1");
  // NVLink pairs that the driver numbers apart: 0-4, 1-5, 2-6, 3-7.
  for (size_t i = 0; i < fleet.gpus.size(); ++i) fleet.gpus[i].island = static_cast<int>(i % 4);
  Shape shape;
  shape.tp = 2, shape.pp = 2, shape.dp = 4;
  const std::vector<int> map = map_ranks(fleet, shape);
  for (size_t rank = 0; rank < map.size(); rank += 2) {
    const FleetGpu &a = fleet.gpus[static_cast<size_t>(map[rank])], &b = fleet.gpus[static_cast<size_t>(map[rank + 1])];
    EXPECT_EQ(a.node, b.node);
    EXPECT_EQ(a.island, b.island);
  }
  for (size_t rank = 0; rank < 8; ++rank) EXPECT_EQ(fleet.gpus[static_cast<size_t>(map[rank])].node, 0) << "a stage stays on its node";
}

TEST(SolverRankMap, SkipsSpareGpusRatherThanStraddleNodes) {
  Shape shape;
  shape.tp = 3, shape.replicas = 4;  // 12 of 16
  const Fleet fleet = describe_fleet(Catalogue::shipped(), 2, 8, "h100-80g", "ib400x8");
  const std::vector<int> map = map_ranks(fleet, shape);
  for (size_t rank = 0; rank < map.size(); rank += 3)
    EXPECT_EQ(fleet.gpus[static_cast<size_t>(map[rank])].node, fleet.gpus[static_cast<size_t>(map[rank + 2])].node);
}

// ---- more than one plan's worth ----------------------------------------------------------------------------------

TEST(SolverNodes, AreTheFewestThatSustainTheRate) {
  SolveRequest request;
  request.workload.rate = 60;
  request.tpot_ms = 80;
  const Fleet one = machines(1, "h100-80g", "ib400x8");
  const SolveAnswer answer = nodes_for_rate(v3(), one, request, 64);
  ASSERT_TRUE(answer.feasible);
  EXPECT_TRUE(answer.plans.front().meets_limits);
  EXPECT_GE(answer.plans.front().predicted.requests_per_s, 60);
  EXPECT_THAT(advice_of(answer, "nodes"), HasSubstr("sustain 60.00 requests/s"));
  const SolveAnswer fewer = solve(v3(), machines(answer.fleet.nodes - 1, "h100-80g", "ib400x8"), request);
  EXPECT_TRUE(!fewer.feasible || !fewer.plans.front().meets_limits);
}

TEST(SolverRoles, SplitPrefillFromDecodeWhereThatServesMore) {
  bool split = false;
  for (const double tpot : {15.0, 30.0, 60.0}) {
    SolveRequest request;
    request.split_roles = true;
    request.tpot_ms = tpot;
    request.workload.input_len = 4000, request.workload.output_len = 400;
    const SolveAnswer answer = solve(v3(), machines(6, "h100-80g", "ib400x8"), request);
    ASSERT_TRUE(answer.feasible);
    if (!answer.roles) continue;
    split = true;
    EXPECT_TRUE(answer.roles->requests_per_s > answer.plans.front().predicted.requests_per_s || !answer.plans.front().meets_limits);
    EXPECT_LE(answer.roles->prefill.plan.world_size + answer.roles->decode.plan.world_size, 48);
    EXPECT_LE(answer.roles->decode.predicted.tpot_ms.value, tpot);
    EXPECT_THAT(answer.text(), HasSubstr("Prefill and decode apart"));
  }
  EXPECT_TRUE(split) << "strict times for a token are where roles pay";
}

TEST(SolverAnswer, HasTheKeysThatProgramsRead) {
  const SolveAnswer answer = solve(v3(), machines(2, "h20-96g", "roce400x8"), {});
  const json j = json::parse(answer.to_json());
  EXPECT_TRUE(j["feasible"]);
  for (const json& plan : j["plans"]) {
    for (const char* key : {"tp", "pp", "dp", "ep", "moe_tp", "replicas", "stages", "memory", "predicted", "rank_map", "plan", "why"}) EXPECT_TRUE(plan.contains(key)) << key;
    for (const char* key : {"weights_bytes_max", "kv_tokens_per_dp_rank", "budget_bytes", "overhead_bytes", "room_bytes"}) EXPECT_TRUE(plan["memory"].contains(key)) << key;
    for (const char* key : {"ttft_ms", "tpot_ms", "tokens_per_s", "tokens_per_s_per_gpu", "parts", "confidence", "bottleneck"}) EXPECT_TRUE(plan["predicted"].contains(key)) << key;
    EXPECT_EQ(Plan::from_json(plan["plan"].dump(), v3()).world_size, 16);
  }
  for (const json& rejected : j["rejected"]) for (const char* key : {"plan", "rule", "detail"}) EXPECT_TRUE(rejected[key].is_string());
  EXPECT_TRUE(j["environment"].is_object());
}

TEST(SolverAnswer, StandsOnWhatWasMeasuredHereWhereThatIsGiven) {
  const auto file = std::filesystem::temp_directory_path() / "dsinfer-solver-test-curves.json";
  std::ofstream(file) << R"({"format": "dsinfer-curves-1", "families": {"hopper": {
    "covers": {"gpus": ["h20-96g"], "precisions": ["fp8"], "transports": ["nvlink", "roce"], "max_batch": 4096, "max_context": 65536, "max_nodes": 8, "mark": "measured", "source": "here"},
    "weight_stream": {"value": 0.4, "mark": "measured", "source": "here"}, "expert_stream": {"value": 0.4, "mark": "measured", "source": "here"}}}})";
  Fleet fleet = machines(2, "h20-96g", "roce400x8");
  SolveRequest request;
  request.workload.concurrency = 4;
  const SolveAnswer before = judged(fleet, request, "tp=8,pp=2");
  fleet.curves = load_curves(file);
  std::filesystem::remove(file);
  const SolveAnswer after = judged(fleet, request, "tp=8,pp=2");
  EXPECT_EQ(before.plans.front().predicted.tpot_ms.confidence, Confidence::specification);
  EXPECT_EQ(after.plans.front().predicted.tpot_ms.confidence, Confidence::measured);
  EXPECT_GT(after.plans.front().predicted.tpot_ms.value, 1.2 * before.plans.front().predicted.tpot_ms.value);
  EXPECT_EQ(json::parse(after.to_json())["plans"][0]["predicted"]["confidence"]["tpot_ms"], "measured");
}

TEST(SolverAnswer, StaysShortWhereTheBudgetIsNothing) {
  SolveRequest request = with(1e-9, std::nullopt);
  const SolveAnswer answer = judged(machines(2, "h20-96g", "roce400x8"), request, "tp=8,pp=2");
  EXPECT_FALSE(answer.feasible);
  EXPECT_LT(answer.text().size(), 10000u);
}

TEST(SolverAnswer, TextStaysWithinAHundredColumns) {
  for (const SolveAnswer& answer : {solve(v3(), machines(2, "h20-96g", "roce400x8"), {}), solve(v3(), machines(2, "l20-48g", "roce100x2"), {})}) {
    std::istringstream lines(answer.text());
    for (std::string line; std::getline(lines, line);)
      EXPECT_LE(std::count_if(line.begin(), line.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }), 100) << line;
  }
}

TEST(SolverAnswer, PictureIsSelfContainedAndEscaped) {
  Fleet fleet = machines(2, "h20-96g", "roce400x8");
  fleet.gpu.id = "<h20> & \"co\"";
  const std::string svg = solve(v3(), fleet, {}).svg();
  EXPECT_THAT(svg, AllOf(HasSubstr("&lt;h20&gt; &amp; &quot;co&quot;"), Not(HasSubstr("<h20>")), HasSubstr("</svg>"), Not(HasSubstr("href"))));
}

TEST(SolverAnswer, PassesTheEnvironmentOfTheNetworkOnWithItsReasons) {
  Fleet fleet = machines(2, "h20-96g", "roce400x8");
  fleet.environment = {{"NCCL_SOCKET_IFNAME", "eth0"}, {"ODD", "it's"}};
  fleet.environment_reasons = {{"NCCL_SOCKET_IFNAME", "the route to the other nodes leaves through it"}};
  const SolveAnswer answer = judged(fleet, {}, "tp=8,pp=2");
  EXPECT_THAT(answer.text(), AllOf(HasSubstr("  # the route to the other nodes leaves through it\n  export NCCL_SOCKET_IFNAME='eth0'"), HasSubstr("export ODD='it'\\''s'")));
  const json j = json::parse(answer.to_json());
  EXPECT_EQ(j["environment"]["NCCL_SOCKET_IFNAME"], "eth0");
  EXPECT_EQ(j["environment_reasons"]["NCCL_SOCKET_IFNAME"], "the route to the other nodes leaves through it");
}

}  // namespace
}  // namespace dsinfer
