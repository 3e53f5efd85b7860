#include <numeric>

#include "ops.hpp"

namespace dsinfer {
namespace {

class AttentionOps : public Ops {
 protected:
  static constexpr int64_t kLatent = 40, kRope = 24, kHeads = 5, kNope = 28, kValue = 20;

  // Sequences of cached rows in scattered pages. `rows` [length, latent + rope].
  struct Cached {
    CacheView view;
    std::vector<std::vector<int32_t>> pages;
    int64_t max_pages = 0;
  };
  Cached fill(const std::vector<std::vector<float>>& sequences, int64_t page_size, DType dtype) {
    const int64_t width = kLatent + kRope;
    Cached c;
    int64_t needed = 0;
    for (const auto& s : sequences) {
      const int64_t n = (static_cast<int64_t>(s.size()) / width + page_size - 1) / page_size;
      c.max_pages = std::max(c.max_pages, n);
      needed += n;
    }
    // All pages hold NaN at first: what is not written must not be looked at.
    const std::vector<float> nan(static_cast<size_t>((needed + 3) * page_size * width), std::nanf(""));
    c.view.data = empty({needed + 3, page_size, width}, dtype);
    c.view.latent_dim = kLatent;
    if (dtype == DType::f32) {
      backend->copy(c.view.data, TensorView::of(nan.data(), {needed + 3, page_size, width}));
    } else {
      std::vector<uint16_t> halves(nan.size(), 0x7fc0);
      backend->copy(c.view.data, TensorView(halves.data(), DType::bf16, {needed + 3, page_size, width}));
    }
    std::vector<int32_t> free(static_cast<size_t>(needed + 3));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), random);
    for (const auto& s : sequences) {
      const int64_t length = static_cast<int64_t>(s.size()) / width;
      std::vector<int32_t> mine;
      for (int64_t i = 0; i < length; i += page_size) {
        mine.push_back(free.back());
        free.pop_back();
      }
      mine.resize(static_cast<size_t>(c.max_pages), -1);  // never read
      std::vector<int32_t> positions(static_cast<size_t>(length)), table;
      std::iota(positions.begin(), positions.end(), 0);
      for (int64_t i = 0; i < length; ++i) table.insert(table.end(), mine.begin(), mine.end());
      const TensorView all = up(s, {length, width});
      backend->mla_append(c.view, all.slice(1, 0, kLatent), all.slice(1, kLatent, width), {up(positions, {length}), up(table, {length, c.max_pages})});
      c.pages.push_back(mine);
    }
    return c;
  }
  AttentionBatch batch(const Cached& c, const std::vector<std::pair<size_t, int32_t>>& rows) {
    std::vector<int32_t> positions, table;
    for (const auto& [sequence, position] : rows) {
      positions.push_back(position);
      table.insert(table.end(), c.pages[sequence].begin(), c.pages[sequence].end());
    }
    const auto n = static_cast<int64_t>(rows.size());
    return {up(positions, {n}), up(table, {n, c.max_pages})};
  }
  // Absorbed attention of one row and head over keys 0 … position, in double.
  std::vector<double> attend(const float* ql, const float* qr, const std::vector<float>& keys, int64_t position, double scale) const {
    const int64_t width = kLatent + kRope;
    std::vector<double> score, out(kLatent);
    double top = -1e300, sum = 0;
    for (int64_t s = 0; s <= position; ++s) {
      double x = 0;
      for (int64_t d = 0; d < kLatent; ++d) x += double{ql[d]} * double{keys[static_cast<size_t>(s * width + d)]};
      for (int64_t d = 0; d < kRope; ++d) x += double{qr[d]} * double{keys[static_cast<size_t>(s * width + kLatent + d)]};
      score.push_back(x * scale);
      top = std::max(top, score.back());
    }
    for (double& x : score) sum += x = std::exp(x - top);
    for (int64_t s = 0; s <= position; ++s) for (int64_t d = 0; d < kLatent; ++d) out[static_cast<size_t>(d)] += score[static_cast<size_t>(s)] / sum * double{keys[static_cast<size_t>(s * width + d)]};
    return out;
  }
};
DSINFER_ON_ALL_BACKENDS(AttentionOps);

std::vector<float> rounded_to_bf16(std::vector<float> v) {
  for (float& x : v) x = bf16_to_f32(f32_to_bf16(x));
  return v;
}

