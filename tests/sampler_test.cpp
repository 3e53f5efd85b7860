#include "engine/sampler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "backend/backend.hpp"
#include "engine/announcement.hpp"
#include "engine/answer.hpp"

namespace dsinfer {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

SamplingOptions hot(float temperature = 1) {
  SamplingOptions o;
  o.temperature = temperature;
  return o;
}

std::vector<float> logs(const std::vector<double>& probabilities) {
  std::vector<float> out;
  for (const double p : probabilities) out.push_back(static_cast<float>(std::log(p)));
  return out;
}

// Pearson's statistic of `draws` draws with the generator's numbers against `expected` probabilities.
double chi_square(const std::vector<float>& scores, const SamplingOptions& options, const std::vector<double>& expected, int draws = 20000) {
  std::vector<int> counts(scores.size());
  for (int i = 0; i < draws; ++i) ++counts[static_cast<size_t>(choose_token(scores, options, uniform_at(17, static_cast<uint64_t>(i))))];
  double sum = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double want = expected[i] * draws;
    if (want == 0) EXPECT_EQ(counts[i], 0) << "token " << i;
    else sum += (counts[i] - want) * (counts[i] - want) / want;
  }
  return sum;
}

// 0.1 % points of chi-square with 1 … 4 degrees of freedom.
constexpr double kLimit[] = {0, 10.83, 13.82, 16.27, 18.47};

TEST(Philox, GivesThePublishedTestVectors) {
  struct Case { uint32_t counter[4], key[2], out[4]; };
  Case cases[] = {  // Random123, kat_vectors, philox4x32 10
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
  for (Case& c : cases) {
    philox4x32_10(c.counter, c.key[0], c.key[1]);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(c.counter[i], c.out[i]);
  }
}

TEST(Uniform, DependsOnSeedAndPositionAloneAndFillsTheUnitInterval) {
  EXPECT_EQ(uniform_at(3, 5), uniform_at(3, 5));
  std::set<double> seen;
  std::vector<int> tenths(10);
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (uint64_t position = 0; position < 100; ++position) {
      const double u = uniform_at(seed, position);
      ASSERT_GE(u, 0);
      ASSERT_LT(u, 1);
      seen.insert(u);
      ++tenths[static_cast<size_t>(u * 10)];
    }
  }
  EXPECT_EQ(seen.size(), 10000u);
  double sum = 0;
  for (const int n : tenths) sum += (n - 1000.0) * (n - 1000.0) / 1000.0;
  EXPECT_LT(sum, 27.88);  // 0.1 % point, 9 degrees of freedom
}

TEST(ChooseToken, GreedyTakesTheLowestIdOnATie) { EXPECT_EQ(choose_token(std::vector<float>{1, 3, 3, 2}, SamplingOptions{}, 0.99), 1); }

TEST(ChooseToken, DrawsByTheSoftmax) { EXPECT_LT(chi_square(logs({0.5, 0.25, 0.15, 0.07, 0.03}), hot(), {0.5, 0.25, 0.15, 0.07, 0.03}), kLimit[4]); }

TEST(ChooseToken, DividesLogitsByTheTemperature) {
  // At temperature 1/2 probabilities are squared: 0.36, 0.09, 0.01 of 0.46.
  EXPECT_LT(chi_square(logs({0.6, 0.3, 0.1}), hot(0.5f), {0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46}), kLimit[2]);
}

TEST(ChooseToken, KeepsTheBestKAndDrawsAmongThemByTheirShares) {
  SamplingOptions o = hot();
  o.top_k = 2;
  EXPECT_LT(chi_square(logs({0.1, 0.6, 0.05, 0.25}), o, {0, 0.6 / 0.85, 0, 0.25 / 0.85}), kLimit[1]);
  o.top_k = 1;
  EXPECT_EQ(choose_token(logs({0.1, 0.6, 0.3}), o, 0.999), 1);
  o.top_k = 100;  // more than there are
  EXPECT_LT(chi_square(logs({0.5, 0.5}), o, {0.5, 0.5}), kLimit[1]);
}

