#include "ops.hpp"

namespace dsinfer {
namespace {

class ElementwiseOps : public Ops {
 protected:
  // cos and sin of position · 10000^(-2j/dr), as the model makes them.
  TensorView angles(int64_t positions, int64_t width) {
    std::vector<float> table;
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t j = 0; j < width / 2; ++j) {
        const double a = static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(j) / static_cast<double>(width));
        table.push_back(static_cast<float>(std::cos(a)));
        table.push_back(static_cast<float>(std::sin(a)));
      }
    }
    return up(table, {positions, width});
  }
};
DSINFER_ON_ALL_BACKENDS(ElementwiseOps);

TEST_P(ElementwiseOps, EmbedDecodesRowsAndLeavesZerosOutsideOfItsSlice) {
  const int64_t rows = 40, width = 72;
  for (Format format : {Format::f32, Format::bf16, Format::f16, Format::fp8_block}) {
    std::vector<float> decoded;
    const Weight table = weight(normal(rows * width), rows, width, format, &decoded);
    const std::vector<int32_t> tokens = {100, 139, 99, 140, 117, 0};  // the slice holds 100 … 139
    const TensorView out = up(normal(6 * width), {6, width});
    backend->embed(out, table, up(tokens, {6}), 100);
    const auto y = down(out);
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (int64_t d = 0; d < width; ++d) {
        const bool mine = tokens[t] >= 100 && tokens[t] < 140;
        EXPECT_EQ(y[t * 72 + static_cast<size_t>(d)], mine ? decoded[static_cast<size_t>((tokens[t] - 100) * width + d)] : 0);
      }
    }
  }
}

TEST_P(ElementwiseOps, RmsNormAgreesWithDoubleAndMayWorkInPlace) {
  for (int64_t width : {1, 7, 96, 200, 7168}) {
    const int64_t rows = 5;
    const auto x = normal(rows * width), w = normal(width);
    std::vector<double> wanted;
    for (int64_t t = 0; t < rows; ++t) {
      double sum = 0;
      for (int64_t d = 0; d < width; ++d) sum += std::pow(double{x[static_cast<size_t>(t * width + d)]}, 2);
      const double rms = std::sqrt(sum / static_cast<double>(width) + 1e-6);
      for (int64_t d = 0; d < width; ++d) wanted.push_back(double{w[static_cast<size_t>(d)]} * double{x[static_cast<size_t>(t * width + d)]} / rms);
    }
    const TensorView in = up_strided(x, rows, width, width + 3), out = empty({rows, width}), ws = up(w, {width}), one = empty({1, width});
    backend->rms_norm(out, in, ws, 1e-6f);
    expect_close(down(out), wanted);
    backend->rms_norm(one, in.rows(3, 4), ws, 1e-6f);
    EXPECT_TRUE(same_bits(down(one), down(out.rows(3, 4))));
    backend->rms_norm(in, in, ws, 1e-6f);
    EXPECT_TRUE(same_bits(down(in), down(out)));
  }
}

TEST_P(ElementwiseOps, AddRmsNormIsAddThenRmsNorm) {
  const int64_t rows = 4, width = 90;
  const auto r = normal(rows * width), x = normal(rows * width), w = normal(width);
  const TensorView residual = up(r, {rows, width}), in = up(x, {rows, width}), ws = up(w, {width}), sum = up(r, {rows, width}), wanted = empty({rows, width});
  backend->add(sum, in);
  backend->rms_norm(wanted, sum, ws, 1e-5f);
  backend->add_rms_norm(in, residual, in, ws, 1e-5f);  // out may alias x
  EXPECT_TRUE(same_bits(down(residual), down(sum)));
  EXPECT_TRUE(same_bits(down(in), down(wanted)));
  for (size_t i = 0; i < r.size(); ++i) EXPECT_EQ(down(sum)[i], r[i] + x[i]);
}

TEST_P(ElementwiseOps, RopeRotatesPairsByPositionTimesFrequency) {
  const int64_t rows = 4, heads = 3, width = 16;
  const std::vector<int32_t> positions = {0, 1, 77, 199};
  const auto x = normal(rows * heads * width);
  for (bool interleave : {true, false}) {
    const TensorView wide = empty({rows, heads, width + 8}), v = wide.slice(2, 8, 8 + width);  // as the rope part of q lies
    backend->copy(v, TensorView::of(x.data(), {rows, heads, width}));
    backend->rope(v, up(positions, {rows}), angles(200, width), interleave);
    std::vector<double> wanted(x.begin(), x.end());
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t j = 0; j < width / 2; ++j) {
          const size_t base = static_cast<size_t>((t * heads + h) * width), a = base + static_cast<size_t>(interleave ? 2 * j : j),
                       b = base + static_cast<size_t>(interleave ? 2 * j + 1 : j + width / 2);
          const double angle = positions[static_cast<size_t>(t)] * std::pow(10000.0, -2.0 * static_cast<double>(j) / static_cast<double>(width));
          wanted[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
          wanted[b] = x[a] * std::sin(angle) + x[b] * std::cos(angle);
        }
      }
    }
    expect_close(down(v), wanted);
    for (float f : down(wide.slice(2, 0, 8))) EXPECT_EQ(f, 0);
  }
  EXPECT_NE(error_of([&] { backend->rope(empty({1, 1, width}), up(std::vector<int32_t>{200}, {1}), angles(200, width), true); finish(); }).find("position 200"), std::string::npos);
}