TEST_P(AttentionOps, AbsorbedAttentionOverScatteredPagesAgreesWithDouble) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (int64_t page_size : {1, 7, 16, 64}) {
      std::vector<std::vector<float>> sequences;
      for (int64_t length : {1, 63, 64, 65, 200}) {
        auto s = normal(length * (kLatent + kRope));
        sequences.push_back(dtype == DType::f32 ? s : rounded_to_bf16(s));
      }
      const Cached c = fill(sequences, page_size, dtype);
      const std::vector<std::pair<size_t, int32_t>> rows = {{4, 199}, {0, 0}, {3, 64}, {1, 62}, {2, 63}, {4, 3}};
      const auto m = static_cast<int64_t>(rows.size());
      const auto ql = normal(m * kHeads * kLatent), qr = normal(m * kHeads * (kNope + kRope));
      const TensorView out = empty({m, kHeads, kLatent});
      backend->mla_attend(out, up(ql, {m, kHeads, kLatent}), up(qr, {m, kHeads, kNope + kRope}).slice(2, kNope, kNope + kRope), c.view, batch(c, rows), 0.3f);
      std::vector<double> wanted;
      for (int64_t t = 0; t < m; ++t) {
        for (int64_t h = 0; h < kHeads; ++h) {
          const auto o = attend(&ql[static_cast<size_t>((t * kHeads + h) * kLatent)], &qr[static_cast<size_t>((t * kHeads + h) * (kNope + kRope) + kNope)],
                                sequences[rows[static_cast<size_t>(t)].first], rows[static_cast<size_t>(t)].second, double{0.3f});
          wanted.insert(wanted.end(), o.begin(), o.end());
        }
      }
      expect_close(down(out), wanted, 2e-6, 2e-5);  // two products and a softmax
    }
  }
}

TEST_P(AttentionOps, GatherReturnsWhatWasAppended) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    const auto s = rounded_to_bf16(normal(45 * (kLatent + kRope)));
    const Cached c = fill({s}, 8, dtype);
    const TensorView out = empty({21, kLatent + kRope});
    backend->mla_gather(out, c.view, up(c.pages[0], {c.max_pages}), 13);
    EXPECT_TRUE(same_bits(down(out), {s.begin() + 13 * (kLatent + kRope), s.begin() + 34 * (kLatent + kRope)}));
  }
}

TEST_P(AttentionOps, AbsorbedRowsDoNotDependOnBatchOrPaging) {
  const auto s = normal(150 * (kLatent + kRope)), other = normal(90 * (kLatent + kRope));
  const auto ql = normal(6 * kHeads * kLatent), qr = normal(6 * kHeads * kRope);
  std::vector<float> first;
  for (int64_t page_size : {1, 16, 150}) {
    const Cached c = fill({s, other}, page_size, DType::f32);
    const TensorView l = up(ql, {6, kHeads, kLatent}), r = up(qr, {6, kHeads, kRope}), many = empty({6, kHeads, kLatent}), one = empty({1, kHeads, kLatent});
    backend->mla_attend(many, l, r, c.view, batch(c, {{1, 3}, {1, 89}, {0, 149}, {0, 20}, {1, 64}, {0, 0}}), 0.2f);
    backend->mla_attend(one, l.rows(2, 3), r.rows(2, 3), c.view, batch(c, {{0, 149}}), 0.2f);
    const auto bits = down(one);
    EXPECT_TRUE(same_bits(bits, down(many.rows(2, 3))));
    if (first.empty()) first = bits;
    EXPECT_TRUE(same_bits(bits, first)) << page_size;
  }
}

TEST_P(AttentionOps, APageOutsideOfTheCacheIsRefused) {
  Cached c = fill({normal(20 * (kLatent + kRope))}, 4, DType::f32);
  c.pages[0][2] = 1000;
  const TensorView out = empty({1, kHeads, kLatent}), l = empty({1, kHeads, kLatent}), r = empty({1, kHeads, kRope});
  EXPECT_NE(error_of([&] { backend->mla_attend(out, l, r, c.view, batch(c, {{0, 19}}), 1); finish(); }).find("page 1000"), std::string::npos);
  EXPECT_NE(error_of([&] { backend->mla_append(c.view, empty({1, kLatent}), empty({1, kRope}), batch(c, {{0, 9}})); finish(); }).find("page 1000"), std::string::npos);
}

