#include <algorithm>
#include <map>
#include <numeric>

#include "ops.hpp"

namespace dsinfer {
namespace {

class ExpertOps : public Ops {
 protected:
  struct Routed { std::vector<int32_t> experts; std::vector<float> weights; };
  Routed route(const std::vector<float>& logits, int64_t rows, const std::vector<float>& bias, const GateOptions& gate) {
    const int64_t n = static_cast<int64_t>(logits.size()) / rows;
    const TensorView experts = empty({rows, gate.top_k}, DType::i32), weights = empty({rows, gate.top_k});
    backend->route(experts, weights, up(logits, {rows, n}), bias.empty() ? TensorView() : up(bias, {n}), gate);
    return {down<int32_t>(experts), down(weights)};
  }
};
DSINFER_ON_ALL_BACKENDS(ExpertOps);

// The worked gate of the architecture notes, section 12: 16 experts in 4 groups, 2 kept, 4 chosen.
const std::vector<float> kLogits = {0, 1, -1, 2, 0.5, 0.5, 0.5, 0.5, 3, -3, 0, 0, -2, 2.5, 1.5, 0.25};
const std::vector<float> kBias = {0.1f, 0, 0, -0.2f, 0, 0, 0, 0.05f, -0.5f, 0.9f, 0, 0, 0.2f, 0, 0, 0};

GateOptions v3_gate() {
  GateOptions g;
  g.n_group = 4;
  g.topk_group = 2;
  g.top_k = 4;
  g.scale = 2.5f;
  return g;
}

void expect_choice(const std::vector<int32_t>& experts, const std::vector<float>& weights, const std::map<int32_t, double>& wanted) {
  ASSERT_EQ(experts.size(), wanted.size());
  for (size_t i = 0; i < experts.size(); ++i) {
    ASSERT_TRUE(wanted.count(experts[i])) << "expert " << experts[i];
    EXPECT_NEAR(weights[i], wanted.at(experts[i]), 2e-6 * wanted.at(experts[i]) + 1e-8);
  }
}

TEST_P(ExpertOps, RouteReproducesTheWorkedExampleOfTheV3Gate) {
  const std::map<int32_t, double> wanted = {{9, 0.050424761}, {13, 0.982578235}, {14, 0.869272301}, {15, 0.597724702}};
  const Routed r = route(kLogits, 1, kBias, v3_gate());
  expect_choice(r.experts, r.weights, wanted);
  EXPECT_EQ(r.experts, (std::vector<int32_t>{9, 13, 14, 15}));  // biased scores fall: 0.947, 0.924, 0.818, 0.562
  EXPECT_NEAR(std::accumulate(r.weights.begin(), r.weights.end(), 0.0), 2.5, 1e-6);
  // With all biases negative a zero in place of -inf would pick experts of dropped groups.
  auto lower = kBias;
  for (float& b : lower) b -= 3;
  const Routed s = route(kLogits, 1, lower, v3_gate());
  expect_choice(s.experts, s.weights, wanted);
}

TEST_P(ExpertOps, RouteReproducesTheWorkedExampleOfTheV2Gate) {
  GateOptions g = v3_gate();
  g.sigmoid = false;
  g.group_score_top2 = false;
  g.normalise = false;
  g.scale = 16;
  const Routed r = route(kLogits, 1, {}, g);
  expect_choice(r.experts, r.weights, {{8, 5.513368821}, {13, 3.344027228}, {14, 1.230198868}, {15, 0.352457877}});
  EXPECT_EQ(r.experts, (std::vector<int32_t>{8, 13, 14, 15}));
  g.grouped = false;  // greedy looks at no groups
  EXPECT_EQ(route(kLogits, 1, {}, g).experts, (std::vector<int32_t>{8, 13, 3, 14}));
}

TEST_P(ExpertOps, TiesGoToTheLowerIndexAmongExpertsAndAmongGroups) {
  GateOptions g = v3_gate();
  EXPECT_EQ(route(std::vector<float>(16, 0.5f), 1, {}, g).experts, (std::vector<int32_t>{0, 1, 2, 3}));
  g.topk_group = 1;
  g.top_k = 2;
  std::vector<float> logits(16, -1);
  logits[4] = logits[6] = logits[12] = logits[13] = 1;  // groups 1 and 3 are equal
  EXPECT_EQ(route(logits, 1, {}, g).experts, (std::vector<int32_t>{4, 6}));
}

TEST_P(ExpertOps, WeightsComeFromUnbiasedScoresEvenWhereTheBiasSwallowsThem) {
  GateOptions g;
  g.top_k = 2;
  const Routed r = route({-18, -17, -16, -19}, 1, {12, 12, 11, 11}, g);  // sigmoid(-18) = 1.5e-8 vanishes next to 12
  EXPECT_EQ(r.experts, (std::vector<int32_t>{0, 1}));
  const double a = 1 / (1 + std::exp(18.0)), b = 1 / (1 + std::exp(17.0));
  EXPECT_NEAR(r.weights[0], a / (a + b + 1e-20), 1e-6);
  EXPECT_NEAR(r.weights[1], b / (a + b + 1e-20), 1e-6);
}

TEST_P(ExpertOps, RouteAgreesWithAPlainDoubleGateOnRandomLogits) {
  const int64_t rows = 200, n = 64, groups = 8, size = n / groups;
  for (bool sigmoid : {true, false}) {
    GateOptions g;
    g.sigmoid = sigmoid;
    g.group_score_top2 = sigmoid;
    g.n_group = groups;
    g.topk_group = 3;
    g.top_k = 6;
    g.normalise = sigmoid;
    g.scale = 2.446f;
    const auto logits = normal(rows * n), bias = sigmoid ? normal(n, 0.3f) : std::vector<float>();
    const Routed r = route(logits, rows, bias, g);
    for (int64_t t = 0; t < rows; ++t) {
      std::vector<double> s(n), c(n), group(groups);
      double sum = 0;
      for (int64_t e = 0; e < n; ++e) {
        const double z = logits[static_cast<size_t>(t * n + e)];
        s[static_cast<size_t>(e)] = sigmoid ? 1 / (1 + std::exp(-z)) : std::exp(z);
        sum += s[static_cast<size_t>(e)];
      }
      if (!sigmoid) for (double& x : s) x /= sum;
      for (size_t e = 0; e < static_cast<size_t>(n); ++e) c[e] = s[e] + (bias.empty() ? 0.0 : double{bias[e]});
      for (int64_t q = 0; q < groups; ++q) {
        std::vector<double> part(c.begin() + q * size, c.begin() + (q + 1) * size);
        std::sort(part.rbegin(), part.rend());
        group[static_cast<size_t>(q)] = sigmoid ? part[0] + part[1] : part[0];
      }
      std::vector<int64_t> order(groups);
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return group[static_cast<size_t>(a)] > group[static_cast<size_t>(b)]; });
      const double margin = group[static_cast<size_t>(order[2])] - group[static_cast<size_t>(order[3])];
      if (margin < 1e-5) continue;
      std::vector<int32_t> candidates;
      for (int i = 0; i < 3; ++i) for (int64_t e = 0; e < size; ++e) candidates.push_back(static_cast<int32_t>(order[static_cast<size_t>(i)] * size + e));
      std::sort(candidates.begin(), candidates.end(), [&](int32_t a, int32_t b) { return c[static_cast<size_t>(a)] > c[static_cast<size_t>(b)]; });
      bool near_tie = false;
      for (size_t i = 0; i < 6; ++i) near_tie = near_tie || c[static_cast<size_t>(candidates[i])] - c[static_cast<size_t>(candidates[i + 1])] < 1e-5;
      if (near_tie) continue;
      double total = 0;
      for (size_t i = 0; i < 6; ++i) total += s[static_cast<size_t>(candidates[i])];
      for (size_t i = 0; i < 6; ++i) {
        EXPECT_EQ(r.experts[static_cast<size_t>(t) * 6 + i], candidates[i]);
        const double w = s[static_cast<size_t>(candidates[i])] / (sigmoid ? total + 1e-20 : 1) * 2.446;
        EXPECT_NEAR(r.weights[static_cast<size_t>(t) * 6 + i], w, 2e-6 * w);
      }
    }
    // A constant on all biases changes neither choice nor weights (as far as f32 still tells the scores apart).
    if (sigmoid) {
      auto raised = bias;
      for (float& b : raised) b += 0.5f;
      const Routed again = route(logits, rows, raised, g);
      EXPECT_EQ(again.experts, r.experts);
      EXPECT_EQ(again.weights, r.weights);
    }
  }
}

