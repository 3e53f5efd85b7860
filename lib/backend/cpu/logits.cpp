// What sampling needs of rows of logits.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_backend.hpp"
#include "backend/logit_survey.hpp"

namespace dsinfer {

using cpu::expect;
using cpu::is;

namespace {

// The best `count` ids, the best first, the lower id first on a tie.
std::vector<int32_t> best_ids(const float* logits, int64_t ids, int64_t count) {
  if (count == 1) return {static_cast<int32_t>(std::max_element(logits, logits + ids) - logits)};
  std::vector<int32_t> order(static_cast<size_t>(ids));
  std::iota(order.begin(), order.end(), 0);
  const auto better = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(count);
  if (end != order.end()) std::nth_element(order.begin(), end, order.end(), better);
  std::sort(order.begin(), end, better);
  order.erase(end, order.end());
  return order;
}

double mass(const float* logits, int64_t count, double top, double temperature) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp((logits[i] - top) / temperature);
  return sum;
}

void survey_row(int32_t* out, const float* logits, int64_t vocab, const LogitAsk& ask, int64_t id_limit) {
  LogitSummary summary;
  std::vector<int32_t> best;
  if (std::all_of(logits, logits + vocab, [](float v) { return std::isfinite(v); })) {
    best = best_ids(logits, id_limit, std::min<int64_t>(ask.best, id_limit));
    const double top = *std::max_element(logits, logits + vocab);
    summary.finite = 1;
    summary.count = static_cast<int32_t>(best.size());
    if (ask.sums & LogitAsk::kMass) summary.mass = mass(logits, vocab, top, 1) * std::exp(top - logits[best[0]]);
    if (ask.sums & LogitAsk::kTemperedMass) summary.tempered_mass = mass(logits, id_limit, logits[best[0]], ask.temperature);
  }
  std::memcpy(out, &summary, sizeof summary);
  for (size_t i = 0; i < best.size(); ++i) {
    const LogitCandidate candidate{best[i], logits[best[i]]};
    std::memcpy(out + kSummaryWords + static_cast<int64_t>(i) * kCandidateWords, &candidate, sizeof candidate);
  }
}

}  // namespace

bool CpuBackend::survey_logits(TensorView out, TensorView logits, TensorView asks, int64_t id_limit) {
  expect(is(out, 2, DType::i32) && is(logits, 2) && is(asks, 2, DType::i32) && asks.dim(1) == kAskWords && out.dim(0) == logits.dim(0) && asks.dim(0) == logits.dim(0) && id_limit > 0 &&
             id_limit <= logits.dim(1),
         "survey_logits", {{"out", &out}, {"logits", &logits}, {"asks", &asks}});
  pool_.parallel_for(logits.dim(0), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      LogitAsk ask;
      std::memcpy(static_cast<void*>(&ask), asks.row<int32_t>(t), sizeof ask);
      if (ask.best < 1 || ask.best > kMostBest || survey_words(ask.best) > out.dim(1)) throw Error(Error::internal, "survey_logits: " + std::to_string(ask.best) + " candidates asked for");
      survey_row(out.row<int32_t>(t), logits.row<float>(t), logits.dim(1), ask, id_limit);
    }
  });
  return true;
}

}  // namespace dsinfer
