// The CUDA backend's products, alone and of routed experts, against the CPU's and against each other.
#include "cuda_ops.hpp"

namespace dsinfer {
namespace {

class CudaProducts : public CudaOps {};
INSTANTIATE_TEST_SUITE_P(Backends, CudaProducts, ::testing::ValuesIn(backends()), [](const auto& one) { return one.param.name; });

TEST_P(CudaProducts, ProductsOfV3sShapesAreTheCpusInBothArithmetics) {
  for (const Arithmetic arithmetic : {Arithmetic::w8a16, Arithmetic::w8a8}) {
    BackendOptions options;
    options.arithmetic = arithmetic;
    for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 2112, 7168}, {8, 7168, 2048}, {70, 1536, 512}, {3, 130, 7168}, {5, 33, 1000}}) {
      SCOPED_TRACE(std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + (arithmetic == Arithmetic::w8a8 ? " w8a8" : " w8a16"));
      const auto x = normal(m * k), s = scales(n, k);
      const auto c = codes(n * k);
      expect_alike([&](Backend& b) {
        const TensorView out = room(b, {m, n});
        b.linear(out, put(b, x, {m, k}), fp8(b, c, s, n, k));
        return take(b, out);
      }, 2e-6, 2e-5, options);
      held.clear();
    }
  }
}

// Depths of one, two and four parts; few rows and many, so that every shape of tile is asked; the smaller calls give the bits of the largest.
TEST_P(CudaProducts, ProductsOfManyRowsAreTheCpusAndThoseOfEachRow) {
  const int64_t most = 300;
  for (const Format format : {Format::bf16, Format::fp8_block, Format::int4_group}) {
    for (const auto& [n, k] : {std::array<int64_t, 2>{200, 384}, {1500, 1152}, {70, 4608}}) {
      SCOPED_TRACE(std::string(format_name(format)) + " " + std::to_string(n) + "x" + std::to_string(k));
      const auto x = normal(most * k), s = scales(n, k);
      const auto c = codes(n * k * (format == Format::bf16 ? 2 : 1));
      std::vector<uint16_t> rounded;
      for (float v : normal(n * k, 0.05f)) rounded.push_back(f32_to_bf16(v));
      const auto weight = [&](Backend& b) {
        if (format == Format::fp8_block) return fp8(b, c, s, n, k);
        Weight w;
        w.format = format;
        if (format == Format::bf16) {
          w.data = put(b, rounded.data(), {n, k}, DType::bf16);
          return w;
        }
        std::vector<float> each;
        for (int64_t i = 0; i < n * (k / 128); ++i) each.push_back(s[static_cast<size_t>(i) % s.size()]);
        w.block_rows = 1;
        w.data = put(b, c.data(), {n, k / 2}, DType::u8);
        w.scale = put(b, each, {n, k / 128});
        w.zeros = put(b, c.data() + n, {(n * (k / 128) + 1) / 2}, DType::u8);
        return w;
      };
      const auto rows = [&](Backend& b, int64_t first, int64_t m) {
        const TensorView out = room(b, {m, n});
        b.linear(out, put(b, std::vector<float>(x.begin() + first * k, x.begin() + (first + m) * k), {m, k}), weight(b));
        return take(b, out);
      };
      CpuBackend reference({});
      const auto all = rows(*backend, 0, most);
      expect_close(all, rows(reference, 0, most), 2e-6, 2e-5);
      for (const auto& [first, m] : {std::array<int64_t, 2>{0, 1}, {299, 1}, {17, 8}, {60, 9}, {3, 33}, {100, 130}}) {
        const std::vector<float> wanted(all.begin() + first * n, all.begin() + (first + m) * n);
        EXPECT_TRUE(same_bits(rows(*backend, first, m), wanted)) << m << " rows from " << first;
      }
      held.clear();
    }
  }
}

TEST_P(CudaProducts, ANaNWeightMakesItsOwnOutputNaNAndNoOther) {
  const int64_t n = 48, k = 256, m = 2;
  auto c = codes(n * k);
  for (const int64_t at : {5 * k + 130, 9 * k + 255, 20 * k + 1, 33 * k + 4}) c[static_cast<size_t>(at)] = at % 2 ? 0x7f : 0xff;
  const TensorView out = empty({m, n});
  backend->linear(out, up(normal(m * k), {m, k}), fp8(*backend, c, scales(n, k), n, k));
  const auto y = down(out);
  for (int64_t i = 0; i < m * n; ++i) EXPECT_EQ(std::isnan(y[static_cast<size_t>(i)]), i % n == 5 || i % n == 9 || i % n == 20 || i % n == 33) << i;
}

