// Where the pipeline is cut. Both questions are of one sort: the least value of something that grows with a stage, then ties.
// A bound on such a value is met by filling stages greedily from the front, so the least bound is found by bisection over the values that stages can take.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "dsinfer/error.hpp"
#include "plan/shape.hpp"

namespace dsinfer {
namespace {

class StageCutter {
 public:
  StageCutter(const LayerBytes& bytes, const Shape& shape) : layers_(static_cast<int64_t>(bytes.layer.size())), stages_(shape.pp), embedding_(bytes.embedding), head_(bytes.head) {
    if (shape.prediction_layer) head_ += bytes.prediction;
    bytes_before_.assign(1, 0);
    for (const int64_t layer : bytes.layer) bytes_before_.push_back(bytes_before_.back() + layer);
    longest_.resize(static_cast<size_t>(layers_));
    while ((stage_bytes(0, layers_) >> shift_) >= int64_t{1} << 31) ++shift_;
  }

  bool possible() const { return stages_ >= 1 && stages_ <= layers_; }
  int64_t layers() const { return layers_; }
  int64_t stages() const { return stages_; }

  // Bytes of a stage of layers begin … end-1.
  int64_t stage_bytes(int64_t begin, int64_t end) const {
    return bytes_before_[static_cast<size_t>(end)] - bytes_before_[static_cast<size_t>(begin)] + (begin == 0 ? embedding_ : 0) + (end == layers_ ? head_ : 0);
  }

  // Whether stages that all fit cover the layers. `fits(begin, end)` holds for a part of every stage that it holds for, so the fewest stages come from filling each,
  // and splitting them makes any larger number.
  template <class Fits> bool coverable(const Fits& fits) const {
    int64_t begin = 0;
    for (int64_t stage = 0; stage < stages_; ++stage) {
      int64_t end = begin;
      while (end < layers_ && fits(begin, end + 1)) ++end;
      if (end == begin) return false;
      if (end == layers_) return true;
      begin = end;
    }
    return false;
  }

  // Of the cuts whose stages all fit, the most even in bytes (least sum of squares), and of those the first in the order of their numbers.
  template <class Fits> std::vector<int64_t> most_even(const Fits& fits) {
    for (int64_t begin = 0, end = 0; begin < layers_; ++begin) {
      end = std::max(end, begin);
      while (end < layers_ && fits(begin, end + 1)) ++end;
      longest_[static_cast<size_t>(begin)] = end - begin;
    }
    solve_even();
    std::vector<int64_t> cut;
    int64_t begin = 0;
    for (int64_t left = stages_; left > 0; --left) {
      const int64_t count = first_count_[index(left, begin)];
      if (count == 0) return {};
      cut.push_back(count);
      begin += count;
    }
    return cut;
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  size_t index(int64_t left, int64_t begin) const { return static_cast<size_t>(left * (layers_ + 1) + begin); }

  int64_t square(int64_t begin, int64_t end) const {
    const int64_t units = stage_bytes(begin, end) >> shift_;
    return units * units;
  }

  // least_[left][begin]: least sum of squares of `left` stages over the layers from `begin` on; from the back, so that the first count can be the smallest.
  void solve_even() {
    least_.assign(static_cast<size_t>((stages_ + 1) * (layers_ + 1)), kNone);
    first_count_.assign(least_.size(), 0);
    least_[index(0, layers_)] = 0;
    for (int64_t left = 1; left <= stages_; ++left)
      for (int64_t begin = stages_ - left; begin <= layers_ - left; ++begin)
        for (int64_t count = 1; count <= longest_[static_cast<size_t>(begin)]; ++count) {
          const int64_t rest = least_[index(left - 1, begin + count)];
          if (rest == kNone) continue;
          const int64_t sum = rest + square(begin, begin + count);
          if (sum >= least_[index(left, begin)]) continue;
          least_[index(left, begin)] = sum;
          first_count_[index(left, begin)] = count;
        }
  }

  int64_t layers_, stages_, embedding_, head_;
  int shift_ = 0;  // squares are of units so coarse that their sum fits 63 bits, whatever the model's size
  std::vector<int64_t> bytes_before_, longest_, least_, first_count_;
};

// The least value in low … high that passes; `passes` holds from some value on, and for high.
template <class Passes> int64_t least(int64_t low, int64_t high, const Passes& passes) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (passes(middle)) high = middle; else low = middle + 1;
  }
  return high;
}

// The bound on a stage's bytes under which the layers can be cut, `fits` holding too.
template <class Fits> int64_t lightest_fullest(const StageCutter& cutter, const Fits& fits) {
  const int64_t whole = cutter.stage_bytes(0, cutter.layers());
  return least(whole / cutter.stages(), whole, [&](int64_t most) {
    return cutter.coverable([&](int64_t begin, int64_t end) { return cutter.stage_bytes(begin, end) <= most && fits(begin, end); });
  });
}

}  // namespace

