/// The kernels of a prefill chunk against double precision on the same inputs.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "backend/cuda/hopper/prefill.hpp"
#include "backend/cuda/hopper/run.cuh"
#include "device_data.cuh"

namespace dsinfer {
namespace {
using namespace test;

constexpr double kBf16Error = 2.5e-3;  // rounding of bf16 outputs gives 1.7e-3 on average

class HopperPrefill : public testing::Test {
  void SetUp() override {
    if (!has_hopper()) GTEST_SKIP() << "no GPU: skipped (needs compute capability 9.0)";
  }
};

const uint8_t* bytes(const Device<E4m3>& d) { return reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(d)); }

template <class T>
std::vector<T> row(const std::vector<T>& all, int index, int width) {
  return {all.begin() + ptrdiff_t(index) * width, all.begin() + ptrdiff_t(index + 1) * width};
}

struct LinearCase {
  int n, k;
  bool gated;
};
constexpr LinearCase kShapes[] = {{2112, 7168, false}, {24576, 1536, false}, {32768, 512, false}, {7168, 2048, false},
                                  {64, 128, false},    {7168, 2304, false},  {4096, 7168, true},  {128, 640, true}};

TEST_F(HopperPrefill, LinearsEqualDoublePrecisionForManyRows) {
  uint64_t seed = 1;
  for (const LinearCase& shape : kShapes) {
    const int blocks = shape.k / 128, width = shape.gated ? shape.n / 2 : shape.n;
    Device<E4m3> w(size_t(shape.n) * shape.k);
    Device<float> sw(size_t((shape.n + 127) / 128) * blocks);
    fill(w, ++seed, 64), fill_scales(sw, ++seed, shape.gated ? 1.0f / 65536 : 1.0f / 4096);
    for (const int m : {129, 257, 1000, 4095}) {
      Device<E4m3> x(size_t(m) * shape.k);
      Device<float> sx(size_t(m) * blocks);
      fill(x, ++seed, 100), fill_scales(sx, ++seed, 1.0f / 128);
      Device<bf16> out(size_t(m) * width);
      const auto linear = shape.gated ? hopper::fp8_gate_up : hopper::fp8_linear;
      ASSERT_CUDA(linear(out, {bytes(x), sx}, {bytes(w), sw}, m, shape.n, shape.k, nullptr));
      ASSERT_CUDA(cudaDeviceSynchronize());
      const auto result = out.host();
      ASSERT_TRUE(std::all_of(result.begin(), result.end(), [](bf16 v) { return std::isfinite(float(v)); }));
      constexpr int kRows = 40;
      std::vector<int> rows(kRows);
      for (int i = 0; i < kRows; ++i) rows[i] = i < 4 ? m - 1 - i : int(mix(seed * 100 + i) % uint32_t(m));
      Device<int> rows_device(rows);
      Device<double> product(size_t(kRows) * shape.n);
      linear_reference_kernel<<<(kRows * shape.n + 255) / 256, 256>>>(product, bytes(x), sx, bytes(w), sw, rows_device, kRows, shape.n,
                                                                      shape.k);
      const auto sums = product.host();
      std::vector<double> expected;
      std::vector<bf16> got;
      for (int i = 0; i < kRows; ++i)
        for (int c = 0; c < width; ++c) {
          const double v = sums[size_t(i) * shape.n + c];
          expected.push_back(shape.gated ? v / (1 + std::exp(-v)) * sums[size_t(i) * shape.n + width + c] : v);
          got.push_back(result[size_t(rows[i]) * width + c]);
        }
      const double error = relative_error(got, expected);
      EXPECT_LT(error, kBf16Error) << "N " << shape.n << " K " << shape.k << " M " << m;
      if (m == 4095) std::printf("linear (%d, %d)%s M %d: %.2e\n", shape.n, shape.k, shape.gated ? " gated" : "", m, error);
    }
  }
}

TEST_F(HopperPrefill, ARowOfALinearHasTheSameBitsInEveryBatch) {
  const int n = 4096, k = 2048, m = 4096, blocks = k / 128;
  Device<E4m3> w(size_t(n) * k), x(size_t(m) * k);
  Device<float> sw(size_t(n / 128) * blocks), sx(size_t(m) * blocks);
  fill(w, 3, 64), fill_scales(sw, 4, 1.0f / 4096), fill(x, 5, 100), fill_scales(sx, 6, 1.0f / 128);
  Device<bf16> all(size_t(m) * n);
  ASSERT_CUDA(hopper::fp8_linear(all, {bytes(x), sx}, {bytes(w), sw}, m, n, k, nullptr));
  const auto batch = all.host();
  for (const int rows : {129, 200, 777}) {
    const int first = 613;
    Device<bf16> some(size_t(rows) * n);
    ASSERT_CUDA(hopper::fp8_linear(some, {bytes(x) + size_t(first) * k, sx + first * blocks}, {bytes(w), sw}, rows, n, k, nullptr));
    const auto alone = some.host();
    EXPECT_EQ(0, std::memcmp(alone.data(), batch.data() + size_t(first) * n, alone.size() * sizeof(bf16))) << rows << " rows";
  }
}

TEST_F(HopperPrefill, GateLogitsEqualDoublePrecision) {
  const int hidden = 7168, experts = 256, tokens = 1001;
  Device<bf16> x(size_t(tokens) * hidden), w(size_t(experts) * hidden);
  fill(x, 1, 1), fill(w, 2, 0.02f);
  Device<float> partial(size_t(hopper::kGateParts) * tokens * experts);
  ASSERT_CUDA(hopper::gate_logits(partial, x, w, tokens, experts, hidden, nullptr));
  ASSERT_CUDA(cudaDeviceSynchronize());
  const auto parts = partial.host();
  const auto xs = x.host(), ws = w.host();
  std::vector<double> expected;
  std::vector<float> got;
  for (const int t : {0, 1, 63, 64, 127, 128, 500, 999, 1000})
    for (int e = 0; e < experts; e += 5) {
      double sum = 0;
      for (int i = 0; i < hidden; ++i) sum += double(float(xs[size_t(t) * hidden + i])) * double(float(ws[size_t(e) * hidden + i]));
      expected.push_back(sum);
      float total = 0;
      for (int p = 0; p < hopper::kGateParts; ++p) total += parts[(size_t(p) * tokens + t) * experts + e];
      got.push_back(total);
    }
  EXPECT_LT(relative_error(got, expected), 1e-5);
  ASSERT_TRUE(std::all_of(parts.begin(), parts.end(), [](float v) { return std::isfinite(v); }));
}

/// Device arrays of a routing.
struct Routing {
  explicit Routing(int tokens, int k = 8)
      : experts(size_t(tokens) * k),
        slot(size_t(tokens) * k),
        rows(size_t(tokens) * (k + 1)),
        num_runs(2),
        weights(size_t(tokens) * k),
        runs(size_t(hopper::max_runs(tokens, k, 256))) {
    cudaMemset(num_runs, 0, num_runs.bytes());
  }
  hopper::Routed view() { return {experts, weights, slot, rows, runs, num_runs}; }
  Device<int> experts, slot, rows, num_runs;
  Device<float> weights;
  Device<hopper::ExpertRun> runs;
};

class HopperPrefillRoute : public HopperPrefill, public testing::WithParamInterface<int> {};

// The choice itself is the decode step's; its list is made anew here, on the host.
TEST_P(HopperPrefillRoute, ListsEveryPairOnceByExpertThenToken) {
  const int tokens = GetParam(), k = 8, pairs = tokens * k;
  Device<float> partial(size_t(hopper::kGateParts) * tokens * 256), bias(256);
  fill(partial, uint64_t(tokens), 0.5f), fill(bias, 18, 0.5f);  // a strong bias: some experts get many tokens, some none
  std::vector<int> positions(tokens);
  for (int t = 0; t < tokens; ++t) positions[t] = t % 97 == 5 ? -1 : t;
  Device<int> positions_device(positions);
  hopper::RouteOptions options;
  options.positions = positions_device;
  Routing routing(tokens);
  for (int repeat = 0; repeat < 2; ++repeat) ASSERT_CUDA(hopper::route(routing.view(), partial, bias, nullptr, tokens, options, nullptr));
  ASSERT_CUDA(cudaDeviceSynchronize());

  const auto experts = routing.experts.host(), slot = routing.slot.host(), rows = routing.rows.host(), num = routing.num_runs.host();
  const auto weights = routing.weights.host();
  std::vector<std::vector<int>> of(256);
  for (int p = 0; p < pairs; ++p) {
    const bool padding = positions[p / k] < 0;
    ASSERT_EQ(padding, experts[p] < 0) << p;
    if (padding)
      ASSERT_EQ(-1, slot[p]);
    else
      of[experts[p]].push_back(p);
  }
  int position = 0;
  std::vector<hopper::ExpertRun> expected;
  for (int e = 0; e < 256; ++e) {
    const int count = int(of[e].size());
    for (int i = 0; i < count; i += hopper::run_tokens_for(tokens))
      expected.push_back({e, position + i, std::min(hopper::run_tokens_for(tokens), count - i), 0});
    for (const int p : of[e]) {
      ASSERT_EQ(position, slot[p]);
      ASSERT_EQ(p / k, rows[position++]);
    }
  }
  for (int t = 0; t < tokens; ++t) ASSERT_EQ(t, rows[pairs + t]);
  for (int i = 0; i < tokens; i += hopper::run_tokens_for(tokens))
    expected.push_back({256, pairs + i, std::min(hopper::run_tokens_for(tokens), tokens - i), 0});
  auto runs = routing.runs.host();
  ASSERT_EQ(int(expected.size()), num[0]);
  EXPECT_EQ(0, num[1]);
  runs.resize(size_t(num[0]));
  std::sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < runs.size(); ++i)
    ASSERT_TRUE(runs[i].expert == expected[i].expert && runs[i].first == expected[i].first && runs[i].count == expected[i].count) << i;

  // The last 300 tokens alone, by the kernel of few tokens.
  const int few = 300, first = tokens - few;
  std::vector<float> some;
  const auto all = partial.host();
  for (int p = 0; p < hopper::kGateParts; ++p)
    some.insert(some.end(), all.begin() + (size_t(p) * tokens + first) * 256, all.begin() + size_t(p + 1) * tokens * 256);
  Device<float> some_device(some);
  Routing alone(few);
  options.positions = positions_device + first;
  ASSERT_CUDA(hopper::route(alone.view(), some_device, bias, nullptr, few, options, nullptr));
  const auto few_experts = alone.experts.host();
  const auto few_weights = alone.weights.host();
  EXPECT_EQ(0, std::memcmp(few_experts.data(), experts.data() + first * k, few_experts.size() * sizeof(int)));
  EXPECT_EQ(0, std::memcmp(few_weights.data(), weights.data() + first * k, few_weights.size() * sizeof(float)));
}
INSTANTIATE_TEST_SUITE_P(Tokens, HopperPrefillRoute, testing::Values(513, 575, 4096, 16384));

}  // namespace
}  // namespace dsinfer