TEST_P(ExpertOps, RouteOfARowDoesNotDependOnItsBatch) {
  const auto logits = normal(33 * 16);
  const Routed all = route(logits, 33, kBias, v3_gate());
  for (int64_t t : {0, 17, 32}) {
    const Routed one = route({logits.begin() + t * 16, logits.begin() + (t + 1) * 16}, 1, kBias, v3_gate());
    EXPECT_TRUE(std::equal(one.experts.begin(), one.experts.end(), all.experts.begin() + t * 4));
    EXPECT_TRUE(std::equal(one.weights.begin(), one.weights.end(), all.weights.begin() + t * 4));
  }
}

TEST_P(ExpertOps, NanLogitsStillGiveExpertsThatExist) {
  const Routed r = route(std::vector<float>(16, std::nanf("")), 1, {}, v3_gate());
  std::vector<int32_t> sorted = r.experts;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(std::unique(sorted.begin(), sorted.end()), sorted.end());
  for (int32_t e : sorted) EXPECT_TRUE(e >= 0 && e < 16);
}

TEST_P(ExpertOps, ImpossibleGatesAreRefused) {
  GateOptions g = v3_gate();
  g.n_group = 3;
  EXPECT_NE(error_of([&] { route(kLogits, 1, {}, g); }).find("3 groups"), std::string::npos);
  g = v3_gate();
  g.top_k = 17;
  EXPECT_NE(error_of([&] { route(kLogits, 1, {}, g); }).find("top 17"), std::string::npos);
}