std::vector<int64_t> best_cut(const ModelConfig& config, const LayerBytes& bytes, const Shape& shape, int64_t budget_bytes, int64_t overhead_bytes, int64_t cache_bytes_per_token_layer) {
  StageCutter cutter(bytes, shape);
  if (!cutter.possible()) return {};
  const int64_t fullest = lightest_fullest(cutter, [](int64_t, int64_t) { return true; });
  const int64_t extra_layers = shape.prediction_layer ? config.num_nextn_predict_layers : 0;
  const auto holds = [&](int64_t begin, int64_t end, int64_t tokens) {
    if (cutter.stage_bytes(begin, end) > fullest) return false;
    if (tokens == 0) return true;
    const int64_t layers = end - begin + (end == cutter.layers() ? extra_layers : 0);
    const int64_t room = budget_bytes - overhead_bytes - cutter.stage_bytes(begin, end);
    return room >= 0 && room / std::max<int64_t>(cache_bytes_per_token_layer * layers, 1) >= tokens;
  };
  const int64_t most = std::max<int64_t>((budget_bytes - overhead_bytes) / std::max<int64_t>(cache_bytes_per_token_layer, 1), 0);
  const auto too_many = [&](int64_t tokens) { return !cutter.coverable([&](int64_t begin, int64_t end) { return holds(begin, end, tokens); }); };
  const int64_t tokens = least(1, most + 1, too_many) - 1;
  return cutter.most_even([&](int64_t begin, int64_t end) { return holds(begin, end, tokens); });
}

std::vector<int64_t> fastest_cut(const ModelConfig& config, const LayerBytes& bytes, const Shape& shape, int64_t most_bytes, const std::vector<double>& layer_seconds) {
  if (layer_seconds.size() != static_cast<size_t>(config.num_hidden_layers))
    throw Error(Error::internal, fmt::format("seconds of {} layers given, the model has {}", layer_seconds.size(), config.num_hidden_layers));
  StageCutter cutter(bytes, shape);
  if (!cutter.possible()) return {};
  std::vector<double> before{0};
  for (const double seconds : layer_seconds) {
    if (!(seconds >= 0) || std::isinf(seconds)) throw Error(Error::internal, fmt::format("a layer takes {} seconds", seconds));
    before.push_back(before.back() + seconds);
  }
  const auto time = [&](int64_t begin, int64_t end) { return before[static_cast<size_t>(end)] - before[static_cast<size_t>(begin)]; };
  std::vector<double> times;  // that some stage takes: the answer is one of them
  for (int64_t begin = 0; begin < cutter.layers(); ++begin)
    for (int64_t end = begin + 1; end <= cutter.layers(); ++end) times.push_back(time(begin, end));
  const auto within = [&](double slowest, int64_t fullest) {
    return [&time, &cutter, slowest, fullest](int64_t begin, int64_t end) { return time(begin, end) <= slowest && cutter.stage_bytes(begin, end) <= fullest; };
  };
  const double longest = *std::max_element(times.begin(), times.end());
  if (!cutter.coverable(within(longest, most_bytes))) return {};
  // Bisection by rank; each step needs only the halves apart, not sorted.
  auto low = times.begin(), high = times.end() - 1;
  while (low < high) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high + 1);
    if (cutter.coverable(within(*middle, most_bytes))) high = middle; else low = middle + 1;
  }
  const double slowest = *high;
  const int64_t fullest = lightest_fullest(cutter, within(slowest, most_bytes));
  return cutter.most_even(within(slowest, fullest));
}

}  // namespace dsinfer
