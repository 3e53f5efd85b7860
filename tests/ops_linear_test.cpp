#include <array>

#include "ops.hpp"

namespace dsinfer {
namespace {

class LinearOps : public Ops {};
DSINFER_ON_ALL_BACKENDS(LinearOps);

constexpr std::array kFormats = {Format::f32, Format::bf16, Format::f16, Format::fp8_block};

struct Shape { int64_t m, n, k; };
constexpr Shape kShapes[] = {{1, 8, 16}, {1, 192, 256}, {3, 17, 200}, {5, 33, 72}, {2, 130, 40}, {64, 50, 300}, {7, 300, 129}, {70, 9, 520}, {4, 3, 7}};

TEST_P(LinearOps, LinearAgreesWithDoubleForEveryFormatAndRaggedShape) {
  for (Format format : kFormats) {
    for (const auto& [m, n, k] : kShapes) {
      SCOPED_TRACE(std::string(format_name(format)) + " " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k));
      std::vector<float> decoded;
      const auto x = normal(m * k);
      const Weight w = weight(normal(n * k, 0.1f), n, k, format, &decoded);
      const TensorView out = empty({m, n});
      backend->linear(out, up(x, {m, k}), w);
      expect_close(down(out), product(x, decoded, m, n, k));
    }
  }
}

TEST_P(LinearOps, BlockSizesComeFromTheWeight) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{32, 32}, {64, 16}, {5, 24}, {1, 7}, {128, 1000}}) {
    for (int64_t m : {1, 9}) {
      const int64_t n = 70, k = 200;
      std::vector<float> decoded;
      const auto x = normal(m * k);
      const Weight w = weight(normal(n * k), n, k, Format::fp8_block, &decoded, rows, cols);
      const TensorView out = empty({m, n});
      backend->linear(out, up(x, {m, k}), w);
      expect_close(down(out), product(x, decoded, m, n, k));
    }
  }
}

TEST_P(LinearOps, ARowAloneAndInABatchGivesTheSameBits) {
  for (Format format : kFormats) {
    for (int64_t k : {256, 200, 72, 40, 1100}) {
      const int64_t n = 75, most = 64;
      const auto x = normal(most * k);
      const Weight w = weight(normal(n * k), n, k, format);
      const TensorView xs = up(x, {most, k}), all = empty({most, n});
      backend->linear(all, xs, w);
      const auto wanted = down(all);
      for (int64_t m : {1, 2, 3, 4, 5, 6, 11}) {
        for (int64_t first : {int64_t{0}, int64_t{13}, most - m}) {
          const TensorView out = empty({m, n});
          backend->linear(out, xs.rows(first, first + m), w);
          EXPECT_TRUE(same_bits(down(out), down(all.rows(first, first + m)))) << format_name(format) << " m " << m << " k " << k << " first " << first;
        }
      }
    }
  }
}

TEST_P(LinearOps, AnOutputDoesNotDependOnWhichOthersAreCut) {
  const int64_t n = 140, k = 264, m = 6;
  for (Format format : {Format::bf16, Format::fp8_block}) {
    const Weight w = weight(normal(n * k), n, k, format);
    const TensorView x = up(normal(m * k), {m, k}), all = empty({m, n}), cut = empty({m, 12});
    backend->linear(all, x, w);
    Weight part = w;  // rows 128 … 140 are the second block
    part.data = w.data.rows(128, 140);
    if (format == Format::fp8_block) part.scale = w.scale.rows(1, 2);
    backend->linear(cut, x, part);
    EXPECT_TRUE(same_bits(down(cut), down(all.slice(1, 128, 140))));
  }
}

class LinearThreads : public Ops {};
INSTANTIATE_TEST_SUITE_P(Cpu, LinearThreads, ::testing::Values(cpu_backends().back()), [](const auto& one) { return one.param.name; });

TEST_P(LinearThreads, NumberOfThreadsDoesNotChangeABit) {
  const int64_t n = 512, k = 520;
  for (Format format : kFormats) {
    for (int64_t m : {1, 5, 200}) {
      const auto x = normal(m * k);
      const Weight w = weight(normal(n * k), n, k, format);
      const TensorView xs = up(x, {m, k});
      std::vector<float> first;
      for (int threads : {1, 2, 3, 7}) {
        CpuBackend other(BackendOptions{threads});
        const TensorView out = empty({m, n});
        other.linear(out, xs, w);
        if (first.empty()) first = down(out);
        EXPECT_TRUE(same_bits(down(out), first)) << threads << " threads, " << format_name(format) << ", m " << m;
      }
    }
  }
}

