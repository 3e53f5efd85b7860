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
  const int num_parts = hopper::gate_parts(tokens);
  Device<float> partial(size_t(num_parts) * tokens * experts);
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
      for (int p = 0; p < num_parts; ++p) total += parts[(size_t(p) * tokens + t) * experts + e];
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
  const int parts = hopper::gate_parts(tokens);
  Device<float> partial(size_t(parts) * tokens * 256), bias(256);
  fill(partial, uint64_t(tokens), 0.8f), fill(bias, 18, 0.5f);  // a strong bias: some experts get many tokens, some none
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

  // The last 300 tokens alone, by the kernel of few tokens; further parts add nothing.
  const int few = 300, first = tokens - few;
  std::vector<float> some;
  const auto all = partial.host();
  for (int p = 0; p < parts; ++p)
    some.insert(some.end(), all.begin() + (size_t(p) * tokens + first) * 256, all.begin() + size_t(p + 1) * tokens * 256);
  some.resize(size_t(hopper::kGateParts) * few * 256);
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

TEST_F(HopperPrefill, RowsAreSortedToAllPositionsOfTheirTokens) {
  const int tokens = 700, hidden = 7168, k = 8, blocks = hidden / 128, pairs = tokens * k;
  Device<float> scale(size_t(tokens) * blocks);
  std::vector<uint8_t> drawn(size_t(tokens) * hidden);
  for (size_t i = 0; i < drawn.size(); ++i) drawn[i] = uint8_t(mix(i));
  Device<uint8_t> rows_device(drawn);
  fill_scales(scale, 1, 1);
  Routing routing(tokens);
  std::vector<int> slots(pairs), token_of(pairs + tokens, -1);
  for (int p = 0; p < pairs; ++p) slots[p] = p / k % 97 == 5 ? -1 : int(p * 1237ll % pairs);  // 1237 is a prime: every position once
  for (int p = 0; p < pairs; ++p)
    if (slots[p] >= 0) token_of[slots[p]] = p / k;
  std::iota(token_of.begin() + pairs, token_of.end(), 0);
  Device<int> slots_device(slots);
  hopper::Routed routed = routing.view();
  routed.slot = slots_device;
  for (const bool shared : {true, false}) {
    Device<uint8_t> sorted(token_of.size() * hidden);
    Device<float> sorted_scale(token_of.size() * blocks);
    hopper::RouteOptions options;
    options.shared = shared;
    ASSERT_CUDA(hopper::sort_rows(sorted, sorted_scale, {rows_device, scale}, routed, tokens, options, hidden, nullptr));
    ASSERT_CUDA(cudaDeviceSynchronize());
    const auto got = sorted.host();
    const auto scales = scale.host(), got_scales = sorted_scale.host();
    const std::vector<uint8_t> untouched(hidden, 0xff);
    for (size_t p = 0; p < token_of.size(); ++p) {
      const int token = !shared && p >= size_t(pairs) ? -1 : token_of[p];
      ASSERT_EQ(0, std::memcmp(&got[p * hidden], token < 0 ? untouched.data() : &drawn[size_t(token) * hidden], hidden)) << p;
      const void* wanted_scales = token < 0 ? static_cast<const void*>(untouched.data()) : &scales[size_t(token) * blocks];
      ASSERT_EQ(0, std::memcmp(&got_scales[p * blocks], wanted_scales, blocks * 4)) << p;
    }
  }
  EXPECT_EQ(cudaErrorInvalidValue, hopper::sort_rows(rows_device, scale, {rows_device, scale}, routed, tokens, {}, 640, nullptr));
}

struct ChunkCase {
  int tokens, q_first, heads;
  bool turned = true;  // q is rotated; or the kernel rotates it
};
class HopperPrefillAttention : public HopperPrefill, public testing::WithParamInterface<ChunkCase> {};

double e4m3_value(uint8_t byte) {
  E4m3 v;
  v.__x = byte;
  return double(float(v));
}

