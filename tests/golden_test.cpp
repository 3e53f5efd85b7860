// Logits of tiny checkpoints of every family against the public `transformers` implementation (tests/data/goldens), through the public Forward.
#include <gtest/gtest.h>

#include "device.hpp"
#include "golden.hpp"

namespace dsinfer {
namespace {

using test::Difference;
using test::difference;
using test::Golden;
using test::GoldenSequence;

// A float32 implementation against the float32 reference, whole tiny models, each row by itself. Measured worst of all: 4.4e-6 and 1.3e-5.
constexpr double kRelativeL2 = 1e-5, kMaxOverRms = 1e-4;

std::map<std::string, Difference> worst_by_case;

class WorstCases : public testing::Environment {
  void TearDown() override {
    for (const auto& [name, worst] : worst_by_case) std::printf("%-24s relative L2 %.2e   max/RMS %.2e\n", name.c_str(), worst.relative_l2, worst.max_over_rms);
  }
};
const auto* const environment = testing::AddGlobalTestEnvironment(new WorstCases);

ForwardOptions options_for(const Golden& golden) {
  ForwardOptions o;
  o.model = golden.folder;
  o.device = test_device();
  o.threads = 1;
  o.max_tokens = 256;
  o.max_sequences = 4;
  o.page_size = 5;
  o.num_pages = 120;
  return o;
}

// One sequence under way.
struct Underway {
  GoldenSequence want;
  int64_t at = 0;  // rows done
  std::vector<int32_t> pages;

  bool done() const { return at == static_cast<int64_t>(want.ids.size()); }
  // The next n rows, asking for every row whose logits are known.
  ForwardSequence next(test::ShuffledPages& pool, int64_t n, bool decode) {
    n = std::min(n, static_cast<int64_t>(want.ids.size()) - at);
    ForwardSequence s;
    s.position = at;
    s.tokens.assign(want.ids.begin() + at, want.ids.begin() + at + n);
    s.pages = pool.cover(pages, at + n);
    s.decode = decode;
    for (int32_t row = 0; row < n; ++row) if (want.logits.count(static_cast<int32_t>(at) + row)) s.logit_rows.push_back(row);
    return s;
  }
};

class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  Golden golden{std::filesystem::path(DSINFER_TEST_DATA) / "goldens" / GetParam()};
  std::unique_ptr<World> world = single_world();
  std::optional<Forward> forward;
  std::optional<test::ShuffledPages> pool;
  Difference worst;