// Expanded attention in double. kv [keys, heads, nope + value].
struct Expanded { std::vector<double> out, lse; };
Expanded expand(const std::vector<float>& q, const std::vector<float>& kv, const std::vector<float>& rope, int64_t queries, int64_t keys, int64_t heads,
                int64_t nope, int64_t dr, int64_t value, int64_t q_first, int64_t k_first, double scale) {
  Expanded r{std::vector<double>(static_cast<size_t>(queries * heads * value)), std::vector<double>(static_cast<size_t>(queries * heads), -HUGE_VAL)};
  for (int64_t t = 0; t < queries; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<double> score;
      double top = -HUGE_VAL, sum = 0;
      for (int64_t s = 0; s < keys && k_first + s <= q_first + t; ++s) {
        double x = 0;
        for (int64_t d = 0; d < nope; ++d) x += double{q[static_cast<size_t>((t * heads + h) * (nope + dr) + d)]} * double{kv[static_cast<size_t>((s * heads + h) * (nope + value) + d)]};
        for (int64_t d = 0; d < dr; ++d) x += double{q[static_cast<size_t>((t * heads + h) * (nope + dr) + nope + d)]} * double{rope[static_cast<size_t>(s * dr + d)]};
        score.push_back(x * scale);
        top = std::max(top, score.back());
      }
      if (score.empty()) continue;
      for (double& x : score) sum += x = std::exp(x - top);
      for (size_t s = 0; s < score.size(); ++s) {
        for (int64_t d = 0; d < value; ++d) {
          r.out[static_cast<size_t>((t * heads + h) * value + d)] += score[s] / sum * double{kv[(s * static_cast<size_t>(heads) + static_cast<size_t>(h)) * static_cast<size_t>(nope + value) + static_cast<size_t>(nope + d)]};
        }
      }
      r.lse[static_cast<size_t>(t * heads + h)] = top + std::log(sum);
    }
  }
  return r;
}

TEST_P(AttentionOps, ExpandedAttentionAgreesWithDoubleForEveryPositionOfTheTile) {
  for (const auto& [queries, keys, q_first, k_first] : {std::array<int64_t, 4>{1, 1, 0, 0}, {33, 33, 0, 0}, {20, 150, 130, 0}, {40, 64, 200, 0}, {30, 70, 64, 50}, {5, 64, 7, 64}}) {
    SCOPED_TRACE(std::to_string(queries) + " queries at " + std::to_string(q_first) + ", " + std::to_string(keys) + " keys at " + std::to_string(k_first));
    const auto q = normal(queries * kHeads * (kNope + kRope)), kv = normal(keys * kHeads * (kNope + kValue)), rope = normal(keys * kRope);
    const TensorView out = empty({queries, kHeads, kValue}), lse = empty({queries, kHeads});
    backend->attend_expanded(out, lse, up(q, {queries, kHeads, kNope + kRope}), up(kv, {keys, kHeads, kNope + kValue}), up_strided(rope, keys, kRope, kRope + 5), q_first, k_first, 0.25f);
    const Expanded wanted = expand(q, kv, rope, queries, keys, kHeads, kNope, kRope, kValue, q_first, k_first, 0.25);
    expect_close(down(out), wanted.out, 2e-6, 2e-5);
    const auto l = down(lse);
    for (size_t i = 0; i < l.size(); ++i) {
      if (std::isinf(wanted.lse[i])) EXPECT_EQ(l[i], -INFINITY);
      else EXPECT_NEAR(l[i], wanted.lse[i], 1e-5);
    }
  }
}

TEST_P(AttentionOps, WhatLiesBehindTheLastVisibleKeyIsNotLookedAt) {
  const int64_t queries = 6, keys = 40;
  auto kv = normal(keys * kHeads * (kNope + kValue)), rope = normal(keys * kRope);
  for (int64_t s = 6; s < keys; ++s) {
    std::fill_n(kv.begin() + s * kHeads * (kNope + kValue), kHeads * (kNope + kValue), std::nanf(""));
    std::fill_n(rope.begin() + s * kRope, kRope, INFINITY);
  }
  const TensorView out = empty({queries, kHeads, kValue}), lse = empty({queries, kHeads});
  backend->attend_expanded(out, lse, up(normal(queries * kHeads * (kNope + kRope)), {queries, kHeads, kNope + kRope}), up(kv, {keys, kHeads, kNope + kValue}), up(rope, {keys, kRope}), 0, 0, 1);
  for (float x : down(out)) EXPECT_TRUE(std::isfinite(x));
}

