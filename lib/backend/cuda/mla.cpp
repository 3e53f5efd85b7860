#include "backend/cuda/cuda_backend.hpp"

namespace dsinfer {

using cuda::Current;
using cuda::expect;
using cuda::is;
using cuda::rows_of;

namespace {

void expect_cache(const char* op, const CacheView& cache, const TensorView& other) {
  const TensorView& d = cache.data;
  expect(d.rank == 3 && (is(d, 3) || is(d, 3, DType::bf16)) && cache.latent_dim > 0 && cache.latent_dim <= d.dim(2) && d.dim(1) > 0 && d.stride[1] == d.dim(2), op,
         {{"cache", &d}, {"other", &other}});
}

cuda::Pages pages_of(const CacheView& cache) {
  const TensorView& d = cache.data;
  return {d.data, d.stride[0], d.dim(0), d.dim(1), d.dim(2), d.dtype == DType::bf16};
}

void expect_widths(const char* op, int64_t key, int64_t value) {
  if (key <= cuda::kMaxKeyDim && value <= cuda::kMaxValueDim) return;
  throw Error(Error::unsupported, std::string(op) + ": keys of " + std::to_string(key) + " and values of " + std::to_string(value) + " numbers, the cuda backend takes up to " +
                                      std::to_string(cuda::kMaxKeyDim) + " and " + std::to_string(cuda::kMaxValueDim) + "; choose device \"cpu\"");
}

}  // namespace

void CudaBackend::mla_append(const CacheView& cache, TensorView latent, TensorView key_rope, const AttentionBatch& rows) {
  expect_cache("mla_append", cache, latent);
  expect(is(latent, 2) && is(key_rope, 2) && is(rows.positions, 1, DType::i32) && is(rows.block_table, 2, DType::i32) && latent.dim(0) == key_rope.dim(0) &&
             latent.dim(0) == rows.positions.dim(0) && latent.dim(0) == rows.block_table.dim(0) && latent.dim(1) == cache.latent_dim && latent.dim(1) + key_rope.dim(1) == cache.data.dim(2),
         "mla_append", {{"cache", &cache.data}, {"latent", &latent}, {"key_rope", &key_rope}, {"positions", &rows.positions}, {"block_table", &rows.block_table}});
  if (latent.dim(0) == 0) return;
  const Current current(device_.index());
  cuda::mla_append(pages_of(cache), rows_of<const float>(latent), rows_of<const float>(key_rope), latent.dim(0), latent.dim(1), rows.positions.as<int32_t>(),
                   rows_of<const int32_t>(rows.block_table), rows.block_table.dim(1), device_.fault_sink(), device_.stream());
}

void CudaBackend::mla_gather(TensorView out, const CacheView& cache, TensorView pages, int64_t first) {
  expect_cache("mla_gather", cache, out);
  expect(is(out, 2) && is(pages, 1, DType::i32) && out.dim(1) == cache.data.dim(2), "mla_gather", {{"out", &out}, {"cache", &cache.data}, {"pages", &pages}});
  if (out.dim(0) == 0) return;
  const Current current(device_.index());
  cuda::mla_gather(rows_of(out), pages_of(cache), pages.as<int32_t>(), pages.dim(0), first, out.dim(0), device_.fault_sink(), device_.stream());
}

void CudaBackend::mla_attend(TensorView out, TensorView q_latent, TensorView q_rope, const CacheView& cache, const AttentionBatch& rows, float scale) {
  expect_cache("mla_attend", cache, q_latent);
  const int64_t width = cache.data.dim(2), latent = cache.latent_dim;
  expect(is(out, 3) && is(q_latent, 3) && is(q_rope, 3) && is(rows.positions, 1, DType::i32) && is(rows.block_table, 2, DType::i32) && out.dim(0) == q_latent.dim(0) &&
             out.dim(1) == q_latent.dim(1) && out.dim(2) == latent && q_latent.dim(2) == latent && q_rope.dim(0) == out.dim(0) && q_rope.dim(1) == out.dim(1) &&
             q_rope.dim(2) == width - latent && rows.positions.dim(0) == out.dim(0) && rows.block_table.dim(0) == out.dim(0),
         "mla_attend", {{"out", &out}, {"q_latent", &q_latent}, {"q_rope", &q_rope}, {"cache", &cache.data}, {"positions", &rows.positions}, {"block_table", &rows.block_table}});
  if (out.elements() == 0) return;
  expect_widths("mla_attend", width, latent);
  const Current current(device_.index());
  const cuda::MlaAttend attend{rows_of(out),        rows_of<const float>(q_latent), rows_of<const float>(q_rope), pages_of(cache), rows.positions.as<int32_t>(), rows_of<const int32_t>(rows.block_table),
                               rows.block_table.dim(1), out.dim(0),                 out.dim(1),                   latent,          scale,                         device_.fault_sink()};
  cuda::mla_attend(attend, partials_.view(DType::f32, {static_cast<int64_t>(partials_.size() / sizeof(float))}).as<float>(), device_.multiprocessors(), device_.stream());
}

void CudaBackend::attend_expanded(TensorView out, TensorView lse, TensorView q, TensorView kv, TensorView key_rope, int64_t q_first, int64_t k_first, float scale) {
  const bool ranks = is(out, 3) && is(lse, 2) && is(q, 3) && is(kv, 3) && is(key_rope, 2);
  const int64_t rope_dim = ranks ? key_rope.dim(1) : 0, nope = ranks ? q.dim(2) - rope_dim : 0, value = ranks ? out.dim(2) : 0;
  expect(ranks && nope >= 0 && kv.dim(2) == nope + value && out.dim(0) == q.dim(0) && lse.dim(0) == q.dim(0) && out.dim(1) == q.dim(1) && lse.dim(1) == q.dim(1) && kv.dim(1) == q.dim(1) &&
             kv.dim(0) == key_rope.dim(0),
         "attend_expanded", {{"out", &out}, {"lse", &lse}, {"q", &q}, {"kv", &kv}, {"key_rope", &key_rope}});
  if (lse.elements() == 0) return;
  expect_widths("attend_expanded", nope + rope_dim, value);
  const Current current(device_.index());
  cuda::attend_expanded(rows_of(out), rows_of(lse), rows_of<const float>(q), rows_of<const float>(kv), rows_of<const float>(key_rope), q.dim(0), q.dim(1), kv.dim(0), nope, rope_dim, value,
                        q_first, k_first, scale, device_.stream());
}

void CudaBackend::merge_attention(TensorView out, TensorView lse, TensorView part, TensorView part_lse) {
  bool fits = is(out, 3) && is(lse, 2) && is(part, 3) && is(part_lse, 2) && lse.dim(0) == out.dim(0) && lse.dim(1) == out.dim(1);
  for (int i = 0; fits && i < 3; ++i) fits = out.dim(i) == part.dim(i) && (i == 2 || lse.dim(i) == part_lse.dim(i));
  expect(fits, "merge_attention", {{"out", &out}, {"lse", &lse}, {"part", &part}, {"part_lse", &part_lse}});
  if (lse.elements() == 0) return;
  const Current current(device_.index());
  cuda::merge_attention(rows_of(out), rows_of(lse), rows_of<const float>(part), rows_of<const float>(part_lse), out.dim(0), out.dim(1), out.dim(2), device_.stream());
}

}  // namespace dsinfer