TEST_P(ElementwiseOps, InterleavedRopeThenPermutedEqualsPermutedThenHalfSplit) {
  const int64_t width = 64, half = width / 2;
  const auto x = normal(width);
  std::vector<float> permuted(x.size());
  for (size_t j = 0; j < static_cast<size_t>(half); ++j) {
    permuted[j] = x[2 * j];
    permuted[j + static_cast<size_t>(half)] = x[2 * j + 1];
  }
  const TensorView a = up(x, {1, 1, width}), b = up(permuted, {1, 1, width}), at = up(std::vector<int32_t>{123}, {1}), table = angles(200, width);
  backend->rope(a, at, table, true);
  backend->rope(b, at, table, false);
  const auto ya = down(a), yb = down(b);
  for (size_t j = 0; j < static_cast<size_t>(half); ++j) {
    EXPECT_EQ(ya[2 * j], yb[j]);
    EXPECT_EQ(ya[2 * j + 1], yb[j + static_cast<size_t>(half)]);
  }
}

TEST_P(ElementwiseOps, RotatedProductsDependOnTheDistanceOnly) {
  const int64_t width = 64;
  const auto q = normal(width), k = normal(width);
  const TensorView table = angles(300, width);
  const auto dot = [&](int32_t p, int32_t s) {
    const TensorView a = up(q, {1, 1, width}), b = up(k, {1, 1, width});
    backend->rope(a, up(std::vector<int32_t>{p}, {1}), table, true);
    backend->rope(b, up(std::vector<int32_t>{s}, {1}), table, true);
    const auto x = down(a), y = down(b);
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += double{x[i]} * double{y[i]};
    return sum;
  };
  EXPECT_NEAR(dot(20, 3), dot(217, 200), 1e-4);
  EXPECT_NEAR(dot(0, 0), dot(299, 299), 1e-4);
}

TEST_P(ElementwiseOps, SiluMulAgreesWithDoubleOverTheWholeRange) {
  const int64_t rows = 3, width = 1000;
  std::vector<float> x = normal(rows * 2 * width);
  for (int64_t d = 0; d < width; ++d) x[static_cast<size_t>(d)] = -120.0f + 0.24f * static_cast<float>(d);
  std::vector<double> wanted;
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t d = 0; d < width; ++d) {
      const double g = x[static_cast<size_t>(t * 2 * width + d)], u = x[static_cast<size_t>(t * 2 * width + width + d)];
      wanted.push_back(g / (1 + std::exp(-g)) * u);
    }
  }
  const TensorView out = empty({rows, width});
  backend->silu_mul(out, up(x, {rows, 2 * width}));
  expect_close(down(out), wanted);
}

TEST_P(ElementwiseOps, CopyHonoursStridesOnBothSides) {
  const auto x = normal(3 * 4 * 5);
  const TensorView from = up(x, {3, 4, 5}), to = empty({3, 6, 9});
  backend->copy(to.slice(1, 1, 4).slice(2, 2, 6), from.slice(1, 0, 3).slice(2, 1, 5));
  const auto y = down(to);
  for (size_t a = 0; a < 3; ++a) {
    for (size_t b = 0; b < 6; ++b) {
      for (size_t c = 0; c < 9; ++c) {
        const bool in = b >= 1 && b < 4 && c >= 2 && c < 6;
        EXPECT_EQ(y[(a * 6 + b) * 9 + c], in ? x[(a * 4 + b - 1) * 5 + c - 1] : 0);
      }
    }
  }
  EXPECT_NE(error_of([&] { backend->copy(to, from); }).find("copy"), std::string::npos);
}

TEST_P(ElementwiseOps, NoRowsAreFine) {
  const Weight table = weight(normal(8), 2, 4, Format::f32);
  backend->embed(empty({0, 4}), table, empty({0}, DType::i32), 0);
  backend->rms_norm(empty({0, 4}), empty({0, 4}), empty({4}), 1e-6f);
  backend->add_rms_norm(empty({0, 4}), empty({0, 4}), empty({0, 4}), empty({4}), 1e-6f);
  backend->add(empty({0, 4}), empty({0, 4}));
  backend->rope(empty({0, 2, 4}), empty({0}, DType::i32), empty({5, 4}), true);
  backend->silu_mul(empty({0, 4}), empty({0, 8}));
  backend->copy(empty({0, 4}), empty({0, 4}));
}

}  // namespace
}  // namespace dsinfer