TEST_P(AttentionOps, ChunksOfQueriesGiveTheBitsOfOneCall) {
  const int64_t n = 70;
  const TensorView q = up(normal(n * kHeads * (kNope + kRope)), {n, kHeads, kNope + kRope}), kv = up(normal(n * kHeads * (kNope + kValue)), {n, kHeads, kNope + kValue}),
                   rope = up(normal(n * kRope), {n, kRope}), out = empty({n, kHeads, kValue}), lse = empty({n, kHeads});
  backend->attend_expanded(out, lse, q, kv, rope, 0, 0, 0.3f);
  for (int64_t size : {1, 5, 16, 33}) {
    for (int64_t begin = 0; begin < n; begin += size) {
      const int64_t end = std::min(n, begin + size);
      const TensorView part = empty({end - begin, kHeads, kValue}), part_lse = empty({end - begin, kHeads});
      backend->attend_expanded(part, part_lse, q.rows(begin, end), kv.rows(0, end), rope.rows(0, end), begin, 0, 0.3f);
      EXPECT_TRUE(same_bits(down(part), down(out.rows(begin, end)))) << size << " from " << begin;
      EXPECT_TRUE(same_bits(down(part_lse), down(lse.rows(begin, end))));
    }
  }
}

TEST_P(AttentionOps, MergedTilesEqualOneAttentionOverAllKeys) {
  const int64_t queries = 25, keys = 120, q_first = 95;
  const auto q = normal(queries * kHeads * (kNope + kRope)), kv = normal(keys * kHeads * (kNope + kValue)), rope = normal(keys * kRope);
  const TensorView qs = up(q, {queries, kHeads, kNope + kRope}), kvs = up(kv, {keys, kHeads, kNope + kValue}), ropes = up(rope, {keys, kRope});
  const Expanded wanted = expand(q, kv, rope, queries, keys, kHeads, kNope, kRope, kValue, q_first, 0, 0.25);
  const std::vector<std::vector<int64_t>> cuts = {{0, 120}, {0, 32, 64, 96, 120}, {96, 120, 0, 96}, {0, 119, 119, 120}};
  for (const auto& cut : cuts) {
    const bool pairs = cut.size() == 4;  // (begin, end) pairs in any order, else ascending edges
    const TensorView out = empty({queries, kHeads, kValue}), lse = empty({queries, kHeads}), part = empty({queries, kHeads, kValue}), part_lse = empty({queries, kHeads});
    for (size_t i = 0; i + 1 < cut.size(); i += pairs ? 2 : 1) {
      const int64_t begin = cut[i], end = cut[i + 1];
      backend->attend_expanded(i == 0 ? out : part, i == 0 ? lse : part_lse, qs, kvs.rows(begin, end), ropes.rows(begin, end), q_first, begin, 0.25f);
      if (i > 0) backend->merge_attention(out, lse, part, part_lse);
    }
    expect_close(down(out), wanted.out, 2e-6, 2e-5);
    expect_close(down(lse), wanted.lse, 1e-6, 1e-5);
  }
}

TEST_P(AttentionOps, RowsWithoutAnyVisibleKeyAreZeroAndMergeAsNothing) {
  const TensorView q = up(normal(2 * kHeads * (kNope + kRope)), {2, kHeads, kNope + kRope}), kv = up(normal(3 * kHeads * (kNope + kValue)), {3, kHeads, kNope + kValue}),
                   rope = up(normal(3 * kRope), {3, kRope}), none = empty({2, kHeads, kValue}), none_lse = empty({2, kHeads}), some = empty({2, kHeads, kValue}),
                   some_lse = empty({2, kHeads});
  backend->attend_expanded(none, none_lse, q, kv, rope, 0, 5, 1);
  for (float x : down(none)) EXPECT_EQ(x, 0);
  for (float x : down(none_lse)) EXPECT_EQ(x, -INFINITY);
  backend->attend_expanded(some, some_lse, q, kv, rope, 5, 0, 1);
  const auto wanted = down(some), wanted_lse = down(some_lse);
  const TensorView garbage = up(std::vector<float>(wanted.size(), std::nanf("")), {2, kHeads, kValue});
  backend->merge_attention(some, some_lse, garbage, none_lse);
  EXPECT_TRUE(same_bits(down(some), wanted));
  backend->merge_attention(garbage, none_lse, some, some_lse);
  EXPECT_TRUE(same_bits(down(garbage), wanted));
  EXPECT_TRUE(same_bits(down(none_lse), wanted_lse));
  const TensorView a = up(std::vector<float>(2 * kHeads, -INFINITY), {2, kHeads}), b = up(std::vector<float>(2 * kHeads, -INFINITY), {2, kHeads});
  backend->merge_attention(none, a, some, b);
  for (float x : down(none)) EXPECT_EQ(x, 0);
}

