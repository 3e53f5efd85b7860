// Pipeline cuts against all cuts that there are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <random>

#include "solver_shapes.hpp"

namespace dsinfer {
namespace {

using namespace test;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

void each_cut(int64_t layers, int64_t stages, std::vector<int64_t>& cut, const std::function<void()>& visit) {
  if (stages == 1) {
    cut.push_back(layers);
    visit();
    cut.pop_back();
    return;
  }
  for (int64_t first = 1; first <= layers - stages + 1; ++first) {
    cut.push_back(first);
    each_cut(layers - first, stages - 1, cut, visit);
    cut.pop_back();
  }
}

struct Problem {
  ModelConfig config = tiny_config();
  LayerBytes bytes;
  Shape shape;
  std::vector<double> seconds;
  int64_t budget = 0, overhead = 0, cache = 0;

  int64_t weights(const std::vector<int64_t>& cut, size_t stage) const {
    int64_t begin = 0;
    for (size_t i = 0; i < stage; ++i) begin += cut[i];
    int64_t sum = stage == 0 ? bytes.embedding : 0;
    for (int64_t i = begin; i < begin + cut[stage]; ++i) sum += bytes.layer[static_cast<size_t>(i)];
    if (stage + 1 == cut.size()) sum += bytes.head + (shape.prediction_layer ? bytes.prediction : 0);
    return sum;
  }
  int64_t fullest(const std::vector<int64_t>& cut) const {
    int64_t most = 0;
    for (size_t i = 0; i < cut.size(); ++i) most = std::max(most, weights(cut, i));
    return most;
  }
  int64_t tokens(const std::vector<int64_t>& cut) const {
    int64_t least = kNoLimit;
    for (size_t i = 0; i < cut.size(); ++i) {
      const int64_t layers = cut[i] + (shape.prediction_layer && i + 1 == cut.size() ? config.num_nextn_predict_layers : 0);
      least = std::min(least, std::max<int64_t>(budget - overhead - weights(cut, i), 0) / (cache * layers));
    }
    return least;
  }
  double slowest(const std::vector<int64_t>& cut) const {
    double most = 0;
    size_t layer = 0;
    for (const int64_t count : cut) {
      double sum = 0;
      for (int64_t i = 0; i < count; ++i) sum += seconds[layer++];
      most = std::max(most, sum);
    }
    return most;
  }
};

Problem random_problem(std::mt19937& dice) {
  const auto roll = [&](int64_t least, int64_t most) { return least + static_cast<int64_t>(dice() % static_cast<unsigned>(most - least + 1)); };
  Problem p;
  p.config.num_hidden_layers = roll(1, 11);
  p.config.num_nextn_predict_layers = roll(0, 2);
  p.shape.pp = roll(1, p.config.num_hidden_layers);
  p.shape.prediction_layer = p.config.num_nextn_predict_layers > 0 && roll(0, 1);
  const int64_t dense = roll(0, 3), most = std::array<int64_t, 3>{3, 100, 1'000'000'000}[static_cast<size_t>(roll(0, 2))];
  const int64_t moe = roll(1, most), light = roll(1, most);
  const bool uneven = roll(0, 2) == 0;
  for (int64_t i = 0; i < p.config.num_hidden_layers; ++i) {
    p.bytes.layer.push_back(uneven ? roll(1, most) : i < dense ? light : moe);
    p.seconds.push_back(static_cast<double>(uneven ? roll(0, 20) : i < dense ? 1 : 2));
  }
  p.bytes.embedding = roll(0, most);
  p.bytes.head = roll(0, most);
  p.bytes.prediction = roll(0, most);
  p.budget = roll(0, 4 * most);
  p.overhead = roll(0, most / 4 + 1);
  p.cache = roll(1, 3);
  return p;
}

TEST(BestCut, HasTheLightestFullestRankAndThenTheMostTokensOfAllCuts) {
  std::mt19937 dice(11);
  for (int i = 0; i < 300; ++i) {
    const Problem p = random_problem(dice);
    int64_t lightest = kNoLimit, most_tokens = -1;
    std::vector<int64_t> cut;
    each_cut(p.config.num_hidden_layers, p.shape.pp, cut, [&] {
      const int64_t fullest = p.fullest(cut), tokens = p.tokens(cut);
      if (fullest < lightest) lightest = fullest, most_tokens = tokens;
      else if (fullest == lightest) most_tokens = std::max(most_tokens, tokens);
    });
    const std::vector<int64_t> best = best_cut(p.config, p.bytes, p.shape, p.budget, p.overhead, p.cache);
    ASSERT_EQ(static_cast<int64_t>(best.size()), p.shape.pp);
    EXPECT_EQ(p.fullest(best), lightest) << "problem " << i;
    EXPECT_EQ(p.tokens(best), most_tokens) << "problem " << i;
    EXPECT_EQ(best, best_cut(p.config, p.bytes, p.shape, p.budget, p.overhead, p.cache));
  }
}

TEST(FastestCut, HasTheLeastSlowestStageOfAllThatFitAndThenTheLightest) {
  std::mt19937 dice(13);
  int none = 0;
  for (int i = 0; i < 300; ++i) {
    const Problem p = random_problem(dice);
    const int64_t most_bytes = i % 3 == 0 ? kNoLimit : p.budget;
    double fastest = std::numeric_limits<double>::infinity();
    int64_t lightest = kNoLimit;
    std::vector<int64_t> cut;
    each_cut(p.config.num_hidden_layers, p.shape.pp, cut, [&] {
      const int64_t fullest = p.fullest(cut);
      if (fullest > most_bytes) return;
      const double slowest = p.slowest(cut);
      if (slowest < fastest) fastest = slowest, lightest = fullest;
      else if (slowest == fastest) lightest = std::min(lightest, fullest);
    });
    const std::vector<int64_t> best = fastest_cut(p.config, p.bytes, p.shape, most_bytes, p.seconds);
    if (lightest == kNoLimit) {
      EXPECT_TRUE(best.empty()) << "problem " << i;
      ++none;
      continue;
    }
    ASSERT_EQ(static_cast<int64_t>(best.size()), p.shape.pp) << "problem " << i;
    EXPECT_EQ(p.slowest(best), fastest) << "problem " << i;
    EXPECT_EQ(p.fullest(best), lightest) << "problem " << i;
  }
  EXPECT_GT(none, 10);
}

TEST(BestCut, IsEmptyWhereStagesOutnumberLayers) {
  const LayerBytes bytes = layer_bytes(deepseek_v3(), in(Precision::fp8), shape_of(1, 1, 1, 1));
  EXPECT_TRUE(best_cut(deepseek_v3(), bytes, shape_of(1, 62, 1, 1), 1, 1, 1).empty());
  EXPECT_TRUE(fastest_cut(deepseek_v3(), bytes, shape_of(1, 62, 1, 1), kNoLimit, std::vector<double>(61, 1.0)).empty());
  EXPECT_EQ(best_cut(deepseek_v3(), bytes, shape_of(1, 61, 1, 1), 1, 1, 1), std::vector<int64_t>(61, 1));
}

TEST(FastestCut, CutsDeepSeekV3ByTimeWithinMemory) {
  const LayerBytes bytes = layer_bytes(deepseek_v3(), in(Precision::fp8), shape_of(8, 2, 1, 8));
  std::vector<double> seconds(61, 1.0);
  EXPECT_EQ(fastest_cut(deepseek_v3(), bytes, shape_of(8, 2, 1, 8), kNoLimit, seconds), (std::vector<int64_t>{31, 30}));
  EXPECT_EQ(fastest_cut(deepseek_v3(), bytes, shape_of(8, 2, 1, 8), 43'000'000'000, seconds), (std::vector<int64_t>{32, 29}));
  EXPECT_TRUE(fastest_cut(deepseek_v3(), bytes, shape_of(8, 2, 1, 8), 42'000'000'000, seconds).empty());
  seconds.pop_back();
  EXPECT_THAT(error_of([&] { fastest_cut(deepseek_v3(), bytes, shape_of(8, 2, 1, 8), kNoLimit, seconds); }), testing::HasSubstr("internal: seconds of 60 layers given"));
}

}  // namespace
}  // namespace dsinfer
