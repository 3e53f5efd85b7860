/// The row-wise stages and the router of the decode step against double precision; a captured chain against the same calls made eagerly.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "backend/cuda/hopper/hopper.hpp"
#include "device_data.cuh"

namespace dsinfer {
namespace {
using namespace test;

class HopperRows : public testing::Test {
  void SetUp() override {
    if (!has_hopper()) GTEST_SKIP() << "no GPU: skipped (needs compute capability 9.0)";
  }
};

double e4m3_value(uint8_t byte) {
  E4m3 v;
  v.__x = byte;
  return double(float(v));
}

/// Scale and bytes of one block of 128 as DeepSeek's act_quant makes them; the bytes may differ by one step where the value lies between
/// two within rounding.
void expect_quantised(const double* x, const uint8_t* bytes, float scale, const std::string& where) {
  double amax = 1e-4;
  for (int i = 0; i < 128; ++i) amax = std::max(amax, std::abs(x[i]));
  EXPECT_NEAR(amax / 448, scale, amax / 448 * 1e-2) << where;
  for (int i = 0; i < 128; ++i) {
    const double value = e4m3_value(bytes[i]) * scale,
                 step = std::max(std::abs(x[i]) / 8, double(scale) / 512);  // one step is at most an eighth
    ASSERT_NEAR(x[i], value, step * 0.6) << where << " channel " << i;
  }
}

TEST_F(HopperRows, AddNormAndQuantise) {
  const int dim = 7168;
  for (const bool moe : {false, true})
    for (const int tokens : {1, 5, 32, 600}) {
      const int k = 8, positions = tokens * (k + 1);
      Device<float> residual(size_t(tokens) * dim), weight(dim), route_weight(size_t(tokens) * k), scale(size_t(tokens) * dim / 128);
      Device<bf16> x(size_t(moe ? positions : tokens) * dim), out(size_t(tokens) * dim);
      Device<uint8_t> q(size_t(tokens) * dim);
      fill(residual, 41, 1), fill(weight, 42, 0.2f, 1), fill(x, 43, 0.7f), fill(route_weight, 44, 0.1f, 0.3f);
      std::vector<int> slots(tokens * k);
      std::iota(slots.begin(), slots.end(), 0);
      std::reverse(slots.begin(), slots.end());
      for (int t = 3; t < tokens; t += 97) std::fill_n(slots.begin() + t * k, k, -1);  // padding rows
      Device<int> slot(slots);
      const auto r = residual.host(), w = weight.host(), rw = route_weight.host();
      const auto xs = x.host();
      hopper::AddNorm a{};
      a.residual = residual, a.x = x, a.weight = weight, a.out = out, a.q = q, a.q_scale = scale, a.shared_first = -1, a.eps = 1e-6f;
      if (moe) a.slot = slot, a.route_weight = route_weight, a.top_k = k, a.shared_first = tokens * k;
      ASSERT_CUDA(hopper::add_norm(a, tokens, dim, nullptr));
      ASSERT_CUDA(cudaDeviceSynchronize());
      std::vector<double> sum(size_t(tokens) * dim), expected(size_t(tokens) * dim);
      for (int t = 0; t < tokens; ++t) {
        double square = 0;
        for (int i = 0; i < dim; ++i) {
          double v = r[size_t(t) * dim + i];
          if (!moe) v += double(float(xs[size_t(t) * dim + i]));
          for (int j = 0; moe && slots[t * k] >= 0 && j < k; ++j) v += double(rw[t * k + j]) * double(float(xs[size_t(slots[t * k + j]) * dim + i]));
          if (moe) v += double(float(xs[size_t(tokens * k + t) * dim + i]));
          sum[size_t(t) * dim + i] = v, square += v * v;
        }
        for (int i = 0; i < dim; ++i) expected[size_t(t) * dim + i] = sum[size_t(t) * dim + i] / std::sqrt(square / dim + 1e-6) * w[i];
      }
      EXPECT_LT(relative_error(residual.host(), sum), 1e-6);
      EXPECT_LT(relative_error(out.host(), expected), 2.5e-3);
      const auto bytes = q.host();
      const auto scales = scale.host();
      for (int b = 0; b < tokens * dim / 128; ++b)
        expect_quantised(&expected[size_t(b) * 128], &bytes[size_t(b) * 128], scales[b], "block " + std::to_string(b));
    }
}

TEST_F(HopperRows, QuantisesAnyNumberOfBlocksAndZeros) {
  for (const int64_t rows : {1, 3, 37}) {
    Device<bf16> x(size_t(rows) * 384);
    fill(x, 45, 3);
    cudaMemset(x, 0, 256);  // block 0 is zero: scale of the floor, bytes 0
    Device<uint8_t> q(size_t(rows) * 384);
    Device<float> scale(size_t(rows) * 3);
    for (const bool ue8m0 : {false, true}) {
      ASSERT_CUDA(hopper::quantise(q, scale, x, rows, 384, ue8m0, nullptr));
      const auto bytes = q.host();
      const auto scales = scale.host();
      const auto xs = x.host();
      EXPECT_EQ(0, std::count_if(bytes.begin(), bytes.begin() + 128, [](uint8_t b) { return b & 0x7f; }));
      for (size_t b = 0; b < size_t(rows) * 3; ++b) {
        float amax = 1e-4f;
        for (int i = 0; i < 128; ++i) amax = std::max(amax, std::abs(float(xs[b * 128 + i])));
        float expected = amax / 448.0f;
        if (ue8m0) expected = std::exp2(std::ceil(std::log2(expected)));
        EXPECT_EQ(expected, scales[b]);
        for (int i = 0; i < 128; ++i) EXPECT_EQ(float(E4m3(float(xs[b * 128 + i]) / expected)), float(e4m3_value(bytes[b * 128 + i])));
      }
    }
  }
}

TEST_F(HopperRows, LatentsAreNormedRotatedAndAppended) {
  const int tokens = 5, max_pages = 3;
  Device<bf16> a(size_t(tokens) * 2112), cache(size_t(20) * 64 * 576);
  Device<float> q_norm(1536), kv_norm(512), rope(256 * 64), q_scale(tokens * 12);
  Device<uint8_t> q(size_t(tokens) * 1536);
  fill(a, 51, 1), fill(q_norm, 52, 0.2f, 1), fill(kv_norm, 53, 0.2f, 1), fill(rope, 54, 0.7f);
  const std::vector<int> positions{0, 63, 64, 130, 191};
  std::vector<int> table(tokens * max_pages);
  for (size_t i = 0; i < table.size(); ++i) table[i] = int(i * 7 % 19);
  Device<int> positions_device(positions), table_device(table);
  hopper::Latent l{a, q_norm, kv_norm, rope, positions_device, table_device, cache, q, q_scale, max_pages, 1e-6f, false};
  ASSERT_CUDA(hopper::latents(l, tokens, nullptr));
  ASSERT_CUDA(cudaDeviceSynchronize());
  const auto as = a.host(), rows = cache.host();
  const auto qn = q_norm.host(), kn = kv_norm.host(), turn = rope.host(), scales = q_scale.host();
  const auto bytes = q.host();
  for (int t = 0; t < tokens; ++t) {
    const bf16* in = &as[size_t(t) * 2112];
    double q_square = 0, k_square = 0;
    for (int i = 0; i < 1536; ++i) q_square += double(float(in[i])) * double(float(in[i]));
    for (int i = 0; i < 512; ++i) k_square += double(float(in[1536 + i])) * double(float(in[1536 + i]));
    std::vector<double> query(1536), key(576);
    for (int i = 0; i < 1536; ++i) query[i] = float(in[i]) / std::sqrt(q_square / 1536 + 1e-6) * qn[i];
    for (int i = 0; i < 512; ++i) key[i] = float(in[1536 + i]) / std::sqrt(k_square / 512 + 1e-6) * kn[i];
    for (int j = 0; j < 32; ++j) {
      const double c = turn[positions[t] * 64 + 2 * j], s = turn[positions[t] * 64 + 2 * j + 1], x = float(in[2048 + 2 * j]),
                   y = float(in[2049 + 2 * j]);
      key[512 + 2 * j] = x * c - y * s, key[513 + 2 * j] = x * s + y * c;
    }
    for (int b = 0; b < 12; ++b)
      expect_quantised(&query[b * 128], &bytes[size_t(t) * 1536 + b * 128], scales[t * 12 + b], "token " + std::to_string(t));
    const size_t row = (size_t(table[t * max_pages + positions[t] / 64]) * 64 + positions[t] % 64) * 576;
    EXPECT_LT(relative_error(std::vector<bf16>(rows.begin() + row, rows.begin() + row + 576), key), 2.5e-3) << "token " << t;
  }
}

TEST_F(HopperRows, LatentsAreAppendedInFp8WithAScalePer128) {
  const int tokens = 4, row_bytes = int(hopper::kv_row_bytes(hopper::KvFormat::kFp8));
  ASSERT_EQ(656, row_bytes);
  Device<bf16> a(size_t(tokens) * 2112);
  Device<float> q_norm(1536), kv_norm(512), rope(128 * 64), q_scale(tokens * 12);
  Device<uint8_t> q(size_t(tokens) * 1536), cache(size_t(5) * 64 * row_bytes);
  fill(a, 55, 1), fill(q_norm, 56, 0.2f, 1), fill(kv_norm, 57, 0.2f, 1), fill(rope, 58, 0.7f);
  const std::vector<int> positions{0, 63, -1, 70}, table{4, 0, 1, 0, 2, 0, 0, 3};
  Device<int> positions_device(positions), table_device(table);
  for (const bool ue8m0 : {false, true}) {
    cache.poison();
    const hopper::Latent l{a,       q_norm, kv_norm, rope,  positions_device,     table_device, cache, q,
                           q_scale, 2,      1e-6f,   ue8m0, hopper::KvFormat::kFp8};
    ASSERT_CUDA(hopper::latents(l, tokens, nullptr));
    ASSERT_CUDA(cudaDeviceSynchronize());
    const auto as = a.host();
    const auto kn = kv_norm.host(), turn = rope.host();
    auto rows = cache.host();
    for (int t = 0; t < tokens; ++t) {
      if (positions[t] < 0) continue;
      const bf16* in = &as[size_t(t) * 2112];
      double square = 0;
      for (int i = 0; i < 512; ++i) square += double(float(in[1536 + i])) * double(float(in[1536 + i]));
      uint8_t* row = &rows[(size_t(table[t * 2 + positions[t] / 64]) * 64 + positions[t] % 64) * row_bytes];
      for (int b = 0; b < 4; ++b) {
        double expected[128], amax = 1e-4;
        for (int i = 0; i < 128; ++i) {
          expected[i] = float(in[1536 + b * 128 + i]) / std::sqrt(square / 512 + 1e-6) * kn[b * 128 + i];
          amax = std::max(amax, std::abs(expected[i]));
        }
        float scale;
        std::memcpy(&scale, row + 512 + b * 4, 4);
        EXPECT_GE(scale, amax / 448 * (1 - 1e-6));
        EXPECT_LE(scale, amax / 448 * (ue8m0 ? 2 : 1 + 1.0 / 128));
        EXPECT_EQ(scale, float(bf16(scale)));
        EXPECT_EQ(ue8m0 ? std::exp2(std::round(std::log2(scale))) : scale, scale);
        for (int i = 0; i < 128; ++i)
          EXPECT_NEAR(expected[i], double(float(e4m3_value(row[b * 128 + i]))) * scale, std::abs(expected[i]) / 15.9 + scale / 500);
      }
      for (int j = 0; j < 32; ++j) {
        const double c = turn[positions[t] * 64 + 2 * j], s = turn[positions[t] * 64 + 2 * j + 1], x = float(in[2048 + 2 * j]),
                     y = float(in[2049 + 2 * j]);
        bf16 pair[2];
        std::memcpy(pair, row + 528 + j * 4, 4);
        EXPECT_NEAR(x * c - y * s, float(pair[0]), 0.02);
        EXPECT_NEAR(x * s + y * c, float(pair[1]), 0.02);
      }
      std::memset(row, 0xff, size_t(row_bytes));
    }
    EXPECT_EQ(rows.size(), size_t(std::count(rows.begin(), rows.end(), 0xff))) << "a row that no token has";  // the padding row's neither
  }
}

TEST_F(HopperRows, PaddingRowsGoToNoExpertAndAppendNothing) {
  const int tokens = 12, experts = 256, k = 8, hidden = 7168;
  const hopper::RouteOptions plain;
  std::vector<int> positions(tokens, 5);
  positions[3] = positions[10] = positions[11] = -1;
  Device<int> positions_device(positions);
  Device<float> partial(size_t(hopper::kGateParts) * tokens * experts), bias(experts), weights(size_t(tokens) * k);
  fill(partial, 64, 1), fill(bias, 65, 0.05f);
  Device<int> chosen(tokens * k), slot(tokens * k), rows(tokens * (k + 1)), num_runs(2);
  cudaMemset(num_runs, 0, num_runs.bytes());
  Device<uint8_t> runs(size_t(hopper::max_runs(tokens, k, experts)) * hopper::kExpertRunBytes);
  const hopper::Routed routed{chosen, weights, slot, rows, reinterpret_cast<hopper::ExpertRun*>(static_cast<uint8_t*>(runs)), num_runs};
  ASSERT_CUDA(hopper::route(routed, partial, bias, nullptr, tokens, plain, nullptr));
  ASSERT_CUDA(cudaDeviceSynchronize());
  const auto all = chosen.host();
  const auto all_weights = weights.host();
  hopper::RouteOptions padded;
  padded.positions = positions_device;
  ASSERT_CUDA(hopper::route(routed, partial, bias, nullptr, tokens, padded, nullptr));
  ASSERT_CUDA(cudaDeviceSynchronize());
  const auto some = chosen.host(), slots = slot.host(), count = num_runs.host(), rows_host = rows.host();
  const auto some_weights = weights.host();
  struct Run {
    int expert, first, count, pad;
  };
  std::vector<Run> list(count[0]);
  const auto raw = runs.host();
  std::memcpy(list.data(), raw.data(), list.size() * sizeof(Run));
  int routed_pairs = 0;
  for (const Run& run : list) {
    ASSERT_TRUE(run.expert >= 0 && run.expert <= experts);
    if (run.expert < experts) routed_pairs += run.count;
  }
  EXPECT_EQ((tokens - 3) * k, routed_pairs);
  for (int t = 0; t < tokens; ++t)
    for (int i = 0; i < k; ++i) {
      const int pair = t * k + i;
      if (positions[t] < 0) {
        EXPECT_EQ(-1, some[pair]);
        EXPECT_EQ(-1, slots[pair]);
        EXPECT_EQ(0.0f, some_weights[pair]);
        continue;
      }
      EXPECT_EQ(all[pair], some[pair]);
      EXPECT_EQ(all_weights[pair], some_weights[pair]);
      ASSERT_TRUE(slots[pair] >= 0 && slots[pair] < routed_pairs);
      EXPECT_EQ(t, rows_host[slots[pair]]);
    }
  // the sum of a padding row's experts is 0, whatever stands in y
  Device<bf16> y(size_t(tokens) * (k + 1) * hidden);
  Device<float> residual(size_t(tokens) * hidden), norm(hidden);
  fill(norm, 66, 0.1f, 1);
  cudaMemset(residual, 0, residual.bytes());
  hopper::AddNorm a{};
  a.residual = residual, a.x = y, a.weight = norm, a.slot = slot, a.route_weight = weights, a.top_k = k, a.shared_first = -1, a.eps = 1e-6f;
  ASSERT_CUDA(hopper::add_norm(a, tokens, hidden, nullptr));
  ASSERT_CUDA(cudaDeviceSynchronize());
  const auto sums = residual.host();
  for (int i = 0; i < hidden; ++i) EXPECT_EQ(0.0f, sums[size_t(3) * hidden + i]);
}

/// V3's gate on the host, in the order of the report: sigmoid, bias for choosing, two best of each group, top-k.
void route_on_host(const std::vector<double>& logits, const std::vector<float>& bias, std::vector<int>& experts,
                   std::vector<double>& weights) {
  std::vector<float> s(256), c(256);
  for (int e = 0; e < 256; ++e) s[e] = float(1 / (1 + std::exp(-logits[e]))), c[e] = s[e] + bias[e];
  std::vector<std::pair<float, int>> groups;
  for (int g = 0; g < 8; ++g) {
    std::vector<float> mine(c.begin() + g * 32, c.begin() + g * 32 + 32);
    std::sort(mine.rbegin(), mine.rend());
    groups.push_back({-(mine[0] + mine[1]), g});
  }
  std::sort(groups.begin(), groups.end());
  std::vector<std::pair<float, int>> candidates;
  for (int i = 0; i < 4; ++i)
    for (int e = groups[i].second * 32; e < groups[i].second * 32 + 32; ++e) candidates.push_back({-c[e], e});
  std::sort(candidates.begin(), candidates.end());
  double total = 0;
  for (int k = 0; k < 8; ++k) total += s[candidates[k].second];
  for (int k = 0; k < 8; ++k) experts.push_back(candidates[k].second), weights.push_back(s[candidates[k].second] / total * 2.5);
}

TEST_F(HopperRows, GateChoosesAsTheReportSays) {
  const int hidden = 7168, experts = 256, k = 8;
  Device<bf16> w(size_t(experts) * hidden);
  Device<float> bias(experts);
  fill(w, 61, 0.03f), fill(bias, 62, 0.05f, -0.5f);  // negative biased scores: a mask of zeros would choose from dropped groups
  const auto ws = w.host();
  const auto biases = bias.host();
  for (const int tokens : {1, 7, 33, 128}) {
    Device<bf16> x(size_t(tokens) * hidden);
    fill(x, 63, 1);
    Device<float> partial(size_t(hopper::kGateParts) * tokens * experts), weights(size_t(tokens) * k);
    Device<int> chosen(tokens * k), slot(tokens * k), rows(tokens * (k + 1)), num_runs(2);
    cudaMemset(num_runs, 0, num_runs.bytes());
    Device<uint8_t> runs(size_t(hopper::max_runs(tokens, k, experts)) * hopper::kExpertRunBytes);
    const hopper::Routed routed{chosen, weights, slot, rows, reinterpret_cast<hopper::ExpertRun*>(static_cast<uint8_t*>(runs)), num_runs};
    const hopper::RouteOptions options;
    for (int repeat = 0; repeat < 2; ++repeat) {  // twice: the count of blocks is back at zero
      ASSERT_CUDA(hopper::gate_logits(partial, x, w, tokens, experts, hidden, nullptr));
      ASSERT_CUDA(hopper::route(routed, partial, bias, nullptr, tokens, options, nullptr));
      ASSERT_CUDA(cudaDeviceSynchronize());
    }
    const auto xs = x.host();
    const auto got = chosen.host(), slots = slot.host(), list = num_runs.host();
    const auto got_weights = weights.host();
    int differ = 0;
    std::vector<int> count(experts);
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < k; ++i) ++count[got[t * k + i]];
      if (t % 5 != 0) continue;
      std::vector<double> logits(experts);
      for (int e = 0; e < experts; ++e)
        for (int i = 0; i < hidden; ++i) logits[e] += double(float(xs[size_t(t) * hidden + i])) * double(float(ws[size_t(e) * hidden + i]));
      std::vector<int> expected;
      std::vector<double> expected_weights;
      route_on_host(logits, biases, expected, expected_weights);
      for (int i = 0; i < k; ++i) {
        if (got[t * k + i] != expected[i])
          ++differ;
        else
          EXPECT_NEAR(expected_weights[i], got_weights[t * k + i], 1e-4);
      }
    }
    EXPECT_EQ(0, differ) << tokens << " tokens";
    // the list: every pair in the run of its expert, runs by expert, the shared expert first
    struct Run {
      int expert, first, count, pad;
    };
    const auto raw = runs.host();
    const int size = tokens <= 8 ? 8 : 32;
    std::vector<Run> all(list[0]);
    ASSERT_LE(size_t(list[0]) * sizeof(Run), raw.size());
    std::memcpy(all.data(), raw.data(), all.size() * sizeof(Run));
    int next = 0, shared = 0;
    for (const Run& run : all) {
      ASSERT_GE(run.count, 1);
      ASSERT_LE(run.count, size);
      if (run.expert == 256) {
        EXPECT_EQ(tokens * k + shared, run.first);
        shared += run.count;
        continue;
      }
      EXPECT_EQ(next, run.first);
      next += run.count;
      count[run.expert] -= run.count;
      for (int p = 0; p < tokens * k; ++p)
        if (slots[p] >= run.first && slots[p] < run.first + run.count) EXPECT_EQ(run.expert, got[p]);
    }
    EXPECT_EQ(tokens * k, next);
    EXPECT_EQ(tokens, shared);
    EXPECT_EQ(256, std::count(count.begin(), count.end(), 0));
  }
}

