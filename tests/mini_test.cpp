// The shipped model through the library, against what `transformers` makes of the same files (tests/data/mini/make_greedy.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/json.hpp"
#include "device.hpp"
#include "dsinfer/dsinfer.hpp"

namespace dsinfer {
namespace {

const Json& golden() {
  static const Json json = parse_json(read_text_file(DSINFER_TEST_DATA "/mini/greedy.json"), "greedy.json");
  return json;
}

std::vector<int32_t> ids_of(const Json& array) { return array.get<std::vector<int32_t>>(); }

TEST(MiniModel, ContinuesTwentyPromptsAsTransformersDoes) {
  const auto world = single_world();
  EngineOptions options;
  options.forward.model = DSINFER_MINI_DIR;
  options.forward.device = test_device();
  options.forward.max_len = 512;
  Engine engine(*world, options, Tokenizer::load(DSINFER_MINI_DIR));
  const ChatTemplate chat(ChatTemplate::detect(DSINFER_MINI_DIR).value());

  std::map<uint64_t, const Json*> cases;
  std::map<uint64_t, std::vector<int32_t>> answers;
  int plain = 0;
  for (const Json& one : golden()["greedy"]) {
    Request request;
    request.prompt = engine.tokenizer()->encode(one["prompt"].get<std::string>());
    ASSERT_EQ(request.prompt, ids_of(one["prompt_ids"])) << one["user"];
    const ChatMessage question{Role::user, one["user"].get<std::string>()};
    if (chat.render({&question, 1}) == one["prompt"]) {  // some have a system text too
      ASSERT_EQ(chat.encode(*engine.tokenizer(), {&question, 1}), request.prompt);
      ++plain;
    }
    request.max_tokens = static_cast<int64_t>(one["ids"].size());
    cases[engine.submit(std::move(request))] = &one;
  }
  EXPECT_GE(plain, 10);
  std::vector<Event> events;
  while (engine.step(events) != StepResult::idle) {}
  for (const Event& event : events) {
    if (event.kind == Event::Kind::token) answers[event.request].push_back(event.token);
  }

  // Both sides compute in f32 from the same FP8 values; where the two best logits lie closer than this, either may win.
  constexpr double kTie = 1e-3;
  size_t compared = 0;
  for (const auto& [id, one] : cases) {
    const std::vector<int32_t> expected = ids_of((*one)["ids"]);
    for (size_t i = 0; i < expected.size(); ++i) {
      if ((*one)["gap"][i].get<double>() < kTie) break;
      ASSERT_LT(i, answers[id].size()) << (*one)["user"];
      ASSERT_EQ(answers[id][i], expected[i]) << (*one)["user"] << " token " << i;
      ++compared;
    }
  }
  EXPECT_GT(compared, 600u);
}

TEST(MiniModel, FindsTheHeldOutTextAsLikelyAsTransformersDoes) {
  const auto world = single_world();
  ForwardOptions options;
  options.model = DSINFER_MINI_DIR;
  options.device = test_device();
  options.max_len = 512;
  Forward forward(*world, options);
  const Json& heldout = golden()["heldout"];
  double sum = 0;
  int64_t tokens = 0;
  for (size_t i = 0; i < heldout["sequences"].size(); ++i) {
    const std::vector<int32_t> ids = ids_of(heldout["sequences"][i]);
    ASSERT_LE(static_cast<int64_t>(ids.size()), options.max_len);
    ForwardSequence sequence;
    sequence.tokens = ids;
    for (int32_t page = 0; page * forward.page_size() < static_cast<int64_t>(ids.size()); ++page) sequence.pages.push_back(page);
    for (int32_t row = 0; row + 1 < static_cast<int32_t>(ids.size()); ++row) sequence.logit_rows.push_back(row);
    const Logits logits = forward.run({&sequence, 1});
    double nll = 0;
    for (int64_t row = 0; row < logits.rows(); ++row) {
      const std::span<const float> z = logits.row(row);
      const double best = *std::max_element(z.begin(), z.end());
      double total = 0;
      for (const float value : z) total += std::exp(value - best);
      nll += best + std::log(total) - z[static_cast<size_t>(ids[static_cast<size_t>(row) + 1])];
      ++tokens;
    }
    EXPECT_NEAR(nll, heldout["sum_nll"][i].get<double>(), 1e-4 * static_cast<double>(ids.size())) << "sequence " << i;
    sum += nll;
  }
  EXPECT_EQ(tokens, heldout["predicted_tokens"].get<int64_t>());
  EXPECT_NEAR(sum / static_cast<double>(tokens), heldout["mean_nll"].get<double>(), 1e-5);
}

}  // namespace
}  // namespace dsinfer
