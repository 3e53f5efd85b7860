// Every plan gives the same answer, and every plan really splits: the legal tp × pp × dp × ep of a 16-expert model on 1, 2, 4, 8 and 16 ranks.
// All of them in a plain build, or with DSINFER_LONG=1 in the environment; under a sanitizer those that cover each degree and each pair of degrees.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "effort.hpp"
#include "plan_scenario.hpp"
#include "ranks.hpp"

namespace dsinfer {
namespace {

using namespace test;

// Split against whole, in float32 (8 layers; sums over ranks take another order than sums within one).
constexpr double kRelativeL2 = 3e-6, kMaxOverRms = 3e-5;
// Twenty times the largest deviation: where the two best logits are closer than this, a token would prove nothing.
constexpr float kClearGap = 1e-3f;

struct JobResult {
  ScenarioResult leader;
  std::vector<ForwardStats> stats;
};

JobResult run_as_threads(const ScenarioOptions& scenario, const Plan& plan) {
  JobResult job;
  job.stats.resize(static_cast<size_t>(plan.world_size));
  on_threads(plan.world_size, [&](World& world) {
    world.set_stall_timeout(60s);
    ScenarioResult seen = take_part(world, scenario, plan, &job.stats[static_cast<size_t>(world.rank())]);
    if (world.rank() == 0) job.leader = std::move(seen);
  });
  return job;
}

// Bytes of one rank by hand, from the model's dimensions and the rank's ranges: BF16 matrices, F32 vectors, F32 absorbed copies of kv_b.
int64_t weight_bytes_by_hand(const ModelConfig& c, const RankPlan& r) {
  const int64_t h = c.hidden_size, heads = r.heads.size(), rkv = c.kv_lora_rank;
  int64_t matrices = 0, vectors = 0;
  if (r.first_stage) matrices += r.vocab.size() * h;
  if (r.last_stage) matrices += r.vocab.size() * h, vectors += h;
  for (int64_t i = r.layers.begin; i < r.layers.end; ++i) {
    matrices += c.q_lora_rank * h + heads * c.qk_head_dim() * c.q_lora_rank + c.cache_dim() * h;
    matrices += heads * (c.qk_nope_head_dim + c.v_head_dim) * rkv + h * heads * c.v_head_dim;
    vectors += 2 * h + c.q_lora_rank + rkv + heads * (c.qk_nope_head_dim + c.v_head_dim) * rkv;
    if (c.is_moe(i)) {
      matrices += c.n_routed_experts * h + 3 * h * (r.experts.size() * r.moe_inter.size() + r.shared_inter.size());
      vectors += c.n_routed_experts;
    } else {
      matrices += 3 * h * r.dense_inter.size();
    }
  }
  return 2 * matrices + 4 * vectors;
}

void check_stats(const ScenarioOptions& scenario, const Plan& plan, const JobResult& job) {
  uint64_t sent = 0, received = 0, computed = 0;
  for (int rank = 0; rank < plan.world_size; ++rank) {
    const ForwardStats& stats = job.stats[static_cast<size_t>(rank)];
    const RankPlan part = plan.rank(rank);
    EXPECT_EQ(stats.weight_bytes, weight_bytes_by_hand(plan.config, part)) << "rank " << rank;
    EXPECT_EQ(stats.cache_bytes, part.layers.size() * plan.config.cache_dim() * 4 * 4 * 80) << "rank " << rank;
    if (rank % 5 == 0) {  // reads the headers anew, which is slow under sanitizers
      const RankMemory memory = rank_memory(scenario.model, plan, rank);
      EXPECT_EQ(stats.weight_bytes, memory.weight_bytes) << "rank " << rank;
      EXPECT_EQ(stats.cache_bytes, memory.cache_bytes_per_token * 4 * 80) << "rank " << rank;
    }
    sent += stats.expert_rows_sent;
    received += stats.expert_rows_received;
    computed += stats.expert_rows_computed;
  }
  EXPECT_EQ(sent, received);
  if (plan.dp > 1) {
    EXPECT_GT(sent, 0u);
  } else {
    EXPECT_EQ(sent, 0u);
  }
  // Each row goes through each of its experts once (in moe_tp cuts), whoever holds them.
  const int64_t moe_layers = plan.config.num_hidden_layers - plan.config.first_k_dense_replace;
  EXPECT_EQ(computed, static_cast<uint64_t>(job.leader.rows * moe_layers * plan.config.num_experts_per_tok * plan.moe_tp));
}

void expect_same_answer(const ScenarioResult& got, const ScenarioResult& want, Difference& worst) {
  ASSERT_EQ(got.logits.size(), want.logits.size());
  const Difference d = difference(got.logits, want.logits);
  EXPECT_LE(d.relative_l2, kRelativeL2);
  EXPECT_LE(d.max_over_rms, kMaxOverRms);
  EXPECT_EQ(got.tokens, want.tokens);
  worst.join(d);
}

// Uneven cuts of eight layers.
std::vector<int64_t> uneven_cut(int pp) {
  if (pp == 2) return {3, 5};
  if (pp == 4) return {1, 3, 2, 2};
  return {};
}

struct Degrees { int tp, pp, dp, ep; };

// What a plan combines: which degrees are more than 1, and whether experts are spread, cut, or both. Size adds nothing but time.
std::string kind_of(const Degrees& d) {
  const int moe_tp = d.tp * d.dp / d.ep;
  std::string kind;
  for (const int degree : {d.tp, d.pp, d.dp, d.ep, moe_tp}) kind += degree > 1 ? '+' : '1';
  return kind;
}

// Of each kind the first, and while plans are small the last: one degree small, another as large as it gets. On 16 ranks, where a plan takes seconds,
// one that has everything, and a deep uneven pipeline of tensor-parallel stages.
std::vector<Degrees> covering(const std::vector<Degrees>& all, int ranks) {
  if (ranks == 16) return {{2, 2, 4, 4}, {4, 4, 1, 2}};
  std::map<std::string, std::pair<size_t, size_t>> kinds;
  for (size_t i = 0; i < all.size(); ++i) kinds.try_emplace(kind_of(all[i]), i, i).first->second.second = i;
  std::set<size_t> chosen;
  for (const auto& [kind, ends] : kinds) {
    chosen.insert(ends.first);
    if (ranks < 8) chosen.insert(ends.second);
  }
  std::vector<Degrees> out;
  for (const size_t i : chosen) out.push_back(all[i]);
  return out;
}

std::vector<Degrees> all_degrees(int ranks, int layers) {
  std::vector<Degrees> all;
  for (int tp = 1; tp <= ranks; tp *= 2) {
    for (int pp = 1; tp * pp <= ranks && pp <= layers; pp *= 2) {
      const int dp = ranks / tp / pp;
      for (int ep = 1; ep <= tp * dp; ep *= 2) all.push_back({tp, pp, dp, ep});
    }
  }
  return all;
}

class PlansTest : public testing::TestWithParam<int> {};

TEST_P(PlansTest, GiveTheAnswerOfOneRankAndSplitAsTheySay) {
  const ScenarioOptions scenario{std::filesystem::path(DSINFER_TEST_DATA) / "goldens" / "plans"};
  const ModelConfig config = ModelConfig::load(scenario.model);
  static const JobResult one = run_as_threads(scenario, solve(config, PlanRequest{}));
  for (float gap : one.leader.gaps) ASSERT_GT(gap, kClearGap);
  const int ranks = GetParam();
  Difference worst;
  int plans = 0;
  const std::vector<Degrees> all = all_degrees(ranks, static_cast<int>(config.num_hidden_layers));
  for (const Degrees& d : everything_is_asked() ? all : covering(all, ranks)) {
    PlanRequest request;
    request.world_size = ranks;
    request.tp = d.tp, request.pp = d.pp, request.dp = d.dp, request.ep = d.ep;
    if (plans % 2) request.layers_per_stage = uneven_cut(d.pp);
    const Plan plan = solve(config, request);
    SCOPED_TRACE(plan.spec());
    const JobResult job = run_as_threads(scenario, plan);
    expect_same_answer(job.leader, one.leader, worst);
    check_stats(scenario, plan, job);
    if (HasFailure()) break;
    ++plans;
  }
  std::printf("%2d ranks: %d of %zu plans, worst relative L2 %.2e, max/RMS %.2e\n", ranks, plans, all.size(), worst.relative_l2, worst.max_over_rms);
}

INSTANTIATE_TEST_SUITE_P(Ranks, PlansTest, testing::Values(1, 2, 4, 8, 16), testing::PrintToStringParamName());

// Other checkpoints, a few plans each: TP of odd-shaped families, FP8 blocks cut at block edges.
struct Other {
  const char* model;
  const char* spec;
  int ranks;
};

class OtherPlansTest : public testing::TestWithParam<Other> {};

TEST_P(OtherPlansTest, GiveTheAnswerOfOneRank) {
  const ScenarioOptions scenario{std::filesystem::path(DSINFER_TEST_DATA) / "goldens" / GetParam().model};
  const ModelConfig config = ModelConfig::load(scenario.model);
  const JobResult one = run_as_threads(scenario, solve(config, PlanRequest{}));
  const JobResult job = run_as_threads(scenario, solve(config, PlanRequest::parse(GetParam().spec, GetParam().ranks)));
  Difference worst;
  expect_same_answer(job.leader, one.leader, worst);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, OtherPlansTest,
                         testing::Values(Other{"fp8-tp", "tp=2", 2}, Other{"fp8-tp", "tp=2,ep=1", 2}, Other{"fp8-tp", "dp=2,ep=2", 2}, Other{"fp8-tp", "dp=2,ep=1", 2},
                                         Other{"fp8-tp", "tp=2,pp=2,ep=1", 4}, Other{"tp", "tp=8", 8}, Other{"tp", "tp=4,dp=2,ep=4", 8}, Other{"tp", "tp=2,pp=3", 6},
                                         Other{"moonlight", "tp=2,dp=2", 4}, Other{"v2", "tp=4,ep=2", 4}, Other{"v2-lite", "tp=2,dp=2,ep=2", 4}, Other{"k2", "dp=4", 4},
                                         Other{"edge", "tp=1,pp=3", 3}, Other{"edge", "dp=3,ep=3", 3}, Other{"v3-f32", "tp=4,ep=1", 4}, Other{"awq", "tp=2", 2}, Other{"awq", "tp=2,pp=2,dp=2,ep=2", 8}, Other{"awq-128", "dp=2,ep=2", 2},
                                         Other{"packed", "tp=2,ep=1", 2}, Other{"packed", "tp=2,dp=2,ep=4", 4}, Other{"packed-experts", "tp=4,ep=2", 4}, Other{"packed-experts", "dp=2,ep=1", 2}),
                         [](const auto& tested) {
                           std::string name = std::string(tested.param.model) + "_" + tested.param.spec;
                           for (char& c : name) if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

TEST(PlansRefused, WhereABlockOrAHeadWouldBeCut) {
  const auto refused = [](const char* model, const char* spec, int ranks) {
    const ModelConfig config = ModelConfig::load(std::filesystem::path(DSINFER_TEST_DATA) / "goldens" / model);
    try {
      solve(config, PlanRequest::parse(spec, ranks));
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Error::plan_refused) << e.what();
      return std::string(e.what());
    }
    ADD_FAILURE() << model << " " << spec << " was not refused";
    return std::string();
  };
  EXPECT_THAT(refused("fp8", "tp=2", 2), testing::HasSubstr("128"));           // a head of 192 rows is one block and a half
  EXPECT_THAT(refused("fp8-tp", "tp=4,ep=4", 4), testing::HasSubstr("128"));   // 256 rows of the dense MLP over 4
  EXPECT_THAT(refused("edge", "tp=2", 2), testing::HasSubstr("3"));            // 3 heads
  EXPECT_THAT(refused("edge", "dp=2,ep=2", 2), testing::HasSubstr("9"));       // 9 experts
  EXPECT_THAT(refused("awq", "tp=4", 4), testing::HasSubstr("int4 group of 64"));     // 32 columns of o_proj
  EXPECT_THAT(refused("awq-128", "tp=2", 2), testing::HasSubstr("int4 group of 128"));
  EXPECT_THAT(refused("packed-experts", "dp=4,ep=1", 4), testing::HasSubstr("int4 group of 32"));
  refused("plans", "pp=16", 16);                                               // 8 layers
  refused("plans", "tp=32", 32);
}

}  // namespace
}  // namespace dsinfer