TEST_P(LinearOps, LinearHonoursStridesOfActivationsResultsAndColumnSlices) {
  const int64_t m = 5, n = 20, k = 256;
  for (Format format : kFormats) {
    std::vector<float> decoded;
    Weight w = weight(normal(n * k), n, k, format, &decoded);
    const auto x = normal(m * 128);
    const TensorView out = empty({m, n + 9}).slice(1, 0, n);
    w.data = w.data.slice(1, 128, 256);  // columns of the second block
    if (format == Format::fp8_block) w.scale = w.scale.slice(1, 1, 2);
    backend->linear(out, up_strided(x, m, 128, 150), w);
    std::vector<float> half;
    for (int64_t i = 0; i < n; ++i) half.insert(half.end(), decoded.begin() + i * k + 128, decoded.begin() + (i + 1) * k);
    expect_close(down(out), product(x, half, m, n, 128));
  }
}

TEST_P(LinearOps, AllE4m3CodesMultiplyExactlyAndNanStaysNan) {
  for (int64_t m : {1, 8}) {  // decoded in registers, and through a tile
    for (int code = 0; code < 256; ++code) {
      Weight w = weight(std::vector<float>(3 * 48, 1.0f), 3, 48, Format::fp8_block);
      std::vector<uint8_t> bytes(3 * 48, 0);
      bytes[48 + 21] = static_cast<uint8_t>(code);
      backend->copy(w.data, TensorView(bytes.data(), DType::e4m3, {3, 48}));
      const float scale = 0.375f;
      backend->copy(w.scale, TensorView::of(&scale, {1, 1}));
      const TensorView out = empty({m, 3});
      backend->linear(out, up(std::vector<float>(static_cast<size_t>(m * 48), 1.0f), {m, 48}), w);
      const auto y = down(out);
      EXPECT_EQ(y[0], 0);
      EXPECT_EQ(y[2], 0);
      if ((code & 0x7f) == 0x7f) EXPECT_TRUE(std::isnan(y[1]));
      else EXPECT_EQ(y[1], e4m3_to_f32(static_cast<uint8_t>(code)) * scale) << code;
    }
  }
}

// The emulation of golden data: quantise 1 × 128, multiply exactly, scale block sums.
std::vector<double> w8a8(const std::vector<float>& x, const std::vector<float>& codes, const std::vector<float>& scales, int64_t m, int64_t n, int64_t k, bool ue8m0) {
  const int64_t blocks = (k + 127) / 128;
  std::vector<double> y(static_cast<size_t>(m * n));
  for (int64_t t = 0; t < m; ++t) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t k0 = b * 128, k1 = std::min(k, k0 + 128);
      float amax = 1e-4f;
      for (int64_t d = k0; d < k1; ++d) amax = std::max(amax, std::fabs(x[static_cast<size_t>(t * k + d)]));
      float s = amax / 448.0f;
      if (ue8m0) {  // the bit trick: exponent, plus one if any mantissa bit is set
        const auto bits = std::bit_cast<uint32_t>(s);
        s = std::ldexp(1.0f, static_cast<int>(bits >> 23) - 127 + ((bits & 0x7fffff) ? 1 : 0));
      }
      for (int64_t i = 0; i < n; ++i) {
        double sum = 0;
        for (int64_t d = k0; d < k1; ++d) sum += double{e4m3_to_f32(f32_to_e4m3(x[static_cast<size_t>(t * k + d)] / s))} * double{codes[static_cast<size_t>(i * k + d)]};
        y[static_cast<size_t>(t * n + i)] += sum * double{s} * double{scales[static_cast<size_t>(i / 128 * blocks + b)]};
      }
    }
  }
  return y;
}

TEST_P(LinearOps, W8a8AgreesWithTheEmulationAndOnlyTouchesFp8) {
  for (bool ue8m0 : {false, true}) {
    BackendOptions options;
    options.arithmetic = Arithmetic::w8a8;
    options.ue8m0 = ue8m0;
    const auto quantised = GetParam().make(options);
    for (const auto& [m, n, k] : {Shape{1, 130, 256}, Shape{5, 576, 300}, Shape{66, 20, 384}}) {
      auto x = normal(m * k);
      for (int64_t d = 0; d < 128; ++d) x[static_cast<size_t>(d)] *= 1e-7f;  // below the floor
      const Weight w = weight(normal(n * k), n, k, Format::fp8_block);
      std::vector<float> codes;
      for (const uint8_t code : down<uint8_t>(w.data)) codes.push_back(e4m3_to_f32(code));
      const auto scales = down(w.scale);
      const TensorView out = empty({m, n}), xs = up(x, {m, k}), alone = empty({1, n});
      finish();
      quantised->linear(out, xs, w);
      quantised->linear(alone, xs.rows(m - 1, m), w);
      finish(*quantised);
      expect_close(down(out), w8a8(x, codes, scales, m, n, k, ue8m0), 1e-5, 1e-4);
      EXPECT_TRUE(same_bits(down(alone), down(out.rows(m - 1, m))));

      const Weight plain = weight(normal(n * k), n, k, Format::bf16);
      const TensorView a = empty({m, n}), b = empty({m, n});
      finish();
      quantised->linear(a, xs, plain);
      backend->linear(b, xs, plain);
      finish(*quantised);
      EXPECT_TRUE(same_bits(down(a), down(b)));
    }
  }
}

