// The CUDA backend against the CPU's at DeepSeek-V3's dimensions and odd ones, and what it says where it cannot. DSINFER_TEST_DEVICE names the GPU.
#include <algorithm>

#include "dsinfer/forward.hpp"
#include "ops.hpp"
#include "ranks.hpp"

namespace dsinfer {
namespace {

class CudaBackendTest : public Ops {
 protected:
  // The same operation on both; what `run` returns of each.
  using Run = std::function<std::vector<float>(Backend&)>;
  void expect_alike(const Run& run, double l2, double peak, const BackendOptions& options = {}) {
    const auto ours = GetParam().make(options);
    CpuBackend reference(options);
    expect_close(run(*ours), run(reference), l2, peak);
  }
  // Tensors on any backend, of this fixture's random numbers. They live until the test ends.
  TensorView put(Backend& b, const void* data, std::initializer_list<int64_t> dims, DType dtype) {
    TensorView host(const_cast<void*>(data), dtype, dims);
    held.push_back(b.allocate(static_cast<size_t>(std::max<int64_t>(host.bytes(), 1))));
    const TensorView v = held.back().view(dtype, dims);
    b.copy(v, host);
    return v;
  }
  TensorView put(Backend& b, const std::vector<float>& v, std::initializer_list<int64_t> dims) { return put(b, v.data(), dims, DType::f32); }
  TensorView put(Backend& b, const std::vector<int32_t>& v, std::initializer_list<int64_t> dims) { return put(b, v.data(), dims, DType::i32); }
  TensorView room(Backend& b, std::initializer_list<int64_t> dims) {
    std::vector<float> poison(static_cast<size_t>(TensorView(nullptr, DType::f32, dims).elements()), std::nanf(""));
    return put(b, poison, dims);
  }
  static std::vector<float> take(Backend& b, const TensorView& v) {
    std::vector<float> out(static_cast<size_t>(v.elements()));
    TensorView host = v;
    host.data = reinterpret_cast<std::byte*>(out.data());
    host.place = Place::host;
    b.copy(host, v);
    return out;
  }
  // Random codes (no NaN) with scales of a checkpoint's size.
  Weight fp8(Backend& b, const std::vector<uint8_t>& codes, const std::vector<float>& scales, int64_t n, int64_t k) {
    Weight w;
    w.format = Format::fp8_block;
    w.data = put(b, codes.data(), {n, k}, DType::e4m3);
    w.scale = put(b, scales, {(n + 127) / 128, (k + 127) / 128});
    return w;
  }
  std::vector<uint8_t> codes(int64_t count) {
    std::vector<uint8_t> c(static_cast<size_t>(count));
    for (uint8_t& x : c) do x = static_cast<uint8_t>(random()); while ((x & 0x7f) == 0x7f);
    return c;
  }
  std::vector<float> scales(int64_t n, int64_t k) {
    std::vector<float> s;
    for (int64_t i = 0; i < (n + 127) / 128 * ((k + 127) / 128); ++i) s.push_back(1e-4f * (1.0f + static_cast<float>(random() % 1000) * 1e-3f));
    return s;
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, CudaBackendTest, ::testing::ValuesIn(backends()), [](const auto& one) { return one.param.name; });

TEST_P(CudaBackendTest, ProductsOfV3sShapesAreTheCpusInBothArithmetics) {
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

TEST_P(CudaBackendTest, FourBitGroupsDecodeAsTheReference) {
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

TEST_P(CudaBackendTest, AttentionOfV3sWidthsIsTheCpus) {
  const int64_t heads = 16, latent = 512, rope = 64, pages = 20, page_size = 64, rows = 3, nope = 128, value = 128, queries = 19, keys = 150;
  const auto cached = normal(pages * page_size * (latent + rope)), ql = normal(rows * heads * latent, 0.3f), qr = normal(rows * heads * rope);
  std::vector<int32_t> table, positions = {0, 700, 1279};
  for (int64_t t = 0; t < rows; ++t) for (int32_t p = 0; p < pages; ++p) table.push_back((p * 7 + 3) % static_cast<int32_t>(pages));
  expect_alike([&](Backend& b) {
    const TensorView out = room(b, {rows, heads, latent});
    b.mla_attend(out, put(b, ql, {rows, heads, latent}), put(b, qr, {rows, heads, rope}), {put(b, cached, {pages, page_size, latent + rope}), latent},
                 {put(b, positions, {rows}), put(b, table, {rows, pages})}, 0.05f);
    return take(b, out);
  }, 3e-6, 5e-5);
  const auto q = normal(queries * heads * (nope + rope)), kv = normal(keys * heads * (nope + value)), shared = normal(keys * rope);
  expect_alike([&](Backend& b) {
    const TensorView out = room(b, {queries, heads, value}), lse = room(b, {queries, heads});
    b.attend_expanded(out, lse, put(b, q, {queries, heads, nope + rope}), put(b, kv, {keys, heads, nope + value}), put(b, shared, {keys, rope}), 140, 5, 0.07f);
    auto all = take(b, out);
    const auto sums = take(b, lse);
    all.insert(all.end(), sums.begin(), sums.end());
    return all;
  }, 3e-6, 5e-5);
}

TEST_P(CudaBackendTest, LargeCopiesComeBackAsTheyWent) {
  for (const auto& [rows, cols, stride] : {std::array<int64_t, 3>{1, 5 << 20, 5 << 20}, {3, 1500000, 1500001}, {40000, 300, 317}}) {  // beyond one pinned block; wide rows; strided
    const auto x = normal(1000);
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (size_t i = 0; i < values.size(); ++i) values[i] = x[i * 7 % 1000];
    const TensorView v = empty({rows, stride}).slice(1, 0, cols);
    backend->copy(v, TensorView::of(values.data(), {rows, cols}));
    EXPECT_TRUE(same_bits(down(v), values));
    held.clear();
  }
}

TEST_P(CudaBackendTest, ZeroAndNewMemoryAreZero) {
  const TensorView v = up(normal(1000), {10, 100});
  backend->zero(v.rows(2, 5));
  const auto y = down(v);
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i] == 0, i >= 200 && i < 500);
  for (float x : down(empty({7, 1001}))) EXPECT_EQ(x, 0);
}

TEST_P(CudaBackendTest, MemoryThatIsNotThereIsRefusedWithNumbers) {
  EXPECT_NE(error_of([&] { backend->allocate(size_t{1} << 50); }, Error::out_of_memory).find(std::to_string(size_t{1} << 50)), std::string::npos);
  EXPECT_GT(backend->available_bytes(), size_t{1} << 20);
  const TensorView v = up(std::vector<float>{1, 2}, {2});  // and goes on
  EXPECT_EQ(down(v)[1], 2);
}

TEST_P(CudaBackendTest, WidthsBeyondItsKernelsAreRefusedByName) {
  const AttentionBatch rows{empty({1}, DType::i32), empty({1, 1}, DType::i32)};
  EXPECT_NE(error_of([&] { backend->mla_attend(empty({1, 1, 600}), empty({1, 1, 600}), empty({1, 1, 8}), {empty({1, 4, 608}), 600}, rows, 1); }, Error::unsupported).find("608"), std::string::npos);
}

TEST_P(CudaBackendTest, RoutedExpertsInOneCallGiveTheBitsOfTheirParts) {
  const int64_t hidden = 128, inner = 64, all = 12, k = 4;
  for (const Arithmetic arithmetic : {Arithmetic::w8a16, Arithmetic::w8a8}) {
    BackendOptions options;
    options.arithmetic = arithmetic;
    const auto ours = GetParam().make(options);
    Backend& b = *ours;
    for (const auto& [rows, first, own] : {std::array<int64_t, 3>{1, 0, 12}, {37, 0, 12}, {37, 5, 4}, {300, 11, 1}}) {
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

TEST(CudaGraphs, ReplayedStepsGiveTheBitsOfEagerOnes) {
  const auto world = single_world();
  ForwardOptions options;
  options.model = DSINFER_MINI_DIR;
  options.max_len = 128;
  options.device = test_device();
  Forward forward(*world, options);
  ForwardSequence prompt;
  for (int32_t i = 0; i < 40; ++i) prompt.tokens.push_back(100 + 7 * i);
  for (int32_t page = 0; page * forward.page_size() < 128; ++page) prompt.pages.push_back(page);
  prompt.logit_rows = {39};
  forward.run({&prompt, 1});
  ForwardSequence next;
  next.pages = prompt.pages;
  next.decode = true;
  next.logit_rows = {0};
  const auto step = [&](int32_t token, int64_t position) {
    next.tokens = {token};
    next.position = position;
    const std::span<const float> z = forward.run({&next, 1}).row(0);
    return std::vector<float>(z.begin(), z.end());
  };
  // The first two are eager and captured; all later ones are replays, of other tokens at other positions too.
  const auto first = step(500, 40), captured = step(500, 40), other = step(777, 41), again = step(500, 40), other_again = step(777, 41);
  EXPECT_TRUE(same_bits(first, captured));
  EXPECT_TRUE(same_bits(first, again));
  EXPECT_TRUE(same_bits(other, other_again));
  EXPECT_FALSE(same_bits(first, other));
}

TEST(CudaDevice, ANumberThatIsNotThereIsNamed) {
  EXPECT_NE(error_of([] { make_backend("cuda:77", {}); }, Error::not_found).find("cuda:77"), std::string::npos);
}

TEST(CudaDevice, SeveralRanksAreRefusedBeforeAnythingIsLoaded) {
  test::on_ranks(2, [](World& world) {
    ForwardOptions options;
    options.model = DSINFER_MINI_DIR;
    options.max_len = 64;
    options.device = test_device();
    EXPECT_NE(error_of([&] { Forward forward(world, options); }, Error::unsupported).find("2 ranks"), std::string::npos);
  });
}

}  // namespace
}  // namespace dsinfer