  void start(bool w8a8 = false) {
    ForwardOptions options = options_for(golden);
    options.w8a8 = w8a8;
    options.max_len = golden.info["a"]["length"].get<int64_t>();
    forward.emplace(*world, options);
    pool.emplace(forward->num_pages(), forward->page_size(), 7);
  }
  Underway sequence(const std::string& key, size_t length = 0) {
    Underway run{golden.sequence(key), 0, {}};
    if (length) run.want.ids.resize(std::min(length, run.want.ids.size()));
    return run;
  }
  // One step of these sequences, each by its number of rows (negative: decode); compares all known rows.
  void step(std::vector<std::pair<Underway*, int64_t>> work) {
    std::vector<ForwardSequence> sequences;
    for (auto& [run, n] : work) sequences.push_back(run->next(*pool, std::abs(n), n < 0));
    const Logits logits = forward->run(sequences);
    int64_t at = 0;
    for (size_t i = 0; i < work.size(); ++i) {
      for (int32_t row : sequences[i].logit_rows) {
        Underway& run = *work[i].first;
        const Difference d = difference(logits.row(at++), run.want.logits.at(static_cast<int32_t>(run.at) + row));
        EXPECT_LE(d.relative_l2, kRelativeL2) << "row " << run.at + row;
        EXPECT_LE(d.max_over_rms, kMaxOverRms) << "row " << run.at + row;
        worst.join(d);
      }
      work[i].first->at += static_cast<int64_t>(sequences[i].tokens.size());
    }
    ASSERT_EQ(at, logits.rows());
  }
  void TearDown() override { worst_by_case[GetParam()].join(worst); }
};

TEST_P(GoldenTest, PrefillInOnePassEqualsTheReference) {
  start();
  for (size_t length : {1u, 2u, 63u, 64u, 65u, 66u, 200u, 256u}) {
    Underway a = sequence("a", length);
    ASSERT_TRUE(a.want.logits.count(static_cast<int32_t>(a.want.ids.size()) - 1)) << "the last row of " << length;
    pool.emplace(forward->num_pages(), forward->page_size(), static_cast<unsigned>(length));
    step({{&a, 256}});
  }
}

TEST_P(GoldenTest, PrefillInChunksEqualsTheReference) {
  start();
  for (int64_t chunk : {7, 16, 33}) {
    Underway a = sequence("a");
    pool.emplace(forward->num_pages(), forward->page_size(), static_cast<unsigned>(chunk));
    while (!a.done()) step({{&a, chunk}});
  }
}

TEST_P(GoldenTest, DecodingRowByRowEqualsTheReference) {
  start();
  Underway b = sequence("b");
  while (!b.done()) step({{&b, -1}});
  Underway a = sequence("a");
  step({{&a, 140}});
  while (!a.done()) step({{&a, -1}});
}

// Two rows at once, as speculative decoding sends them.
TEST_P(GoldenTest, DecodingTwoRowsAtOnceEqualsTheReference) {
  start();
  Underway b = sequence("b");
  step({{&b, 31}});
  while (!b.done()) step({{&b, -2}});
}

TEST_P(GoldenTest, SequencesAtDifferentPositionsDoNotDisturbEachOther) {
  start();
  Underway a = sequence("a"), b = sequence("b"), c = sequence("b");
  step({{&a, 100}});
  step({{&b, 33}, {&a, -1}});
  step({{&a, -1}, {&c, 9}, {&b, 33}});
  while (!b.done()) step({{&a, -1}, {&c, 3}, {&b, -1}});
}

TEST_P(GoldenTest, GreedyContinuationEqualsTheReference) {
  start();
  const auto tokens = golden.info["greedy"]["tokens"].get<std::vector<int32_t>>();
  Underway a = sequence("a", golden.info["greedy"]["prompt_length"].get<size_t>());
  a.want.logits.clear();
  ForwardSequence s = a.next(*pool, 256, false);
  for (size_t i = 0; i < tokens.size(); ++i) {
    s.logit_rows = {static_cast<int32_t>(s.tokens.size()) - 1};
    const Logits logits = forward->run({&s, 1});
    ASSERT_EQ(test::argmax(logits.row(0)), tokens[i]) << "token " << i;
    s.position += static_cast<int64_t>(s.tokens.size());
    s.tokens = {tokens[i]};
    s.pages = pool->cover(a.pages, s.position + 1);
    s.decode = true;
  }
}

class QuantisedGoldenTest : public GoldenTest {};

// Activations quantised to E4M3. Ids were chosen away from rounding jumps, but a jump that f32 takes and f64 does not still ends as a few
// per cent in that row and those after it: so nearly all rows must agree tightly, and none may be far off.
TEST_P(QuantisedGoldenTest, QuantisedActivationsEqualTheirEmulation) {
  start(true);
  std::vector<double> rows;
  const auto compare = [&](std::span<const float> got, std::span<const float> want) { rows.push_back(difference(got, want).relative_l2); };
  const GoldenSequence want = golden.sequence("w8a8");
  const auto vocab = static_cast<size_t>(forward->config().vocab_size);
  for (int64_t chunk : {48, 7}) {
    Underway run{want, 0, {}};
    while (!run.done()) {
      const ForwardSequence s = run.next(*pool, chunk, false);
      const Logits logits = forward->run({&s, 1});
      for (size_t i = 0; i < s.logit_rows.size(); ++i) compare(logits.row(static_cast<int64_t>(i)), want.logits.at(static_cast<int32_t>(run.at) + s.logit_rows[i]));
      run.at += static_cast<int64_t>(s.tokens.size());
    }
  }
  Underway run{want, 0, {}};
  run.want.ids.resize(golden.info["w8a8"]["prompt_length"].get<size_t>());
  const ForwardSequence prompt = run.next(*pool, 48, false);
  forward->run({&prompt, 1});
  run.want.ids.insert(run.want.ids.end(), golden.tensors.at("w8a8.decode_ids").i32.begin(), golden.tensors.at("w8a8.decode_ids").i32.end());
  const float* decoded = golden.tensors.at("w8a8.decode_logits").f32.data();
  for (run.at = static_cast<int64_t>(prompt.tokens.size()); !run.done(); ++run.at, decoded += vocab) {
    ForwardSequence s = run.next(*pool, 1, true);
    s.logit_rows = {0};
    compare(forward->run({&s, 1}).row(0), {decoded, vocab});
  }
  const auto close = static_cast<size_t>(std::count_if(rows.begin(), rows.end(), [](double r) { return r <= kRelativeL2; }));
  std::printf("%s w8a8: %zu of %zu rows within 1e-5, worst %.2e\n", GetParam().c_str(), close, rows.size(), *std::max_element(rows.begin(), rows.end()));
  EXPECT_GE(close * 10, rows.size() * 9);
  EXPECT_LE(*std::max_element(rows.begin(), rows.end()), 0.1);
}

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(DSINFER_TEST_DATA) / "goldens")) {
    if (std::filesystem::exists(entry.path() / "golden.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string test_name(const testing::TestParamInfo<std::string>& tested) {
  std::string name = tested.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenTest, testing::ValuesIn(golden_names()), test_name);
INSTANTIATE_TEST_SUITE_P(Checkpoints, QuantisedGoldenTest, testing::Values("fp8", "fp8-tp"), test_name);

}  // namespace
}  // namespace dsinfer
