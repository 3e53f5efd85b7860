// The CUDA backend against the CPU's at DeepSeek-V3's dimensions and odd ones, and what it says where it cannot. DSINFER_TEST_DEVICE names the GPU.
#include "cuda_ops.hpp"
#include "dsinfer/forward.hpp"
#include "ranks.hpp"

namespace dsinfer {
namespace {

class CudaBackendTest : public CudaOps {};
INSTANTIATE_TEST_SUITE_P(Backends, CudaBackendTest, ::testing::ValuesIn(backends()), [](const auto& one) { return one.param.name; });

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

TEST_P(CudaBackendTest, ARowsAttentionIsTheSameWhetherBlocksShareItsKeysOrNot) {
  const int64_t heads = 64, latent = 512, rope = 64, pages = 30, page_size = 64, rows = 40;  // 320 blocks: more than share
  const auto cached = normal(pages * page_size * (latent + rope)), ql = normal(rows * heads * latent, 0.3f), qr = normal(rows * heads * rope);
  std::vector<int32_t> table, positions;
  for (int32_t t = 0; t < rows; ++t) {
    positions.push_back(t == 0 ? 1919 : t == 1 ? 479 : t == 2 ? 480 : t * 47);
    for (int32_t p = 0; p < pages; ++p) table.push_back((p * 7 + t) % static_cast<int32_t>(pages));
  }
  const CacheView cache{put(*backend, cached, {pages, page_size, latent + rope}), latent};
  const TensorView q = put(*backend, ql, {rows, heads, latent}), r = put(*backend, qr, {rows, heads, rope}), at = put(*backend, positions, {rows}), of = put(*backend, table, {rows, pages});
  const TensorView all = room(*backend, {rows, heads, latent});
  backend->mla_attend(all, q, r, cache, {at, of}, 0.05f);
  for (const int64_t t : {0, 1, 2, 17}) {
    const TensorView alone = room(*backend, {1, heads, latent});
    backend->mla_attend(alone, q.rows(t, t + 1), r.rows(t, t + 1), cache, {at.rows(t, t + 1), of.rows(t, t + 1)}, 0.05f);
    EXPECT_TRUE(same_bits(down(alone), down(all.rows(t, t + 1)))) << "row " << t;
  }
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

// More than may be under way, over blocks that are filled anew as soon as they are said to be free, and given back while the last is still read.
TEST_P(CudaBackendTest, UploadsAreThereForWhatIsAskedForAfterThem) {
  constexpr int64_t kBlock = int64_t{1} << 20, kRows = 200, kStride = kBlock + 64;  // in floats
  const TensorView there = empty({kRows, kStride}).slice(1, 0, kBlock);  // zeroed on the backend's own stream
  std::array<Buffer, 3> blocks;
  std::array<uint64_t, 3> upload{};
  for (Buffer& block : blocks) block = backend->staging(static_cast<size_t>(kBlock) * sizeof(float));
  for (int64_t row = 0; row < kRows; ++row) {
    const auto turn = static_cast<size_t>(row) % blocks.size();
    if (row % 2) backend->await_upload(upload[turn]);
    else while (!backend->uploaded(upload[turn])) {}
    std::fill_n(reinterpret_cast<float*>(blocks[turn].data()), kBlock, static_cast<float>(row + 1));
    upload[turn] = backend->upload(there.rows(row, row + 1), blocks[turn].view(DType::f32, {1, kBlock}));
  }
  for (Buffer& block : blocks) block = {};
  const TensorView sum = empty({kRows, kBlock});
  backend->add(sum, there);
  const auto values = down(sum);
  for (int64_t row = 0; row < kRows; ++row)
    for (const int64_t col : {int64_t{0}, kBlock / 2, kBlock - 1}) ASSERT_EQ(values[static_cast<size_t>(row * kBlock + col)], static_cast<float>(row + 1)) << row;
  std::vector<float> plain(1000, 5);
  const TensorView target = empty({1000});
  EXPECT_EQ(backend->upload(target, TensorView::of(plain.data(), {1000})), 0u) << "memory that is not pinned is copied at once";
  std::fill(plain.begin(), plain.end(), 6.0f);
  EXPECT_EQ(down(target), std::vector<float>(1000, 5));
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

ForwardOptions mini_on_device() {
  ForwardOptions options;
  options.model = DSINFER_MINI_DIR;
  options.max_len = 128;
  options.device = test_device();
  return options;
}

TEST(CudaGraphs, ReplayedStepsGiveTheBitsOfEagerOnes) {
  const auto world = single_world();
  Forward forward(*world, mini_on_device());
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
    return forward.run({&next, 1}).values;
  };
  // The first two are eager and captured; all later ones are replays, of other tokens at other positions too.
  const auto first = step(500, 40), captured = step(500, 40), other = step(777, 41), again = step(500, 40), other_again = step(777, 41);
  EXPECT_TRUE(same_bits(first, captured));
  EXPECT_TRUE(same_bits(first, again));
  EXPECT_TRUE(same_bits(other, other_again));
  EXPECT_FALSE(same_bits(first, other));
}

// Three sequences make a step of four rows, five one of eight. A row's bits do not depend on the other rows, be they padding or not.
TEST(CudaGraphs, PaddedStepsGiveTheBitsOfTheirRowsAlone) {
  const auto world = single_world();
  Forward forward(*world, mini_on_device());
  const auto pages_each = static_cast<int32_t>(128 / forward.page_size());
  std::vector<ForwardSequence> sequences(5);
  for (int32_t s = 0; s < 5; ++s) {
    ForwardSequence& sequence = sequences[static_cast<size_t>(s)];
    for (int32_t page = 0; page < pages_each; ++page) sequence.pages.push_back(s * pages_each + page);
    for (int32_t i = 0; i < 10 + 3 * s; ++i) sequence.tokens.push_back(50 + 11 * i + s);
    forward.run({&sequence, 1});
    sequence.position = static_cast<int64_t>(sequence.tokens.size());
    sequence.tokens = {300 + s};
    sequence.decode = true;
    sequence.logit_rows = {0};
  }
  std::vector<std::vector<float>> alone;
  for (const ForwardSequence& sequence : sequences) alone.push_back(forward.run({&sequence, 1}).values);
  const uint64_t rows = forward.stats().rows, pairs = forward.stats().expert_rows_computed;
  for (const size_t count : {3, 5, 3, 5, 3, 5}) {  // eager, captured, replayed
    const Logits together = forward.run({sequences.data(), count});
    for (size_t s = 0; s < count; ++s) {
      const std::span<const float> z = together.row(static_cast<int64_t>(s));
      EXPECT_TRUE(same_bits({z.begin(), z.end()}, alone[s])) << s << " of " << count;
    }
  }
  EXPECT_EQ(forward.stats().rows, rows + 24);
  EXPECT_EQ((forward.stats().expert_rows_computed - pairs) % 24, 0u);
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
