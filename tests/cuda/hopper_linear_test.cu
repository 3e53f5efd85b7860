/// The FP8 linears of the decode step against double precision on the same quantised inputs.
#include <cstdio>
#include <cstring>

#include "backend/cuda/hopper/prefill.hpp"
#include "device_data.cuh"

namespace dsinfer {
namespace {
using namespace test;

/// bf16 output of exact sums: its rounding alone gives 1.7e-3 on average; f32 sums add 1e-6.
constexpr double kBf16Error = 2.5e-3;

class HopperLinear : public testing::Test {
  void SetUp() override {
    if (!has_hopper()) GTEST_SKIP() << "no GPU: skipped (needs compute capability 9.0)";
  }
};

struct LinearCase {
  int n, k;
};
constexpr LinearCase kShapes[] = {{2112, 7168},  {24576, 1536}, {7168, 16384}, {4096, 7168}, {7168, 2048},
                                  {7168, 18432}, {64, 512},     {12288, 1536}, {18432, 768}};

TEST_F(HopperLinear, EqualsDoublePrecisionForEveryShapeAndRowCount) {
  uint64_t seed = 1;
  for (const LinearCase& shape : kShapes) {
    const int blocks = shape.k / 128;
    Device<E4m3> w(size_t(shape.n) * shape.k);
    Device<float> sw(size_t((shape.n + 127) / 128) * blocks);
    fill(w, ++seed, 64), fill_scales(sw, ++seed, 1.0f / 4096);
    for (const int m : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 100, 128}) {
      Device<E4m3> x(size_t(m) * shape.k);
      Device<float> sx(size_t(m) * blocks);
      fill(x, ++seed, 100), fill_scales(sx, ++seed, 1.0f / 128);
      Device<bf16> out(size_t(m) * shape.n + 8);
      Device<double> reference(size_t(m) * shape.n);
      const auto* xb = reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(x));
      const auto* wb = reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(w));
      linear_reference_kernel<<<(m * shape.n + 255) / 256, 256>>>(reference, xb, sx, wb, sw, nullptr, m, shape.n, shape.k);
      ASSERT_CUDA(hopper::fp8_linear(out, {xb, sx}, {wb, sw}, m, shape.n, shape.k, nullptr));
      ASSERT_CUDA(cudaDeviceSynchronize());
      const double error = relative_error(out.host(), reference.host());
      EXPECT_LT(error, kBf16Error) << "N " << shape.n << " K " << shape.k << " M " << m;
      if (m == 8) std::printf("linear (%d, %d) M %d: %.2e\n", shape.n, shape.k, m, error);
    }
  }
}

// One shape for each tile of the linears of 65 to 128 tokens, on 132 multiprocessors; short, for compute-sanitizer.
TEST_F(HopperLinear, EveryWideTileEqualsDoublePrecisionOverAShortSum) {
  const int m = 100, k = 512, blocks = k / 128;
  Device<E4m3> x(size_t(m) * k);
  Device<float> sx(size_t(m) * blocks);
  fill(x, 21, 100), fill_scales(sx, 22, 1.0f / 128);
  const auto* xb = reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(x));
  for (const int n : {2112, 4096, 7168, 12288, 18432, 24576}) {
    Device<E4m3> w(size_t(n) * k);
    Device<float> sw(size_t((n + 127) / 128) * blocks);
    fill(w, 23, 64), fill_scales(sw, 24, 1.0f / 4096);
    const auto* wb = reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(w));
    Device<double> reference(size_t(m) * n);
    linear_reference_kernel<<<(m * n + 255) / 256, 256>>>(reference, xb, sx, wb, sw, nullptr, m, n, k);
    Device<bf16> out(size_t(m) * n);
    ASSERT_CUDA(hopper::fp8_linear(out, {xb, sx}, {wb, sw}, m, n, k, nullptr));
    EXPECT_LT(relative_error(out.host(), reference.host()), kBf16Error) << "N " << n;
  }
}