TEST_F(HopperRows, AReplayedGraphGivesTheBitsOfEagerCalls) {
  const int tokens = 3, n = 2112, k = 7168;
  Device<E4m3> w(size_t(n) * k);
  Device<float> sw(17 * 56), residual(size_t(tokens) * k), weight(k), scale(size_t(tokens) * 56);
  Device<uint8_t> q(size_t(tokens) * k);
  Device<bf16> out(size_t(tokens) * n), x(size_t(tokens) * k);
  fill(w, 71, 64), fill_scales(sw, 72, 1e-4f), fill(weight, 73, 0.2f, 1), fill(x, 74, 1);
  cudaStream_t stream = nullptr;
  ASSERT_CUDA(cudaStreamCreate(&stream));
  auto step = [&] {
    hopper::AddNorm a{};
    a.residual = residual, a.x = x, a.weight = weight, a.q = q, a.q_scale = scale, a.shared_first = -1, a.eps = 1e-6f;
    cudaError_t result = hopper::add_norm(a, tokens, k, stream);
    if (result == cudaSuccess)
      result = hopper::fp8_linear(out, {q, scale}, {reinterpret_cast<uint8_t*>(static_cast<E4m3*>(w)), sw}, tokens, n, k, stream);
    return result;
  };
  fill(residual, 75, 1);
  ASSERT_CUDA(cudaDeviceSynchronize());
  ASSERT_CUDA(step());
  ASSERT_CUDA(step());
  ASSERT_CUDA(cudaStreamSynchronize(stream));
  const auto eager = out.host();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  ASSERT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  ASSERT_CUDA(step());
  ASSERT_CUDA(step());
  ASSERT_CUDA(cudaStreamEndCapture(stream, &graph));
  ASSERT_CUDA(cudaGraphInstantiate(&replay, graph, 0));
  for (int repeat = 0; repeat < 20; ++repeat) {
    fill(residual, 75, 1);
    out.poison(), q.poison();
    ASSERT_CUDA(cudaDeviceSynchronize());
    ASSERT_CUDA(cudaGraphLaunch(replay, stream));
    ASSERT_CUDA(cudaStreamSynchronize(stream));
    const auto replayed = out.host();
    ASSERT_EQ(0, std::memcmp(eager.data(), replayed.data(), eager.size() * sizeof(bf16))) << "replay " << repeat;
  }
  cudaGraphExecDestroy(replay), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace dsinfer
