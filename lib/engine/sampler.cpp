#include "engine/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace dsinfer {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

bool penalises_repetition(const SamplingOptions& o) { return o.repetition_penalty != 1; }
bool penalises(const SamplingOptions& o) { return penalises_repetition(o) || o.presence_penalty != 0 || o.frequency_penalty != 0; }

// Ids of the `count` best, best first, the lower id first on a tie.
std::vector<int32_t> best_ids(std::span<const float> scores, size_t count) {
  std::vector<int32_t> ids(scores.size());
  std::iota(ids.begin(), ids.end(), 0);
  count = std::min(count, ids.size());
  const auto better = [&](int32_t a, int32_t b) {
    const float x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(), better);
  ids.resize(count);
  return ids;
}

int32_t best_id(std::span<const float> scores) { return static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin()); }

double log_sum_exp(std::span<const float> values) {
  const double top = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (const float value : values) sum += std::exp(value - top);
  return top + std::log(sum);
}

void require(bool holds, const char* name, double found, const char* range) {
  if (!holds) throw Error(Error::invalid_argument, std::string(name) + " is " + std::to_string(found) + ", expected " + range);
}

}  // namespace

void philox4x32_10(uint32_t (&counter)[4], uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = 0xD2511F53ull * counter[0], b = 0xCD9E8D57ull * counter[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(a)};
    std::copy(next, next + 4, counter);
    key0 += 0x9E3779B9u;  // Weyl sequence: golden ratio, then sqrt(3) - 1
    key1 += 0xBB67AE85u;
  }
}