TEST_F(HopperLinear, GivesARowTheSameBitsAloneAndInABatch) {
  for (const LinearCase& shape : {LinearCase{2112, 7168}, LinearCase{7168, 2048}, LinearCase{24576, 1536}}) {
    const int m = 64, blocks = shape.k / 128;  // with more, K is cut otherwise
    Device<E4m3> w(size_t(shape.n) * shape.k), x(size_t(m) * shape.k);
    Device<float> sw(size_t((shape.n + 127) / 128) * blocks), sx(size_t(m) * blocks);
    fill(w, 3, 64), fill_scales(sw, 4, 1.0f / 4096), fill(x, 5, 100), fill_scales(sx, 6, 1.0f / 128);
    const auto* xb = reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(x));
    const auto* wb = reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(w));
    Device<bf16> all(size_t(m) * shape.n);
    ASSERT_CUDA(hopper::fp8_linear(all, {xb, sx}, {wb, sw}, m, shape.n, shape.k, nullptr));
    const auto batch = all.host();
    for (const int rows : {1, 12, 30, 50}) {
      if (rows + 13 > m) continue;
      Device<bf16> some(size_t(rows) * shape.n);
      const int first = 13;
      ASSERT_CUDA(hopper::fp8_linear(some, {xb + size_t(first) * shape.k, sx + first * blocks}, {wb, sw}, rows, shape.n, shape.k, nullptr));
      const auto alone = some.host();
      EXPECT_EQ(0, std::memcmp(alone.data(), batch.data() + size_t(first) * shape.n, alone.size() * sizeof(bf16)))
          << "N " << shape.n << ", " << rows << " rows";
    }
  }
}

TEST_F(HopperLinear, CallsInARowNeitherStallNorDiffer) {
  for (const LinearCase& shape : {LinearCase{2112, 7168}, LinearCase{4096, 7168}, LinearCase{7168, 2048}, LinearCase{24576, 1536}}) {
    const int m = 128, blocks = shape.k / 128;
    Device<E4m3> w(size_t(shape.n) * shape.k), x(size_t(m) * shape.k);
    Device<float> sw(size_t((shape.n + 127) / 128) * blocks), sx(size_t(m) * blocks);
    fill(w, 3, 64), fill_scales(sw, 4, 1.0f / 4096), fill(x, 5, 100), fill_scales(sx, 6, 1.0f / 128);
    const auto* xb = reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(x));
    const auto* wb = reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(w));
    Device<bf16> once(size_t(m) * shape.n), last(size_t(m) * shape.n);
    ASSERT_CUDA(hopper::fp8_linear(once, {xb, sx}, {wb, sw}, m, shape.n, shape.k, nullptr));
    for (int i = 0; i < 500; ++i) ASSERT_CUDA(hopper::fp8_linear(last, {xb, sx}, {wb, sw}, m, shape.n, shape.k, nullptr));
    ASSERT_CUDA(cudaDeviceSynchronize());
    const auto a = once.host(), b = last.host();
    EXPECT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * sizeof(bf16))) << "N " << shape.n;
  }
}

TEST_F(HopperLinear, GateAndUpOfADenseMlpAreJoined) {
  const int n = 36864, k = 7168, blocks = k / 128;  // several tiles for each multiprocessor
  Device<E4m3> w(size_t(n) * k);
  Device<float> sw(size_t(n / 128) * blocks);
  fill(w, 91, 64), fill_scales(sw, 92, 1.0f / 65536);
  const auto* wb = reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(w));
  for (const int m : {3, 33, 64, 65, 100, 128}) {
    Device<E4m3> x(size_t(m) * k);
    Device<float> sx(size_t(m) * blocks);
    fill(x, 93, 100), fill_scales(sx, 94, 1.0f / 128);
    const auto* xb = reinterpret_cast<const uint8_t*>(static_cast<E4m3*>(x));
    Device<double> reference(size_t(m) * n);
    linear_reference_kernel<<<(m * n + 255) / 256, 256>>>(reference, xb, sx, wb, sw, nullptr, m, n, k);
    Device<bf16> out(size_t(m) * n / 2);
    ASSERT_CUDA(hopper::fp8_gate_up(out, {xb, sx}, {wb, sw}, m, n, k, nullptr));
    ASSERT_CUDA(cudaDeviceSynchronize());
    const auto both = reference.host();
    std::vector<double> expected(size_t(m) * n / 2);
    for (int t = 0; t < m; ++t)
      for (int i = 0; i < n / 2; ++i) {
        const double gate = both[size_t(t) * n + i];
        expected[size_t(t) * n / 2 + i] = gate / (1 + std::exp(-gate)) * both[size_t(t) * n + n / 2 + i];
      }
    EXPECT_LT(relative_error(out.host(), expected), kBf16Error) << m << " rows";
  }
}