TEST(ChooseToken, TopPKeepsTheFewestThatReachIt) {
  const std::vector<float> scores = logs({0.5, 0.25, 0.125, 0.125});
  SamplingOptions o = hot();
  o.top_p = 0.7f;
  EXPECT_LT(chi_square(scores, o, {2.0 / 3, 1.0 / 3, 0, 0}), kLimit[1]);
  o.top_p = 0.49f;  // less than the best one has: it alone
  EXPECT_LT(chi_square(scores, o, {1, 0, 0, 0}), 1e-9);
  o.top_p = 1e-6f;
  EXPECT_EQ(choose_token(scores, o, 0.9999), 0);
  o.top_p = 0.76f;  // a tie at the edge: the lower id stays
  EXPECT_LT(chi_square(scores, o, {4.0 / 7, 2.0 / 7, 1.0 / 7, 0}), kLimit[2]);
}

TEST(ChooseToken, TopPCountsWithinWhatTopKKept) {
  SamplingOptions o = hot();
  o.top_k = 2;
  o.top_p = 0.6f;  // of 0.4 and 0.3 the first has 0.571, so both stay
  EXPECT_LT(chi_square(logs({0.4, 0.3, 0.2, 0.1}), o, {4.0 / 7, 3.0 / 7, 0, 0}), kLimit[1]);
  o.top_p = 0.57f;
  EXPECT_LT(chi_square(logs({0.4, 0.3, 0.2, 0.1}), o, {1, 0, 0, 0}), 1e-9);
}

TEST(ChooseToken, MinPDropsWhatIsFarBelowTheBest) {
  SamplingOptions o = hot();
  o.min_p = 0.3f;  // of 0.5: 0.15
  EXPECT_LT(chi_square(logs({0.14, 0.5, 0.16, 0.2}), o, {0, 0.5 / 0.86, 0.16 / 0.86, 0.2 / 0.86}), kLimit[2]);
}

TEST(ChooseToken, NeverTakesAMaskedTokenEvenAtTheEndOfTheRange) {
  for (const double u : {0.0, 0.5, 1 - 0x1p-53}) {
    EXPECT_EQ(choose_token(std::vector<float>{-kInf, 2, -kInf}, hot(), u), 1);
    EXPECT_EQ(choose_token(std::vector<float>{-kInf, -1e30f, -kInf}, hot(100), u), 1);
  }
}

TEST(ChooseToken, SurvivesTinyTemperatures) { EXPECT_EQ(choose_token(std::vector<float>{1, 90, 89.99f}, hot(1e-6f), 0.999), 1); }

TEST(Sampler, NeverChoosesIdsWithoutAToken) {
  Sampler sampler(4, 2);
  sampler.start(1, SamplingOptions{}, 1);
  EXPECT_EQ(sampler.choose(1, 0, std::vector<float>{1, 2, 3, 4}).token, 1);
}

TEST(Sampler, RepetitionPenaltyWorksOnTheSignAndCoversThePrompt) {
  SamplingOptions o;
  o.repetition_penalty = 2;
  Sampler sampler(3, 3);
  sampler.start(1, o, 2);
  sampler.feed(1, 0, std::vector<int32_t>{0, 1});
  EXPECT_EQ(sampler.choose(1, 1, std::vector<float>{4, -1, 2.5f}).token, 2);  // 4/2 < 2.5
  EXPECT_EQ(sampler.choose(1, 2, std::vector<float>{-2, -1, -2.5f}).token, 1);  // -4, -2, -5: all were seen
}

TEST(Sampler, PresenceAndFrequencyPenaltiesCountTheAnswerOnly) {
  SamplingOptions o;
  o.presence_penalty = 0.5f;
  o.frequency_penalty = 0.25f;
  Sampler sampler(2, 2);
  sampler.start(1, o, 1);
  sampler.feed(1, 0, std::vector<int32_t>{0});
  const std::vector<float> logits{1, 0};
  std::vector<int32_t> tokens;
  for (int64_t position = 0; position < 6; ++position) tokens.push_back(sampler.choose(1, position, logits).token);
  // Scores of token 0: 1, 0.25, 0, then it ties at 0 and below the untouched 0 of token 1, which then has -0.75.
  EXPECT_EQ(tokens, (std::vector<int32_t>{0, 0, 0, 1, 0, 0}));
}