double uniform_at(uint64_t seed, uint64_t position) {
  uint32_t words[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0};
  philox4x32_10(words, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const uint64_t bits = (static_cast<uint64_t>(words[0]) << 32 | words[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

void check_sampling(const SamplingOptions& o) {
  require(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", o.temperature, "a finite number from 0 on (0 = greedy)");
  require(o.top_k >= 0, "top_k", o.top_k, "0 (off) or a positive count");
  require(o.top_p > 0 && o.top_p <= 1, "top_p", o.top_p, "more than 0 and at most 1 (off)");
  require(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "0 (off) to 1");
  require(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty), "repetition_penalty", o.repetition_penalty, "a positive number (1 = off)");
  require(std::isfinite(o.presence_penalty), "presence_penalty", o.presence_penalty, "a finite number (0 = off)");
  require(std::isfinite(o.frequency_penalty), "frequency_penalty", o.frequency_penalty, "a finite number (0 = off)");
  require(o.logprobs >= 0 && o.logprobs <= 20, "logprobs", o.logprobs, "0 to 20");
}

namespace {

struct Weight {
  double top, temperature;
  double operator()(float score) const { return std::exp((score - top) / temperature); }  // the best one's is 1
};

// Among those kept; `best` where rounding leaves none at the very end.
int32_t draw(std::vector<LogitCandidate> kept, const Weight& weight, const SamplingOptions& options, double uniform, int32_t best) {
  std::erase_if(kept, [&](const LogitCandidate& c) { return c.logit == kMasked || weight(c.logit) < options.min_p; });
  std::sort(kept.begin(), kept.end(), [](const LogitCandidate& a, const LogitCandidate& b) { return a.id < b.id; });
  double all = 0;
  for (const LogitCandidate& c : kept) all += weight(c.logit);
  double left = uniform * all;
  for (const LogitCandidate& c : kept) {
    left -= weight(c.logit);
    if (left < 0) return c.id;
  }
  return best;
}

bool is_greedy(const SamplingOptions& o) { return o.temperature == 0 || o.top_k == 1; }

}  // namespace

int32_t choose_token(std::span<const float> scores, const SamplingOptions& options, double uniform) {
  const int32_t best = best_id(scores);
  if (is_greedy(options)) return best;
  const Weight weight{scores[static_cast<size_t>(best)], options.temperature};
  std::vector<LogitCandidate> kept;
  if (options.top_k > 0 || options.top_p < 1) {
    for (const int32_t id : best_ids(scores, options.top_k > 0 ? static_cast<size_t>(options.top_k) : scores.size())) kept.push_back({id, scores[static_cast<size_t>(id)]});
  } else {
    for (size_t id = 0; id < scores.size(); ++id) kept.push_back({static_cast<int32_t>(id), scores[id]});
  }
  if (options.top_p < 1) {  // the fewest best whose probabilities reach top_p
    double all = 0, sum = 0;
    for (const LogitCandidate& c : kept) all += weight(c.logit);
    size_t count = 0;
    while (count < kept.size() && (count == 0 || sum < static_cast<double>(options.top_p) * all)) sum += weight(kept[count++].logit);
    kept.resize(count);
  }
  return draw(std::move(kept), weight, options, uniform, best);
}

std::optional<int32_t> choose_among(std::span<const LogitCandidate> best, bool all_there, double tempered_mass, const SamplingOptions& options, double uniform) {
  if (is_greedy(options)) return best[0].id;
  const Weight weight{best[0].logit, options.temperature};
  const auto top_k = static_cast<size_t>(options.top_k);
  const bool whole = all_there || (top_k > 0 && top_k <= best.size());  // the cuts by top_p and min_p see what they would of the whole row
  if (!whole && top_k > 0) return std::nullopt;
  std::vector<LogitCandidate> kept(best.begin(), best.end());
  if (top_k > 0) kept.resize(std::min(kept.size(), top_k));
  if (options.top_p < 1) {
    constexpr double kDoubt = 1e-10;  // sums of f64 in another order, by another exp(), differ by far less
    double all = tempered_mass, sum = 0;
    if (whole) {
      all = 0;
      for (const LogitCandidate& c : kept) all += weight(c.logit);
    }
    const double border = static_cast<double>(options.top_p) * all;
    size_t count = 0;
    for (; count < kept.size(); ++count) {
      if (count > 0 && !whole && std::abs(sum - border) <= kDoubt * all) return std::nullopt;
      if (count > 0 && !(sum < border)) break;
      sum += weight(kept[count].logit);
    }
    if (!whole && (sum < border || std::abs(sum - border) <= kDoubt * all)) return std::nullopt;
    kept.resize(count);
  } else if (!whole && !(weight(best.back().logit) < options.min_p)) {
    return std::nullopt;
  }
  return draw(std::move(kept), weight, options, uniform, best[0].id);
}

void Sampler::start(uint64_t request, const SamplingOptions& options, int64_t prompt_tokens) {
  State state;
  state.options = options;
  state.prompt_tokens = prompt_tokens;
  states_.insert_or_assign(request, std::move(state));
}

Sampler::State& Sampler::state(uint64_t request) {
  const auto found = states_.find(request);
  if (found == states_.end()) throw Error(Error::internal, "sampler: request " + std::to_string(request) + " was never announced here");
  return found->second;
}

void Sampler::feed(uint64_t request, int64_t position, std::span<const int32_t> tokens) {
  State& s = state(request);
  if (!penalises_repetition(s.options)) return;
  for (const int32_t token : tokens) {
    if (position == s.fed && position < s.prompt_tokens) {
      s.prompt.insert(token);
      ++s.fed;
    }
    ++position;
  }
}

// Repetition: a positive score is divided, a negative one multiplied (CTRL, Keskar et al. 2019, as transformers has it).
void Sampler::penalise(const State& s) {
  const SamplingOptions& o = s.options;
  const auto discourage = [&](int32_t id) {
    float& score = scores_[static_cast<size_t>(id)];
    score = score > 0 ? score / o.repetition_penalty : score * o.repetition_penalty;
  };
  if (penalises_repetition(o)) {
    for (const int32_t id : s.prompt) discourage(id);
    for (const auto& [id, count] : s.counts) if (!s.prompt.count(id)) discourage(id);
  }
  for (const auto& [id, count] : s.counts) {
    scores_[static_cast<size_t>(id)] -= o.presence_penalty + o.frequency_penalty * static_cast<float>(count);
  }
}

LogitAsk Sampler::ask(uint64_t request) {
  const SamplingOptions& o = state(request).options;
  LogitAsk ask;
  ask.best = 0;
  if (penalises(o)) return ask;
  if (!is_greedy(o)) {
    if (o.top_k > kMostBest || (o.top_k == 0 && o.top_p == 1 && o.min_p == 0)) return ask;
    ask.temperature = o.temperature;
    if (o.top_k == 0 && o.top_p < 1) ask.sums |= LogitAsk::kTemperedMass;
  }
  ask.best = static_cast<uint16_t>(is_greedy(o) ? 1 : o.top_k > 0 ? o.top_k : kMostBest);
  if (o.logprobs > 0) {
    ask.best = std::max(ask.best, static_cast<uint16_t>(o.logprobs));
    ask.sums |= LogitAsk::kMass;
  }
  return ask;
}

std::optional<Choice> Sampler::choose(uint64_t request, int64_t position, const LogitSummary& summary, std::span<const LogitCandidate> best) {
  const SamplingOptions& o = state(request).options;
  if (penalises(o)) return std::nullopt;
  Choice choice;
  choice.request = request;
  if (!summary.finite) return choice;
  if (o.logprobs > 0 && !std::isfinite(summary.mass)) return std::nullopt;  // an id that is never chosen lies far above all others
  const double uniform = o.temperature > 0 ? uniform_at(o.seed, static_cast<uint64_t>(position) + 1) : 0;
  const std::optional<int32_t> token = choose_among(best, static_cast<int64_t>(best.size()) >= id_limit_, summary.tempered_mass, o, uniform);
  if (!token) return std::nullopt;
  choice.token = *token;
  if (o.logprobs > 0) {
    const double norm = best[0].logit + std::log(summary.mass);
    const auto chosen = std::find_if(best.begin(), best.end(), [&](const LogitCandidate& c) { return c.id == choice.token; });
    choice.logprob = static_cast<float>(chosen->logit - norm);
    for (const LogitCandidate& c : best.first(std::min(best.size(), static_cast<size_t>(o.logprobs)))) choice.top.push_back({c.id, static_cast<float>(c.logit - norm)});
  }
  return choice;
}

Choice Sampler::choose(uint64_t request, int64_t position, std::span<const float> logits) {
  State& s = state(request);
  Choice choice;
  choice.request = request;
  if (std::any_of(logits.begin(), logits.end(), [](float v) { return !std::isfinite(v); })) return choice;

  scores_.assign(logits.begin(), logits.end());
  if (penalises(s.options)) penalise(s);
  std::fill(scores_.begin() + id_limit_, scores_.end(), kMasked);
  const bool random = s.options.temperature > 0;
  choice.token = choose_token(scores_, s.options, random ? uniform_at(s.options.seed, static_cast<uint64_t>(position) + 1) : 0);
  if (penalises(s.options)) ++s.counts[choice.token];

  if (s.options.logprobs > 0) {
    const double norm = log_sum_exp(logits);
    const auto logprob = [&](int32_t id) { return static_cast<float>(logits[static_cast<size_t>(id)] - norm); };
    choice.logprob = logprob(choice.token);
    for (const int32_t id : best_ids(logits.first(static_cast<size_t>(id_limit_)), static_cast<size_t>(s.options.logprobs))) choice.top.push_back({id, logprob(id)});
  }
  return choice;
}

}  // namespace dsinfer