TEST_F(HopperLinear, RefusesDimensionsThatItCannotTile) {
  Device<float> any(64);
  bf16* out = reinterpret_cast<bf16*>(static_cast<float*>(any));
  EXPECT_EQ(cudaErrorInvalidValue, hopper::fp8_linear(out, {}, {}, 1, 40, 7168, nullptr));
  EXPECT_EQ(cudaErrorInvalidValue, hopper::fp8_linear(out, {}, {}, 1, 64, 7000, nullptr));
  EXPECT_EQ(cudaSuccess, hopper::fp8_linear(out, {}, {}, 0, 64, 7168, nullptr));
}

class HopperExperts : public HopperLinear, public testing::WithParamInterface<int> {};

// Routing is forced so that some experts stay empty and one takes more tokens than a run holds. Only a few distinct experts: memory.
TEST_P(HopperExperts, GateUpAndDownEqualDoublePrecision) {
  const int tokens = GetParam(), k = 8, pairs = tokens * k, positions = pairs + tokens;
  const int used = 12;  // experts 0 … 11 exist; the rest are never chosen
  const int hidden = 1024 * 7, inner = 2048, hb = hidden / 128, ib = inner / 128;
  Device<E4m3> gu(size_t(used + 1) * 2 * inner * hidden), down(size_t(used + 1) * hidden * inner), x(size_t(tokens) * hidden),
      h8(size_t(positions) * inner);
  Device<float> gu_scale(size_t(used + 1) * (2 * inner / 128) * hb), down_scale(size_t(used + 1) * (hidden / 128) * ib),
      x_scale(size_t(tokens) * hb), h_scale(size_t(positions) * ib);
  fill(gu, 11, 64), fill(down, 12, 64), fill(x, 13, 100);
  fill_scales(gu_scale, 14, 1.0f / 65536), fill_scales(down_scale, 15, 1.0f / 4096), fill_scales(x_scale, 16, 1.0f / 128);
  std::vector<int> forced(pairs);
  for (int t = 0; t < tokens; ++t)  // eight different ones a token
    for (int i = 0; i < k; ++i) forced[t * k + i] = (3 + i + (t % 2 ? (i > 5) : 0)) % used;
  Device<int> forced_device(forced);
  Device<float> partial(size_t(hopper::kGateParts) * tokens * 256), bias(256);
  fill(partial, 17, 0.5f), fill(bias, 18, 0.1f);
  Device<int> experts(pairs), slot(pairs), rows(positions), num_runs(2);
  cudaMemset(num_runs, 0, num_runs.bytes());
  Device<float> weights(pairs);
  Device<uint8_t> runs(size_t(hopper::max_runs(tokens, k, 256)) * hopper::kExpertRunBytes);
  const hopper::Routed routed{experts, weights, slot, rows, reinterpret_cast<hopper::ExpertRun*>(static_cast<uint8_t*>(runs)), num_runs};
  const hopper::RouteOptions options;
  ASSERT_CUDA(hopper::route(routed, partial, bias, forced_device, tokens, options, nullptr));
  const auto bytes = [](Device<E4m3>& d) { return reinterpret_cast<uint8_t*>(static_cast<E4m3*>(d)); };
  const hopper::Fp8Weight gu_shared{bytes(gu) + size_t(used) * 2 * inner * hidden, gu_scale + size_t(used) * (2 * inner / 128) * hb};
  const hopper::Fp8Weight down_shared{bytes(down) + size_t(used) * hidden * inner, down_scale + size_t(used) * (hidden / 128) * ib};

  Device<bf16> h(size_t(positions) * inner), y(size_t(positions) * hidden);
  const hopper::Fp8Weight gu_weight{bytes(gu), gu_scale};
  Device<uint8_t> sorted(size_t(positions) * hidden);
  Device<float> sorted_scale(size_t(positions) * hb);
  if (tokens > hopper::kMostGathered) {
    EXPECT_EQ(cudaErrorInvalidValue,
              hopper::grouped_gate_up(h, {bytes(x), x_scale}, gu_weight, gu_shared, routed, tokens, options, 2 * inner, hidden, nullptr));
    ASSERT_CUDA(hopper::sort_rows(sorted, sorted_scale, {bytes(x), x_scale}, routed, tokens, options, hidden, nullptr));
    ASSERT_CUDA(hopper::grouped_gate_up_sorted(h, {sorted, sorted_scale}, gu_weight, gu_shared, routed, tokens, options, 2 * inner, hidden,
                                               nullptr));
  } else {
    ASSERT_CUDA(hopper::grouped_gate_up(h, {bytes(x), x_scale}, gu_weight, gu_shared, routed, tokens, options, 2 * inner, hidden, nullptr));
  }
  ASSERT_CUDA(hopper::quantise(bytes(h8), h_scale, h, positions, inner, false, nullptr));
  ASSERT_CUDA(hopper::grouped_down(y, {bytes(h8), h_scale}, {bytes(down), down_scale}, down_shared, routed, tokens, options, hidden, inner,
                                   nullptr));
  ASSERT_CUDA(cudaDeviceSynchronize());

  const auto slots = slot.host(), row_of = rows.host();
  std::vector<int> expert_of(positions, -1);
  for (int p = 0; p < pairs; ++p) {
    ASSERT_GE(slots[p], 0);
    ASSERT_LT(slots[p], pairs);
    ASSERT_EQ(-1, expert_of[slots[p]]);
    expert_of[slots[p]] = forced[p];
    EXPECT_EQ(p / k, row_of[slots[p]]);
  }
  for (int t = 0; t < tokens; ++t) {
    expert_of[pairs + t] = used;
    EXPECT_EQ(t, row_of[pairs + t]);
  }
  const auto h_host = h.host(), y_host = y.host();
  double worst_h = 0, worst_y = 0;
  for (int p = 0; p<positions; p += positions> 64 ? 7 : 1) {
    const size_t e = size_t(expert_of[p]);
    Device<double> gate_up(2 * inner), y_reference(hidden);
    linear_reference_kernel<<<(2 * inner + 255) / 256, 256>>>(gate_up, bytes(x), x_scale, bytes(gu) + e * 2 * inner * hidden,
                                                              gu_scale + e * (2 * inner / 128) * hb, rows + p, 1, 2 * inner, hidden);
    linear_reference_kernel<<<(hidden + 255) / 256, 256>>>(y_reference, bytes(h8) + size_t(p) * inner, h_scale + p * ib,
                                                           bytes(down) + e * hidden * inner, down_scale + e * (hidden / 128) * ib, nullptr,
                                                           1, hidden, inner);
    const auto gu_host = gate_up.host();
    std::vector<double> expected(inner);
    for (int i = 0; i < inner; ++i) expected[i] = gu_host[i] / (1 + std::exp(-gu_host[i])) * gu_host[inner + i];
    worst_h = std::max(
        worst_h, relative_error(std::vector<bf16>(h_host.begin() + size_t(p) * inner, h_host.begin() + size_t(p + 1) * inner), expected));
    worst_y =
        std::max(worst_y, relative_error(std::vector<bf16>(y_host.begin() + size_t(p) * hidden, y_host.begin() + size_t(p + 1) * hidden),
                                         y_reference.host()));
  }
  std::printf("experts, %d tokens: gate_up %.2e, down %.2e\n", tokens, worst_h, worst_y);
  EXPECT_LT(worst_h, kBf16Error);
  EXPECT_LT(worst_y, kBf16Error);
}
INSTANTIATE_TEST_SUITE_P(Tokens, HopperExperts, testing::Values(1, 3, 8, 9, 33, 128, 513, 1100));

}  // namespace
}  // namespace dsinfer