TEST(Sampler, CountsOnceWhatIsFedAgainAfterAPreemption) {
  SamplingOptions o;
  o.repetition_penalty = 1.5f;
  o.frequency_penalty = 0.3f;
  const std::vector<float> logits{2, 1.9f, 1.8f};
  const auto play = [&](bool preempted) {
    Sampler sampler(3, 3);
    sampler.start(1, o, 2);
    sampler.feed(1, 0, std::vector<int32_t>{2, 2});
    std::vector<int32_t> tokens;
    for (int64_t position = 1; position < 9; ++position) {
      tokens.push_back(sampler.choose(1, position, logits).token);
      if (preempted && position == 4) {
        sampler.feed(1, 0, std::vector<int32_t>{2, 2, tokens[0]});
        sampler.feed(1, 3, std::vector<int32_t>{tokens[1], tokens[2], tokens[3]});
      } else {
        sampler.feed(1, position + 1, std::vector<int32_t>{tokens.back()});
      }
    }
    return tokens;
  };
  EXPECT_EQ(play(true), play(false));
}

TEST(Sampler, ReportsLogprobsOfTheRawLogits) {
  SamplingOptions o;
  o.repetition_penalty = 10;
  o.logprobs = 2;
  Sampler sampler(3, 3);
  sampler.start(1, o, 1);
  sampler.feed(1, 0, std::vector<int32_t>{0});
  const Choice choice = sampler.choose(1, 0, logs({0.7, 0.2, 0.1}));
  EXPECT_EQ(choice.token, 1);  // ten times log 0.7 is less than log 0.2
  EXPECT_NEAR(choice.logprob, std::log(0.2), 1e-6);
  ASSERT_EQ(choice.top.size(), 2u);
  EXPECT_EQ(choice.top[0].id, 0);
  EXPECT_NEAR(choice.top[0].logprob, std::log(0.7), 1e-6);
  EXPECT_EQ(choice.top[1].id, 1);
}

TEST(Sampler, DrawsOfARequestDependOnSeedAndPositionNotOnOthers) {
  SamplingOptions o = hot();
  o.seed = 42;
  const std::vector<float> logits = logs({0.3, 0.3, 0.2, 0.2});
  Sampler one(4, 4), two(4, 4);
  one.start(1, o, 1);
  two.start(9, o, 1);
  two.start(5, o, 1);
  for (int64_t position = 0; position < 200; ++position) {
    two.choose(5, position * 3, logits);
    EXPECT_EQ(one.choose(1, position, logits).token, two.choose(9, position, logits).token);
  }
}

TEST(Sampler, GivesNoTokenWhenLogitsAreNotNumbers) {
  Sampler sampler(2, 2);
  sampler.start(1, SamplingOptions{}, 1);
  EXPECT_EQ(sampler.choose(1, 0, std::vector<float>{0, std::nanf("")}).token, -1);
  EXPECT_EQ(sampler.choose(1, 0, std::vector<float>{0, kInf}).token, -1);
}

TEST(Sampler, ForgetsReleasedRequests) {
  Sampler sampler(2, 2);
  sampler.start(1, SamplingOptions{}, 1);
  sampler.release(1);
  EXPECT_EQ(sampler.size(), 0u);
  EXPECT_THROW(sampler.choose(1, 0, std::vector<float>{0, 1}), Error);
}

// What a backend answers, by the CPU's.
std::optional<Choice> by_survey(Sampler& sampler, int64_t position, const std::vector<float>& logits) {
  const auto vocab = static_cast<int64_t>(logits.size());
  const LogitAsk ask = sampler.ask(1);
  if (ask.best == 0) return std::nullopt;
  const auto backend = make_backend("cpu", {});
  std::vector<int32_t> words(kAskWords), out(static_cast<size_t>(survey_words(ask.best)));
  std::memcpy(words.data(), &ask, sizeof ask);
  backend->survey_logits(TensorView::of(out.data(), {1, survey_words(ask.best)}), TensorView::of(logits.data(), {1, vocab}), TensorView::of(words.data(), {1, kAskWords}), sampler.id_limit());
  LogitSummary summary;
  std::memcpy(static_cast<void*>(&summary), out.data(), sizeof summary);
  return sampler.choose(1, position, summary, {reinterpret_cast<const LogitCandidate*>(out.data() + kSummaryWords), static_cast<size_t>(summary.count)});
}