TEST_P(LinearOps, LinearPerHeadMultipliesEachHeadByItsOwnMatrix) {
  const int64_t heads = 3, n = 40, k = 24;
  for (int64_t m : {1, 4, 9}) {
    const auto x = normal(m * heads * 30), w = normal(heads * n * k);
    Weight weights;
    weights.data = up(w, {heads, n, k});
    const TensorView out = empty({m, heads, n});
    backend->linear_per_head(out, up(x, {m, heads, 30}).slice(2, 6, 30), weights);
    std::vector<double> wanted(static_cast<size_t>(m * heads * n));
    for (int64_t t = 0; t < m; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < n; ++i) {
          double sum = 0;
          for (int64_t d = 0; d < k; ++d) sum += double{x[static_cast<size_t>((t * heads + h) * 30 + 6 + d)]} * double{w[static_cast<size_t>((h * n + i) * k + d)]};
          wanted[static_cast<size_t>((t * heads + h) * n + i)] = sum;
        }
      }
    }
    expect_close(down(out), wanted);
  }
}

TEST_P(LinearOps, GroupedLinearEqualsLinearExpertByExpert) {
  const int64_t n = 96, k = 160, experts = 6;
  const std::vector<int64_t> offsets = {0, 0, 1, 4, 4, 70, 75};  // experts without rows, with one, with many
  const int64_t m = offsets.back();
  for (auto arithmetic : {Arithmetic::w8a16, Arithmetic::w8a8}) {
    BackendOptions options;
    options.arithmetic = arithmetic;
    const auto b = GetParam().make(options);
    for (Format format : kFormats) {
      std::vector<Weight> weights;
      for (int64_t e = 0; e < experts; ++e) weights.push_back(weight(normal(n * k), n, k, format));
      const TensorView x = up(normal(m * k), {m, k}), out = empty({m, n}), wanted = empty({m, n});
      finish();
      b->grouped_linear(out, x, weights, offsets);
      for (size_t e = 0; e < weights.size(); ++e) b->linear(wanted.rows(offsets[e], offsets[e + 1]), x.rows(offsets[e], offsets[e + 1]), weights[e]);
      finish(*b);
      EXPECT_TRUE(same_bits(down(out), down(wanted))) << format_name(format);
    }
  }
}

TEST_P(LinearOps, NoRowsAreFine) {
  const Weight w = weight(normal(8 * 16), 8, 16, Format::fp8_block);
  const TensorView x = empty({0, 16}), out = empty({0, 8});
  backend->linear(out, x, w);
  const std::vector<Weight> experts(3, w);
  const std::vector<int64_t> offsets(4, 0);
  backend->grouped_linear(out, x, experts, offsets);
  Weight heads;
  heads.data = empty({2, 8, 16});
  backend->linear_per_head(empty({0, 2, 8}), empty({0, 2, 16}), heads);
}

TEST_P(LinearOps, ShapesThatDoNotFitAreRefusedByName) {
  const Weight w = weight(normal(8 * 16), 8, 16, Format::f32);
  const std::string text = error_of([&] { backend->linear(empty({2, 8}), empty({2, 15}), w); });
  EXPECT_NE(text.find("linear"), std::string::npos);
  EXPECT_NE(text.find("[2, 15]"), std::string::npos);
  EXPECT_NE(text.find("[8, 16]"), std::string::npos);
  Weight fp8 = weight(normal(130 * 16), 130, 16, Format::fp8_block);
  fp8.scale = fp8.scale.rows(0, 1);
  EXPECT_NE(error_of([&] { backend->linear(empty({2, 130}), empty({2, 16}), fp8); }).find("scale [1, 1]"), std::string::npos);
  const std::vector<Weight> experts(2, w);
  const std::vector<int64_t> offsets = {0, 1, 1};
  EXPECT_NE(error_of([&] { backend->grouped_linear(empty({2, 8}), empty({2, 16}), experts, offsets); }).find("offsets"), std::string::npos);
}

}  // namespace
}  // namespace dsinfer
