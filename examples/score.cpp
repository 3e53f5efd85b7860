// How likely a model finds a text: perplexity, and the log probability of each next token with its best alternatives. Uses the forward pass
// alone (dsinfer/forward.hpp), as an application with a scheduler of its own would.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>

#include "common/model_options.hpp"
#include "common/ranks.hpp"
#include "common/terminal.hpp"
#include "dsinfer/forward.hpp"

namespace {

using namespace dsinfer;
using Json = nlohmann::ordered_json;

struct Settings {
  example::ModelOptions model;
  std::string text_file, ids;
  int64_t top = 0;
  bool json = false, no_bos = false;
};

bool parse(int argc, char** argv, Settings& s) {
  example::OptionList o("usage: example_score --model DIR (--text FILE | --ids 1,2,3) [options]      (mpirun -np N example_score … for N ranks)",
                        "Prints the perplexity of a text. A text longer than the context is scored in windows that overlap by one token.");
  o.text("text", "FILE", "UTF-8 text; the model's BOS is put in front", s.text_file);
  o.text("ids", "1,2,3", "token ids, taken as they are", s.ids);
  o.flag("no-bos", "with --text: no BOS in front", s.no_bos);
  o.integer("top", "K", "report the K most likely tokens of each position", s.top);
  o.flag("json", "print a JSON object with every position", s.json);
  s.model.add_to(o);
  if (!o.parse(argc, argv, example::launcher_rank() <= 0)) return false;
  if (s.text_file.empty() == s.ids.empty()) throw Error(Error::invalid_argument, "give either --text FILE or --ids 1,2,3 (see --help)");
  return true;
}

std::vector<int32_t> read_tokens(const Settings& s, const ModelConfig& config) {
  if (!s.ids.empty()) return example::parse_ids(s.ids, "--ids");
  std::ifstream file(s.text_file, std::ios::binary);
  if (!file) throw Error(Error::not_found, "cannot read the text file " + s.text_file);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  std::vector<int32_t> ids = Tokenizer::load(local_model_files(s.model.model)).encode(text);
  if (!s.no_bos && config.bos_token_id >= 0) ids.insert(ids.begin(), static_cast<int32_t>(config.bos_token_id));
  return ids;
}

// What one row of logits says about the token that follows.
struct Position {
  double logprob = 0;
  std::vector<int32_t> top_ids;
  std::vector<double> top_logprobs;
};

Position judge(std::span<const float> logits, int32_t next, int64_t top) {
  const double best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float value : logits) sum += std::exp(value - best);
  const double norm = best + std::log(sum);
  Position out;
  out.logprob = logits[static_cast<size_t>(next)] - norm;
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto count = std::min<int64_t>(top, static_cast<int64_t>(ids.size()));
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  for (int64_t i = 0; i < count; ++i) {
    out.top_ids.push_back(ids[static_cast<size_t>(i)]);
    out.top_logprobs.push_back(logits[static_cast<size_t>(ids[static_cast<size_t>(i)])] - norm);
  }
  return out;
}

// Positions 0 … n-2 of `ids`: each predicts the token after it. A window begins afresh at its first token.
std::vector<Position> score(Forward& forward, const std::vector<int32_t>& ids, int64_t chunk, int64_t top) {
  const auto last = static_cast<int64_t>(ids.size()) - 1;
  const int64_t window = std::min(forward.max_len(), forward.num_pages() * forward.page_size());
  std::vector<int32_t> pages(static_cast<size_t>((window + forward.page_size() - 1) / forward.page_size()));
  std::iota(pages.begin(), pages.end(), 0);
  std::vector<Position> positions;
  for (int64_t at = 0; at < last;) {
    ForwardSequence rows;
    rows.position = at % window;
    const int64_t count = std::min({chunk, last - at, window - rows.position});
    rows.tokens.assign(ids.begin() + at, ids.begin() + at + count);
    rows.pages.assign(pages.begin(), pages.begin() + (rows.position + count + forward.page_size() - 1) / forward.page_size());
    rows.logit_rows.resize(static_cast<size_t>(count));
    std::iota(rows.logit_rows.begin(), rows.logit_rows.end(), 0);
    const Logits logits = forward.run({&rows, 1});
    for (int64_t i = 0; i < count; ++i) positions.push_back(judge(logits.row(i), ids[static_cast<size_t>(at + i + 1)], top));
    at += count;
  }
  return positions;
}

void print(const Settings& settings, const std::vector<int32_t>& ids, const std::vector<Position>& positions, const Forward& forward) {
  double sum = 0;
  for (const Position& p : positions) sum += p.logprob;
  const double perplexity = std::exp(-sum / static_cast<double>(positions.size()));
  if (!settings.json) {
    if (settings.top > 0) {
      for (size_t i = 0; i < positions.size(); ++i) {
        std::printf("%zu\t%d\t%.6f\t", i, ids[i + 1], positions[i].logprob);
        for (size_t k = 0; k < positions[i].top_ids.size(); ++k) std::printf(" %d:%.4f", positions[i].top_ids[k], positions[i].top_logprobs[k]);
        std::printf("\n");
      }
    }
    std::printf("perplexity %.6f over %zu tokens (%s)\n", perplexity, positions.size(), forward.plan().spec().c_str());
    return;
  }
  Json list = Json::array();
  for (const Position& p : positions) list.push_back({{"logprob", p.logprob}, {"top_ids", p.top_ids}, {"top_logprobs", p.top_logprobs}});
  std::cout << Json{{"perplexity", perplexity}, {"tokens", ids}, {"positions", list}, {"plan", forward.plan().spec()}}.dump() << std::endl;
}

int run(World& world, const Settings& settings) {
  const ForwardOptions options = settings.model.forward(world);
  std::vector<int32_t> ids;
  in_agreement(world, [&] {
    if (world.rank() != 0) return;
    const ModelConfig config = ModelConfig::load(local_model_files(settings.model.model));
    ids = read_tokens(settings, config);
    if (ids.size() < 2) throw Error(Error::invalid_argument, "there are " + std::to_string(ids.size()) + " tokens; scoring needs at least 2");
    for (const int32_t id : ids) {
      if (id < 0 || id >= config.vocab_size) {
        throw Error(Error::invalid_argument, "token id " + std::to_string(id) + " is outside of the vocabulary of " + std::to_string(config.vocab_size) + " ids");
      }
    }
  });
  Forward forward(world, options);
  if (world.rank() != 0) {
    while (forward.follow(std::chrono::milliseconds(1000))) {}
    return 0;
  }
  print(settings, ids, score(forward, ids, settings.model.max_tokens, settings.top), forward);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  try {
    if (!parse(argc, argv, settings)) return 0;
  } catch (const std::exception& e) {
    return example::refuse_start("example_score", e.what());
  }
  return example::run_ranks("example_score", [&](World& world) { return run(world, settings); });
}