std::vector<SamplingOptions> many_options() {
  std::vector<SamplingOptions> all;
  for (const float temperature : {0.0f, 0.3f, 0.6f, 1.0f, 1.7f})
    for (const int32_t top_k : {0, 1, 5, 40, 1024, 2000})
      for (const float top_p : {0.1f, 0.5f, 0.95f, 0.999f, 1.0f})
        for (const float min_p : {0.0f, 0.02f, 0.5f}) {
          SamplingOptions o = hot(temperature);
          o.top_k = top_k;
          o.top_p = top_p;
          o.min_p = min_p;
          o.seed = all.size();
          o.logprobs = all.size() % 5 == 0 ? 3 : 0;
          all.push_back(o);
        }
  return all;
}

TEST(Survey, GivesTheWholeRowsChoiceWhereverItGivesOne) {
  int given = 0, asked = 0;
  for (const int64_t vocab : {300, 6000}) {
    for (const float spread : {0.5f, 4.0f}) {
      std::mt19937 random(3);
      std::normal_distribution<float> normal(0, spread);
      std::vector<float> logits(static_cast<size_t>(vocab));
      for (float& logit : logits) logit = std::round(normal(random) * 64) / 64;  // with ties
      for (const SamplingOptions& options : many_options()) {
        Sampler sampler(vocab, vocab - 17);
        sampler.start(1, options, 4);
        const std::optional<Choice> choice = by_survey(sampler, 9, logits);
        ++asked;
        if (!choice) continue;
        ++given;
        const Choice whole = sampler.choose(1, 9, logits);
        ASSERT_EQ(choice->token, whole.token) << "temperature " << options.temperature << ", top_k " << options.top_k << ", top_p " << options.top_p << ", min_p " << options.min_p;
        ASSERT_NEAR(choice->logprob, whole.logprob, 1e-6);
        ASSERT_EQ(choice->top.size(), whole.top.size());
        for (size_t i = 0; i < whole.top.size(); ++i) {
          EXPECT_EQ(choice->top[i].id, whole.top[i].id);
          EXPECT_NEAR(choice->top[i].logprob, whole.top[i].logprob, 1e-6);
        }
      }
    }
  }
  EXPECT_GT(given, asked / 2);
}

TEST(Survey, LeavesLogprobsToTheWholeRowWhereAnIdThatIsNeverChosenTowersOverAll) {
  std::vector<float> logits(300, 0.0f);
  logits[295] = 2000;  // beyond the limit: e^2000 is none of f64's
  Sampler sampler(300, 290);
  SamplingOptions options;
  options.logprobs = 3;
  sampler.start(1, options, 4);
  EXPECT_FALSE(by_survey(sampler, 2, logits).has_value());
  EXPECT_NEAR(sampler.choose(1, 2, logits).logprob, -2000, 1e-3);
}

TEST(Survey, AsksForTheWholeRowWhereCandidatesDoNotSettleIt) {
  std::vector<float> flat(6000, 0.0f);
  const auto settled = [&](const SamplingOptions& options) {
    Sampler sampler(6000, 6000);
    sampler.start(1, options, 4);
    return by_survey(sampler, 2, flat).has_value();
  };
  SamplingOptions o = hot();
  EXPECT_FALSE(settled(o));  // a draw among all
  o.top_p = 0.9f;
  EXPECT_FALSE(settled(o));  // 5400 ids are kept
  o.top_p = 0.125f;
  EXPECT_FALSE(settled(o));  // the sum of 750 is the border itself: rounding decides
  o.top_p = 0.1251f;
  EXPECT_TRUE(settled(o));
  o.top_p = 1;
  o.min_p = 0.5f;
  EXPECT_FALSE(settled(o));  // the last candidate is as good as the first
  o.min_p = 0;
  o.top_k = 2000;
  EXPECT_FALSE(settled(o));
  o.top_k = 7;
  EXPECT_TRUE(settled(o));
  o.presence_penalty = 1;
  EXPECT_FALSE(settled(o));
  EXPECT_TRUE(settled({}));
}