TEST_P(HopperPrefillAttention, EqualsDoublePrecisionUnderTheCausalMask) {
  const auto [tokens, q_first, heads, turned] = GetParam();
  const int keys = q_first + tokens;
  std::vector<int> positions(tokens);
  for (int t = 0; t < tokens; ++t) positions[t] = t % 50 == 7 ? -1 : q_first + t;
  Device<int> positions_device(positions);
  Device<float> rope(size_t(keys) * 64);
  fill(rope, 4, 0.7f);
  Device<bf16> q(size_t(tokens) * heads * 192), kv(size_t(keys) * heads * 256), rope_key(size_t(keys) * 64);
  fill(q, 1, 1), fill(kv, 2, 1), fill(rope_key, 3, 1);
  Device<uint8_t> o(size_t(tokens) * heads * 128);
  Device<float> o_scale(size_t(tokens) * heads);
  const float scale = 0.1352337788608801f;
  hopper::ChunkAttention a{o, o_scale, q, kv, rope_key, tokens, heads, q_first, scale, false};
  if (!turned) a.rope = rope, a.positions = positions_device;
  ASSERT_CUDA(hopper::chunk_attention(a, nullptr));
  ASSERT_CUDA(cudaDeviceSynchronize());
  const auto angles = rope.host();
  const auto out = o.host();
  const auto scales = o_scale.host();
  const auto qs = q.host(), kvs = kv.host(), ropes = rope_key.host();
  ASSERT_TRUE(std::all_of(scales.begin(), scales.end(), [](float v) { return v > 0 && std::isfinite(v); }));
  std::vector<double> expected, got;
  for (int i = 0; i < 24; ++i) {
    const int t = i < 3 ? std::max(0, tokens - 1 - i) : i == 3 ? 0 : int(mix(uint64_t(tokens) * 100 + i) % uint32_t(tokens));
    const int h = int(mix(uint64_t(i) + 7) % uint32_t(heads)), seen = q_first + t + 1;
    std::vector<double> query(192);
    for (int c = 0; c < 192; ++c) query[c] = float(qs[(size_t(t) * heads + h) * 192 + c]);
    if (!turned && positions[t] >= 0)
      for (int c = 128; c < 192; c += 2) {
        const float *turn = &angles[size_t(positions[t]) * 64 + c - 128], x = float(query[c]), y = float(query[c + 1]);
        query[c] = float(bf16(float(double(x) * turn[0] - double(y) * turn[1])));
        query[c + 1] = float(bf16(float(double(x) * turn[1] + double(y) * turn[0])));
      }
    std::vector<double> score(seen);
    double top = -1e300, total = 0, sums[128] = {}, amax = 1e-4;
    for (int s = 0; s < seen; ++s) {
      double dot = 0;
      const bf16* key = &kvs[(size_t(s) * heads + h) * 256];
      for (int c = 0; c < 192; ++c) dot += query[c] * double(float(c < 128 ? key[c] : ropes[size_t(s) * 64 + c - 128]));
      top = std::max(top, score[s] = dot * double(scale));
    }
    for (double& s : score) total += s = std::exp(s - top);
    for (int s = 0; s < seen; ++s)
      for (int c = 0; c < 128; ++c) sums[c] += score[s] / total * double(float(kvs[(size_t(s) * heads + h) * 256 + 128 + c]));
    for (const double v : sums) amax = std::max(amax, std::abs(v));
    const float s = scales[size_t(t) * heads + h];
    EXPECT_NEAR(amax / 448, s, amax / 448 * 1e-2) << "token " << t << " head " << h;
    for (int c = 0; c < 128; ++c) {
      expected.push_back(sums[c]);
      got.push_back(e4m3_value(out[(size_t(t) * heads + h) * 128 + c]) * double(s));
    }
  }
  const double error = relative_error(got, expected);
  std::printf("chunk attention, %d tokens after %d, %d heads: %.2e\n", tokens, q_first, heads, error);
  EXPECT_LT(error, 3e-2);  // an E4M3 step is an eighth of a value at most: 2.5e-2 on average
}
INSTANTIATE_TEST_SUITE_P(Chunks, HopperPrefillAttention,
                         testing::Values(ChunkCase{1, 0, 4}, ChunkCase{129, 0, 128}, ChunkCase{300, 77, 16}, ChunkCase{64, 1000, 128},
                                         ChunkCase{1025, 512, 8}, ChunkCase{4095, 0, 16}, ChunkCase{1, 0, 4, false},
                                         ChunkCase{129, 70, 16, false}, ChunkCase{1025, 512, 128, false}));