TEST_P(CudaProducts, FourBitGroupsDecodeAsTheReference) {
  for (const auto& [n, k, group, zeros, dtype] : {std::tuple<int64_t, int64_t, int64_t, bool, DType>{96, 512, 128, true, DType::f16}, {33, 256, 64, false, DType::bf16},
                                                  {17, 160, 32, true, DType::f32}, {9, 72, 8, true, DType::f16}, {5, 20, 10, false, DType::f32}}) {
    SCOPED_TRACE(std::to_string(n) + "x" + std::to_string(k) + " in groups of " + std::to_string(group));
    const int64_t groups = k / group, m = 3;
    const auto x = normal(m * k);
    std::vector<uint8_t> numbers(static_cast<size_t>(n * k / 2)), zero(static_cast<size_t>((n * groups + 1) / 2));
    for (auto* bytes : {&numbers, &zero}) for (uint8_t& byte : *bytes) byte = static_cast<uint8_t>(random());
    std::vector<uint16_t> half;
    std::vector<float> whole;
    for (int64_t i = 0; i < n * groups; ++i) {
      whole.push_back(0.01f * (1.0f + static_cast<float>(random() % 100) * 0.01f));
      half.push_back(dtype == DType::bf16 ? f32_to_bf16(whole.back()) : f32_to_f16(whole.back()));
    }
    const auto on = [&](const std::function<TensorView(const void*, std::initializer_list<int64_t>, DType)>& place) {
      Weight w;
      w.format = Format::int4_group;
      w.block_rows = 1;
      w.block_cols = group;
      w.data = place(numbers.data(), {n, k / 2}, DType::u8);
      w.scale = place(dtype == DType::f32 ? static_cast<const void*>(whole.data()) : half.data(), {n, groups}, dtype);
      if (zeros) w.zeros = place(zero.data(), {(n * groups + 1) / 2}, DType::u8);
      return w;
    };
    std::vector<float> decoded(static_cast<size_t>(n * k));
    decode_rows(decoded.data(), on([](const void* p, auto dims, DType t) { return TensorView(const_cast<void*>(p), t, dims); }), 0, n);
    const TensorView out = empty({m, n});
    backend->linear(out, up(x, {m, k}), on([&](const void* p, auto dims, DType t) { return put(*backend, p, dims, t); }));
    expect_close(down(out), product(x, decoded, m, n, k), 2e-6, 2e-5);
  }
}

TEST_P(CudaProducts, RoutedExpertsInOneCallGiveTheBitsOfTheirParts) {
  const int64_t hidden = 256, inner = 128, all = 12, k = 4;
  for (const Arithmetic arithmetic : {Arithmetic::w8a16, Arithmetic::w8a8}) {
    BackendOptions options;
    options.arithmetic = arithmetic;
    const auto ours = GetParam().make(options);
    Backend& b = *ours;
    for (const auto& [rows, first, own] : {std::array<int64_t, 3>{1, 0, 12}, {37, 0, 12}, {37, 5, 4}, {300, 11, 1}, {150, 0, 12}}) {  // the last two by tiles of 32 rows
      SCOPED_TRACE(std::to_string(rows) + " rows, experts from " + std::to_string(first) + ": " + std::to_string(own));
      std::vector<Weight> gate_up, down;
      for (int64_t e = 0; e < own; ++e) {
        gate_up.push_back(fp8(b, codes(2 * inner * hidden), scales(2 * inner, hidden), 2 * inner, hidden));
        down.push_back(fp8(b, codes(hidden * inner), scales(hidden, inner), hidden, inner));
      }
      std::vector<int32_t> ids;
      for (int64_t t = 0; t < rows; ++t) for (int64_t j = 0; j < k; ++j) ids.push_back(static_cast<int32_t>((t * t + 3 * t + j * (1 + t % 3)) % all));
      for (int64_t t = 0; t < rows; ++t)  // four different ones
        for (int64_t j = 1; j < k; ++j) while (std::count(ids.begin() + t * k, ids.begin() + t * k + j, ids[static_cast<size_t>(t * k + j)])) ids[static_cast<size_t>(t * k + j)] = (ids[static_cast<size_t>(t * k + j)] + 1) % static_cast<int32_t>(all);
      const auto x = normal(rows * hidden), weights = normal(rows * k), start = normal(rows * hidden);
      const TensorView xs = put(b, x, {rows, hidden}), out = put(b, start, {rows, hidden}), wanted = put(b, start, {rows, hidden});
      std::vector<int32_t> pair_rows;
      std::vector<float> pair_scale;
      std::vector<int64_t> offsets = {0};
      for (int64_t e = first; e < first + own; ++e) {
        for (int64_t i = 0; i < rows * k; ++i) {
          if (ids[static_cast<size_t>(i)] != e) continue;
          pair_rows.push_back(static_cast<int32_t>(i / k));
          pair_scale.push_back(weights[static_cast<size_t>(i)]);
        }
        offsets.push_back(static_cast<int64_t>(pair_rows.size()));
      }
      const int64_t pairs = offsets.back(), most = rows * std::min(k, own);
      const TensorView in = room(b, {pairs, hidden}), middle = room(b, {pairs, 2 * inner}), act = room(b, {pairs, inner}), back = room(b, {pairs, hidden}), indices = put(b, pair_rows, {pairs});
      b.gather_rows(in, xs, indices);
      b.grouped_linear(middle, in, gate_up, offsets);
      b.silu_mul(act, middle);
      b.grouped_linear(back, act, down, offsets);
      b.scatter_add(wanted, back, indices, put(b, pair_scale, {pairs}));
      const std::vector<int32_t> none(static_cast<size_t>(most), -7);
      ASSERT_TRUE(b.routed_experts(out, xs, put(b, ids, {rows, k}), put(b, weights, {rows, k}), first, gate_up, down,
                                   {put(b, none, {most}), room(b, {most}), room(b, {most, 2 * inner}), room(b, {most, inner}), room(b, {most, hidden})}));
      const auto found = take(b, out);
      EXPECT_TRUE(same_bits(found, take(b, wanted)));
      for (float v : found) EXPECT_TRUE(std::isfinite(v));
    }
    held.clear();
  }
}

}  // namespace
}  // namespace dsinfer