TEST(CheckSampling, NamesTheValueThatIsOutOfRange) {
  const auto refused = [](auto set) {
    SamplingOptions o;
    set(o);
    try {
      check_sampling(o);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Error::invalid_argument);
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(refused([](SamplingOptions& o) { o.temperature = -1; }).find("temperature"), std::string::npos);
  EXPECT_NE(refused([](SamplingOptions& o) { o.temperature = std::nanf(""); }).find("temperature"), std::string::npos);
  EXPECT_NE(refused([](SamplingOptions& o) { o.top_p = 0; }).find("top_p"), std::string::npos);
  EXPECT_NE(refused([](SamplingOptions& o) { o.top_p = 1.5f; }).find("top_p"), std::string::npos);
  EXPECT_NE(refused([](SamplingOptions& o) { o.top_k = -1; }).find("top_k"), std::string::npos);
  EXPECT_NE(refused([](SamplingOptions& o) { o.min_p = 2; }).find("min_p"), std::string::npos);
  EXPECT_NE(refused([](SamplingOptions& o) { o.repetition_penalty = 0; }).find("repetition_penalty"), std::string::npos);
  EXPECT_NE(refused([](SamplingOptions& o) { o.logprobs = 21; }).find("logprobs"), std::string::npos);
  EXPECT_EQ(refused([](SamplingOptions&) {}), "");
}

TEST(StopFilter, HoldsBackWhatMayBeginAStopStringAndEndsBeforeIt) {
  StopFilter filter({"END", "\n\n"});
  EXPECT_EQ(filter.push("abc E"), "abc ");
  EXPECT_EQ(filter.push("N"), "");
  EXPECT_EQ(filter.push("ough\n"), "ENough");
  EXPECT_EQ(filter.push("x\nE"), "\nx\n");
  EXPECT_EQ(filter.push("ND tail"), "");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.push("more"), "");
  EXPECT_EQ(filter.finish(), "");
}

TEST(StopFilter, GivesWhatItHeldWhenTheAnswerEndsOtherwise) {
  StopFilter filter({"STOP"});
  EXPECT_EQ(filter.push("ST"), "");
  EXPECT_EQ(filter.finish(), "ST");
}

TEST(StopFilter, FindsTheEarliestOfSeveralHoweverTheTextIsCut) {
  const std::string text = "one two aab aaab and b";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    StopFilter filter({"aaab", "b and", "ab a"});
    std::string shown = filter.push(text.substr(0, cut));
    shown += filter.push(text.substr(cut));
    EXPECT_EQ(shown, "one two a") << "cut at " << cut;
    EXPECT_TRUE(filter.stopped());
  }
}

TEST(Announcement, SurvivesTheWire) {
  Announcement a;
  a.flight_ns = 77;
  a.scheduled.batch.step = 5;
  a.scheduled.batch.parts.resize(2);
  a.scheduled.batch.parts[1].tokens = {1, 2, 3};
  a.scheduled.batch.parts[1].segments.push_back({4, 3, false, {8, 9}, {2}});
  a.scheduled.owners = {{}, {{11, 6, true, true}}};
  a.scheduled.released = {3, 4};
  SamplingOptions sampling;
  sampling.seed = 99;
  a.starts.push_back({11, sampling});
  const Announcement b = Announcement::from_bytes(a.to_bytes());
  EXPECT_EQ(b.flight_ns, 77u);
  EXPECT_EQ(b.scheduled.batch.parts[1].segments[0].pages, (std::vector<int32_t>{8, 9}));
  EXPECT_EQ(b.scheduled.owners[1][0].request, 11u);
  EXPECT_TRUE(b.scheduled.owners[1][0].first);
  EXPECT_EQ(b.scheduled.released, (std::vector<uint64_t>{3, 4}));
  EXPECT_EQ(b.starts.at(0).sampling.seed, 99u);
  const std::string bytes = a.to_bytes();
  for (size_t cut = 0; cut < bytes.size(); ++cut) EXPECT_THROW(Announcement::from_bytes(bytes.substr(0, cut)), Error);

  BatchResult result;
  result.step = 5;
  result.choices.push_back({11, 42, -0.5f, {{42, -0.5f}, {7, -1.5f}}});
  const BatchResult back = BatchResult::from_bytes(result.to_bytes());
  EXPECT_EQ(back.choices.at(0).token, 42);
  EXPECT_EQ(back.choices[0].top.at(1).id, 7);
}

}  // namespace
}  // namespace dsinfer