TEST_F(HopperPrefill, AttentionGivesARowTheSameBitsHoweverItIsCutIntoChunks) {
  const int tokens = 700, heads = 16;
  Device<bf16> q(size_t(tokens) * heads * 192), kv(size_t(tokens) * heads * 256), rope_key(size_t(tokens) * 64);
  fill(q, 1, 1), fill(kv, 2, 1), fill(rope_key, 3, 1);
  Device<uint8_t> whole(size_t(tokens) * heads * 128), cut(size_t(tokens) * heads * 128);
  Device<float> whole_scale(size_t(tokens) * heads), cut_scale(size_t(tokens) * heads);
  ASSERT_CUDA(hopper::chunk_attention({whole, whole_scale, q, kv, rope_key, tokens, heads, 0, 0.1f, false}, nullptr));
  for (int first = 0, n = 133; first < tokens; first += n, n = std::min(201, tokens - first))
    ASSERT_CUDA(hopper::chunk_attention({cut + size_t(first) * heads * 128, cut_scale + size_t(first) * heads,
                                         q + size_t(first) * heads * 192, kv, rope_key, n, heads, first, 0.1f, false},
                                        nullptr));
  ASSERT_CUDA(cudaDeviceSynchronize());
  EXPECT_EQ(whole.host(), cut.host());
  EXPECT_EQ(whole_scale.host(), cut_scale.host());
}

// A segment behind earlier keys in scattered pages: the parts called one by one give what the one call gives; the parts are checked above
// and here.
TEST_F(HopperPrefill, ASegmentExpandsItsKeysFromTheCache) {
  const int tokens = 200, q_first = 150, keys = tokens + q_first, heads = 16, pages = 12;
  Device<bf16> cache(size_t(pages) * 64 * 576), q_b(size_t(tokens) * heads * 192);
  fill(cache, 1, 1), fill(q_b, 2, 1);
  Device<E4m3> w(size_t(heads) * 256 * 512);
  Device<float> sw(size_t(heads) * 2 * 4), rope(size_t(1024) * 64);
  fill(w, 3, 64), fill_scales(sw, 4, 1.0f / 2048), fill(rope, 5, 0.7f);
  std::vector<int> table(6), positions(tokens);
  for (int i = 0; i < 6; ++i) table[i] = (i * 5 + 3) % pages;
  std::iota(positions.begin(), positions.end(), q_first);
  positions[7] = -1;
  Device<int> table_device(table), positions_device(positions);
  Device<uint8_t> latent(size_t(keys) * 512);
  Device<float> latent_scale(size_t(keys) * 4);
  Device<bf16> rope_key(size_t(keys) * 64), kv(size_t(keys) * heads * 256);
  ASSERT_CUDA(hopper::key_rows({latent, latent_scale, rope_key, static_cast<bf16*>(cache), table_device, false}, keys, nullptr));
  ASSERT_CUDA(hopper::fp8_linear(kv, {latent, latent_scale}, {bytes(w), sw}, keys, heads * 256, 512, nullptr));
  Device<uint8_t> o(size_t(tokens) * heads * 128), expected(size_t(tokens) * heads * 128);
  Device<float> o_scale(size_t(tokens) * heads), expected_scale(size_t(tokens) * heads);
  ASSERT_CUDA(hopper::chunk_attention(
      {expected, expected_scale, q_b, kv, rope_key, tokens, heads, q_first, 0.1f, false, rope, positions_device}, nullptr));
  Device<uint8_t> work(size_t(hopper::prefill_workspace(keys, heads)));
  hopper::PrefillSegment segment{};
  segment.o = o, segment.o_scale = o_scale, segment.q_b = q_b, segment.cache = static_cast<bf16*>(cache),
  segment.block_table = table_device;
  segment.positions = positions_device, segment.rope = rope, segment.kv_b = {bytes(w), sw}, segment.work = static_cast<uint8_t*>(work);
  segment.tokens = tokens, segment.heads = heads, segment.q_first = q_first, segment.scale = 0.1f;
  ASSERT_CUDA(hopper::prefill_segment(segment, nullptr));
  ASSERT_CUDA(cudaDeviceSynchronize());
  EXPECT_EQ(expected.host(), o.host());
  EXPECT_EQ(expected_scale.host(), o_scale.host());

  const auto rows = cache.host(), ropes = rope_key.host();
  const auto q8 = latent.host();
  const auto s8 = latent_scale.host();
  std::vector<double> got, latents;
  for (int s = 0; s < keys; ++s) {
    const bf16* row = &rows[(size_t(table[s / 64]) * 64 + s % 64) * 576];
    for (int c = 0; c < 512; ++c) latents.push_back(float(row[c])), got.push_back(e4m3_value(q8[s * 512 + c]) * s8[s * 4 + c / 128]);
    for (int c = 0; c < 64; ++c) ASSERT_EQ(float(row[512 + c]), float(ropes[s * 64 + c]));
  }
  EXPECT_LT(relative_error(got, latents), 3e-2);
}

}  // namespace
}  // namespace dsinfer
