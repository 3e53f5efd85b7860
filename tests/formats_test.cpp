// Models whose weights are converted on loading, through the public Forward.
#include <gtest/gtest.h>

#include "golden.hpp"
#include "ranks.hpp"

namespace dsinfer {
namespace {

using namespace test;

std::filesystem::path golden_folder(const std::string& name) { return std::filesystem::path(DSINFER_TEST_DATA) / "goldens" / name; }

// Logits of the golden's sequence b: a prefill of most of it, then decode.
std::vector<float> logits_of(const std::string& name, WeightFormat format, const std::string& spec, int ranks, ReadMethod method = ReadMethod::automatic) {
  const Golden golden(golden_folder(name));
  const GoldenSequence b = golden.sequence("b");
  std::vector<float> all;
  const Plan plan = solve(held_config(ModelConfig::load(golden.folder), format), PlanRequest::parse(spec, ranks));
  on_threads(ranks, [&](World& world) {
    ForwardOptions options;
    options.model = golden.folder;
    options.plan = plan;
    options.threads = 1;
    options.max_tokens = 96;
    options.max_len = 96;
    options.page_size = 8;
    options.num_pages = 12;
    options.load.weights = format;
    options.load.method = method;
    Forward forward(world, options);
    if (world.rank() != 0) {
      while (forward.follow(1s)) {}
      return;
    }
    ForwardSequence s;
    for (int32_t page = 0; page < 12; ++page) s.pages.push_back(page);
    s.tokens.assign(b.ids.begin(), b.ids.begin() + 80);
    for (const auto& [row, values] : b.logits) if (row < 80) s.logit_rows.push_back(row);
    all = forward.run({&s, 1}).values;
    for (int64_t at = 80; at < static_cast<int64_t>(b.ids.size()); ++at) {
      ForwardSequence next = s;
      next.position = at;
      next.tokens = {b.ids[static_cast<size_t>(at)]};
      next.decode = true;
      next.logit_rows = b.logits.count(static_cast<int32_t>(at)) ? std::vector<int32_t>{0} : std::vector<int32_t>{};
      const Logits logits = forward.run({&next, 1});
      all.insert(all.end(), logits.values.begin(), logits.values.end());
    }
  });
  return all;
}

// |Δ log-probability| of every token, sorted.
std::vector<double> log_prob_changes(const std::vector<float>& a, const std::vector<float>& b, size_t vocab) {
  std::vector<double> changes;
  for (size_t row = 0; row < a.size(); row += vocab) {
    const auto log_sum = [&](const std::vector<float>& x) {
      double sum = 0;
      for (size_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(x[row + i]));
      return std::log(sum);
    };
    const double la = log_sum(a), lb = log_sum(b);
    for (size_t i = 0; i < vocab; ++i) changes.push_back(std::abs((static_cast<double>(a[row + i]) - la) - (static_cast<double>(b[row + i]) - lb)));
  }
  std::sort(changes.begin(), changes.end());
  return changes;
}

struct Change { double median, largest; };

Change change(const std::string& name, WeightFormat format) {
  const std::vector<float> stored = logits_of(name, WeightFormat::as_stored, "", 1), converted = logits_of(name, format, "", 1);
  EXPECT_EQ(stored.size(), converted.size());
  const auto changes = log_prob_changes(converted, stored, static_cast<size_t>(ModelConfig::load(golden_folder(name)).vocab_size));
  std::printf("%s: median %.4f, largest %.4f\n", name.c_str(), changes[changes.size() / 2], changes.back());
  return {changes[changes.size() / 2], changes.back()};
}

// Decoding to BF16 loses half a unit in the eighth bit: medians of 0.01, and at most about 0.3 where an expert's choice flips, over models like these.
TEST(Formats, Fp8HeldAsBf16ChangesLogProbabilitiesALittle) {
  for (const char* name : {"fp8", "edge-fp8"}) {
    const Change c = change(name, WeightFormat::bf16);
    EXPECT_GT(c.largest, 0);
    EXPECT_LE(c.median, 0.02) << name;
    EXPECT_LE(c.largest, 0.35) << name;
  }
}

// Scales of the power of two leave E4M3's four significant bits as they are.
TEST(Formats, Fp8WithScalesOfPowersOfTwoIsTheSameInBf16) { EXPECT_EQ(change("fp8-tp", WeightFormat::bf16).largest, 0); }

TEST(Formats, WeightsLeftInTheirFilesGiveTheSameLogits) {
  const auto same = [](const std::string& name, WeightFormat format, const std::string& spec, int ranks) {
    EXPECT_EQ(logits_of(name, format, spec, ranks, ReadMethod::mmap), logits_of(name, format, spec, ranks)) << name << " " << spec;
  };
  same("fp8", WeightFormat::as_stored, "", 1);
  same("fp8-tp", WeightFormat::as_stored, "tp=2", 2);
  same("fp8", WeightFormat::bf16, "", 1);
  same("v3", WeightFormat::as_stored, "tp=2,ep=1", 2);
  same("v3", WeightFormat::as_stored, "dp=2,ep=2", 2);
}

// Four significant bits of weights: relative errors of 2 to 3 % in each product. The largest changes are those of tokens for which an expert's choice flips.
TEST(Formats, Bf16HeldAsFp8GivesSensibleLogProbabilities) {
  for (const char* name : {"v3", "moonlight", "v2-lite"}) {
    const Change c = change(name, WeightFormat::fp8);
    EXPECT_GT(c.median, 0.01) << name;
    EXPECT_LE(c.median, 0.2) << name;
  }
}

// Where FP8 as stored would be cut within blocks, BF16 is not: the same logits on two ranks as on one.
TEST(Formats, PlansOfWeightsHeldAsBf16MayCutBlocks) {
  EXPECT_THROW(solve(ModelConfig::load(golden_folder("fp8")), PlanRequest::parse("tp=2", 2)), Error);
  for (const char* spec : {"tp=2", "tp=2,ep=1"}) {
    const Difference d = difference(logits_of("fp8", WeightFormat::bf16, spec, 2), logits_of("fp8", WeightFormat::bf16, "", 1));
    EXPECT_LE(d.relative_l2, 3e-6) << spec;
    EXPECT_LE(d.max_over_rms, 3e-5) << spec;
  }
}

}  // namespace
}  // namespace dsinfer