// The identity that the whole cache stands on: W_UK folded into q and W_UV applied afterwards is expanded attention.
TEST_P(AttentionOps, AbsorbedEqualsExpanded) {
  const int64_t n = 90;
  const auto cached = normal(n * (kLatent + kRope)), q = normal(n * kHeads * (kNope + kRope));
  const auto wk = normal(kHeads * kNope * kLatent, 0.2f), wv = normal(kHeads * kValue * kLatent, 0.2f);
  const Cached c = fill({cached}, 16, DType::f32);
  std::vector<float> both, transposed;  // kv_b_proj: rows head-major, keys then values; and W_UKᵀ
  for (int64_t h = 0; h < kHeads; ++h) {
    both.insert(both.end(), wk.begin() + h * kNope * kLatent, wk.begin() + (h + 1) * kNope * kLatent);
    both.insert(both.end(), wv.begin() + h * kValue * kLatent, wv.begin() + (h + 1) * kValue * kLatent);
    for (int64_t l = 0; l < kLatent; ++l) for (int64_t d = 0; d < kNope; ++d) transposed.push_back(wk[static_cast<size_t>((h * kNope + d) * kLatent + l)]);
  }
  const TensorView rows = empty({n, kLatent + kRope}), kv = empty({n, kHeads, kNope + kValue}), qs = up(q, {n, kHeads, kNope + kRope});
  backend->mla_gather(rows, c.view, up(c.pages[0], {c.max_pages}), 0);
  backend->linear(kv.reshape({n, kHeads * (kNope + kValue)}), rows.slice(1, 0, kLatent), weight(both, kHeads * (kNope + kValue), kLatent, Format::f32));
  const TensorView expanded = empty({n, kHeads, kValue}), lse = empty({n, kHeads});
  backend->attend_expanded(expanded, lse, qs, kv, rows.slice(1, kLatent, kLatent + kRope), 0, 0, 0.14f);

  Weight uk, uv;
  uk.data = up(transposed, {kHeads, kLatent, kNope});
  uv.data = up(wv, {kHeads, kValue, kLatent});
  const TensorView ql = empty({n, kHeads, kLatent}), u = empty({n, kHeads, kLatent}), absorbed = empty({n, kHeads, kValue});
  std::vector<std::pair<size_t, int32_t>> positions;
  for (int32_t p = 0; p < n; ++p) positions.emplace_back(0, p);
  backend->linear_per_head(ql, qs.slice(2, 0, kNope), uk);
  backend->mla_attend(u, ql, qs.slice(2, kNope, kNope + kRope), c.view, batch(c, positions), 0.14f);
  backend->linear_per_head(absorbed, u, uv);
  expect_close(down(absorbed), down(expanded), 2e-6, 2e-5);
}

TEST_P(AttentionOps, NoRowsAreFine) {
  const Cached c = fill({normal(kLatent + kRope)}, 4, DType::f32);
  const AttentionBatch none{empty({0}, DType::i32), empty({0, 1}, DType::i32)};
  backend->mla_append(c.view, empty({0, kLatent}), empty({0, kRope}), none);
  backend->mla_attend(empty({0, kHeads, kLatent}), empty({0, kHeads, kLatent}), empty({0, kHeads, kRope}), c.view, none, 1);
  backend->attend_expanded(empty({0, kHeads, kValue}), empty({0, kHeads}), empty({0, kHeads, kNope + kRope}), empty({3, kHeads, kNope + kValue}), empty({3, kRope}), 0, 0, 1);
  backend->merge_attention(empty({0, kHeads, kValue}), empty({0, kHeads}), empty({0, kHeads, kValue}), empty({0, kHeads}));
}

}  // namespace
}  // namespace dsinfer
