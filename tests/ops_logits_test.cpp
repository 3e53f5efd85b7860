#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "backend/logit_survey.hpp"
#include "ops.hpp"

namespace dsinfer {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class LogitOps : public Ops {
 protected:
  struct Answer {
    LogitSummary summary;
    std::vector<LogitCandidate> best;
  };
  static LogitAsk ask(int64_t best, int sums = 0, float temperature = 1) {
    LogitAsk a;
    a.best = static_cast<uint16_t>(best);
    a.sums = static_cast<uint16_t>(sums);
    a.temperature = temperature;
    return a;
  }
  std::vector<Answer> survey(const std::vector<float>& logits, const std::vector<LogitAsk>& asks, int64_t id_limit) {
    const auto rows = static_cast<int64_t>(asks.size()), vocab = static_cast<int64_t>(logits.size()) / rows;
    int64_t most = 1;
    std::vector<int32_t> words(static_cast<size_t>(rows * kAskWords));
    for (size_t i = 0; i < asks.size(); ++i) most = std::max<int64_t>(most, asks[i].best);
    std::memcpy(words.data(), asks.data(), words.size() * sizeof(int32_t));
    const int64_t width = survey_words(most);
    const TensorView out = up(std::vector<int32_t>(static_cast<size_t>(rows * width), 0x7f7f7f7f), {rows, width});
    EXPECT_TRUE(backend->survey_logits(out, up(logits, {rows, vocab}), up(words, {rows, kAskWords}), id_limit));
    const std::vector<int32_t> found = down<int32_t>(out);
    std::vector<Answer> answers(asks.size());
    for (size_t i = 0; i < asks.size(); ++i) {
      const int32_t* row = found.data() + i * static_cast<size_t>(width);
      std::memcpy(static_cast<void*>(&answers[i].summary), row, sizeof(LogitSummary));
      answers[i].best.resize(static_cast<size_t>(answers[i].summary.count));
      std::memcpy(answers[i].best.data(), row + kSummaryWords, answers[i].best.size() * sizeof(LogitCandidate));
    }
    return answers;
  }
  // Ids of all logits below the limit, the best first, by a stable sort.
  static std::vector<int32_t> in_order(const float* logits, int64_t ids) {
    std::vector<int32_t> order(static_cast<size_t>(ids));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    return order;
  }
  static void expect_best(const Answer& answer, const float* logits, int64_t ids, int64_t count) {
    ASSERT_EQ(answer.summary.finite, 1);
    ASSERT_EQ(answer.summary.count, std::min(count, ids));
    const std::vector<int32_t> order = in_order(logits, ids);
    for (size_t i = 0; i < answer.best.size(); ++i) {
      ASSERT_EQ(answer.best[i].id, order[i]) << "candidate " << i;
      ASSERT_EQ(answer.best[i].logit, logits[order[i]]);
    }
  }
};
DSINFER_ON_ALL_BACKENDS(LogitOps);

TEST_P(LogitOps, SurveyFindsTheBestIdsInOrderInRowsOfEveryWidth) {
  for (const int64_t vocab : {1, 2, 31, 320, 5000, 129280}) {
    const std::vector<int64_t> counts = {1, 2, 20, 1000, 1024};
    std::vector<LogitAsk> asks;
    for (const int64_t count : counts) asks.push_back(ask(count));
    const std::vector<float> logits = normal(vocab * 5, 3);
    const std::vector<Answer> answers = survey(logits, asks, std::max<int64_t>(1, vocab - vocab / 50));
    for (size_t i = 0; i < counts.size(); ++i) {
      SCOPED_TRACE("vocabulary of " + std::to_string(vocab) + ", best " + std::to_string(counts[i]));
      expect_best(answers[i], logits.data() + static_cast<int64_t>(i) * vocab, std::max<int64_t>(1, vocab - vocab / 50), counts[i]);
    }
  }
}

TEST_P(LogitOps, SurveyPrefersTheLowerIdOnATie) {
  std::vector<float> same(4000, -1.5f), steps(4000), zeros(4000, -0.0f), last(4000, 0.0f);
  for (size_t i = 0; i < steps.size(); ++i) steps[i] = static_cast<float>(i % 7);
  for (size_t i = 0; i < zeros.size(); i += 3) zeros[i] = 0.0f;
  last[3999] = 1e-38f;
  for (const std::vector<float>& logits : {same, steps, zeros, last})
    for (const int64_t count : {1, 3, 600, 1024}) expect_best(survey(logits, {ask(count)}, 4000)[0], logits.data(), 4000, count);
}

TEST_P(LogitOps, SurveyFindsTheBestWhereverTheyLie) {
  const int64_t vocab = 129280, longest = 200003;
  const std::vector<float> logits = normal(vocab, 5);
  std::vector<float> rounded(logits), ahead(logits), every(logits), block(logits);
  for (float& x : rounded) x = std::round(x * 4) / 4;  // many alike
  for (size_t i = 0; i < 2000; ++i) ahead[i] += 9;
  for (size_t i = 5; i < every.size(); i += 32) every[i] += 9;
  for (size_t i = 0; i < block.size(); ++i)
    if (i / 32 % 32 == 7) block[i] += 9;  // what one block of the CUDA backend sees
  for (const std::vector<float>& row : {rounded, ahead, every, block})
    for (const int64_t count : {2, 50, 64, 65, 1024}) expect_best(survey(row, {ask(count)}, vocab - 100)[0], row.data(), vocab - 100, count);
  const std::vector<float> more = normal(longest, 6);
  expect_best(survey(more, {ask(700)}, longest)[0], more.data(), longest, 700);
}

TEST_P(LogitOps, SurveySeesIdsBelowTheLimitAlone) {
  std::vector<float> logits(100, 0.0f);
  logits[40] = 1;
  logits[50] = 9;
  EXPECT_EQ(survey(logits, {ask(1)}, 50)[0].best[0].id, 40);
  EXPECT_EQ(survey(logits, {ask(1)}, 51)[0].best[0].id, 50);
  const Answer all = survey(logits, {ask(1024)}, 50)[0];
  EXPECT_EQ(all.summary.count, 50);
  EXPECT_EQ(all.best[49].id, 49);
}

TEST_P(LogitOps, SurveySumsInDoublePrecision) {
  const int64_t vocab = 129280, ids = 128815;
  const std::vector<float> logits = normal(3 * vocab, 4);
  const std::vector<Answer> answers = survey(logits, {ask(1, LogitAsk::kMass), ask(1024, LogitAsk::kTemperedMass, 0.6f), ask(7, LogitAsk::kMass | LogitAsk::kTemperedMass, 1.3f)}, ids);
  const float temperatures[] = {1, 0.6f, 1.3f};
  for (size_t row = 0; row < 3; ++row) {
    const float* x = logits.data() + static_cast<int64_t>(row) * vocab;
    const double top = *std::max_element(x, x + ids);
    double mass = 0, tempered = 0;
    for (int64_t i = 0; i < vocab; ++i) mass += std::exp(x[i] - top);
    for (int64_t i = 0; i < ids; ++i) tempered += std::exp((x[i] - top) / double{temperatures[row]});
    if (row != 1) { EXPECT_NEAR(answers[row].summary.mass / mass, 1, 1e-12); }
    if (row != 0) { EXPECT_NEAR(answers[row].summary.tempered_mass / tempered, 1, 1e-12); }
  }
}

TEST_P(LogitOps, SurveySaysWhereALogitIsNoNumber) {
  for (const float bad : {kInf, -kInf, std::nanf("")}) {
    std::vector<float> logits = normal(3 * 1000);
    logits[1999] = bad;  // beyond the limit
    const std::vector<Answer> answers = survey(logits, {ask(5, LogitAsk::kMass), ask(5, LogitAsk::kMass), ask(5, LogitAsk::kMass)}, 900);
    EXPECT_EQ(answers[0].summary.finite, 1);
    EXPECT_EQ(answers[1].summary.finite, 0);
    EXPECT_EQ(answers[1].summary.count, 0);
    EXPECT_EQ(answers[2].summary.finite, 1);
  }
}

TEST_P(LogitOps, SurveyOfARowDoesNotDependOnItsNeighbours) {
  const int64_t vocab = 3000, rows = 600;  // more than a launch takes
  const std::vector<float> logits = normal(rows * vocab);
  std::vector<LogitAsk> asks;
  for (int64_t i = 0; i < rows; ++i) asks.push_back(ask(1 + i % 9, i % 2 ? LogitAsk::kMass : 0));
  const std::vector<Answer> together = survey(logits, asks, vocab);
  for (const int64_t i : {0, 1, 511, 512, 599}) {
    const Answer alone = survey({logits.begin() + i * vocab, logits.begin() + (i + 1) * vocab}, {asks[static_cast<size_t>(i)]}, vocab)[0];
    expect_best(together[static_cast<size_t>(i)], logits.data() + i * vocab, vocab, asks[static_cast<size_t>(i)].best);
    EXPECT_EQ(alone.summary.mass, together[static_cast<size_t>(i)].summary.mass);
  }
}

}  // namespace
}  // namespace dsinfer