TEST_P(ExpertOps, GatherRowsCopiesAndScatterAddReturnsThem) {
  const int64_t rows = 9, width = 70;
  const auto x = normal(rows * width);
  const std::vector<int32_t> order = {8, 0, 0, 3, 8, 5};
  const TensorView picked = empty({6, width}), indices = up(order, {6});
  backend->gather_rows(picked, up(x, {rows, width}), indices);
  const auto p = down(picked);
  for (size_t i = 0; i < order.size(); ++i) EXPECT_TRUE(std::equal(p.begin() + static_cast<int64_t>(i) * width, p.begin() + static_cast<int64_t>(i + 1) * width, x.begin() + order[i] * width));

  const auto start = normal(rows * width), scale = normal(6);
  const TensorView out = up(start, {rows, width});
  backend->scatter_add(out, picked, indices, up(scale, {6}));
  std::vector<double> wanted(start.begin(), start.end());
  for (size_t i = 0; i < order.size(); ++i) {
    for (int64_t d = 0; d < width; ++d) wanted[static_cast<size_t>(order[i] * width + d)] += double{scale[i]} * double{p[i * static_cast<size_t>(width) + static_cast<size_t>(d)]};
  }
  expect_close(down(out), wanted);
  EXPECT_NE(error_of([&] { backend->gather_rows(empty({1, width}), picked, up(std::vector<int32_t>{6}, {1})); finish(); }).find("row 6"), std::string::npos);
  EXPECT_NE(error_of([&] { backend->scatter_add(out, picked.rows(0, 1), up(std::vector<int32_t>{-1}, {1}), up(std::vector<float>{1}, {1})); finish(); }).find("row -1"), std::string::npos);
}

TEST_P(ExpertOps, NoRowsAreFine) {
  backend->route(empty({0, 4}, DType::i32), empty({0, 4}), empty({0, 16}), up(kBias, {16}), v3_gate());
  backend->gather_rows(empty({0, 8}), empty({3, 8}), empty({0}, DType::i32));
  backend->scatter_add(empty({3, 8}), empty({0, 8}), empty({0}, DType::i32), empty({0}));
}

}  // namespace
}  // namespace dsinfer
