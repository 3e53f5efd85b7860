/// A Backend that lies about its memory or its place, or uploads late; everything else it passes on.
#pragma once
#include <deque>
#include <map>

#include "backend/backend.hpp"

namespace dsinfer::testing_support {

class SpoiltBackend final : public Backend {
 public:
  explicit SpoiltBackend(Backend& inner) : inner_(inner) {}

  size_t available = SIZE_MAX;      ///< what available_bytes() says
  bool no_fp8 = false;              ///< supports() refuses fp8_block
  Place place = Place::host;        ///< what allocate() says of its memory, which is the inner one's all the same
  int patience = 0;                 ///< so many questions until an upload from staging() ends, which reads its source only then; 0: at once
  size_t allocated = 0;
  int64_t copied = 0, uploaded_late = 0;

  const char* name() const override { return "spoilt"; }
  Buffer allocate(size_t bytes) override {
    allocated += bytes;
    auto memory = std::make_shared<Buffer>(inner_.allocate(bytes));
    return Buffer(memory->data(), bytes, place, [memory](std::byte*) mutable { memory.reset(); });
  }
  void copy(TensorView dst, TensorView src) override {
    await_upload(begun_);  // it comes after them
    pass_on(dst, src);
  }
  Buffer staging(size_t bytes) override {
    auto memory = std::make_shared<Buffer>(inner_.staging(bytes));
    staged_[memory->data()] = bytes;
    return Buffer(memory->data(), bytes, Place::host, [this, memory](std::byte* data) mutable {
      await_upload(begun_);
      staged_.erase(data);
      memory.reset();
    });
  }
  uint64_t upload(TensorView dst, TensorView src) override {
    auto from = staged_.upper_bound(src.data);
    const bool known = from != staged_.begin() && (--from)->first + from->second >= src.data + src.bytes();
    if (patience == 0 || !known) {
      pass_on(dst, src);
      return 0;
    }
    late_.emplace_back(dst, src);
    uploaded_late += dst.bytes();
    return ++begun_;
  }
  bool uploaded(uint64_t upload) override {
    if (ended_ < upload && ++asked_ % patience == 0) end_one();
    return ended_ >= upload;
  }
  void await_upload(uint64_t upload) override {
    while (ended_ < upload) end_one();
  }
  void zero(TensorView x) override { inner_.zero(x); }
  Stream stream() const override { return inner_.stream(); }
  size_t available_bytes() const override { return std::min(available, inner_.available_bytes()); }
  bool supports(Format format) const override { return !(no_fp8 && format == Format::fp8_block) && inner_.supports(format); }
  void run(const StepKey& key, const std::function<void()>& step) override { inner_.run(key, step); }

  void embed(TensorView out, const Weight& table, TensorView tokens, int64_t first_row) override { inner_.embed(out, table, tokens, first_row); }
  void rms_norm(TensorView out, TensorView x, TensorView w, float eps) override { inner_.rms_norm(out, x, w, eps); }
  void add_rms_norm(TensorView out, TensorView residual, TensorView x, TensorView w, float eps) override { inner_.add_rms_norm(out, residual, x, w, eps); }
  void add(TensorView x, TensorView y) override { inner_.add(x, y); }
  void linear(TensorView out, TensorView x, const Weight& w) override { inner_.linear(out, x, w); }
  void linear_per_head(TensorView out, TensorView x, const Weight& w) override { inner_.linear_per_head(out, x, w); }
  void rope(TensorView x, TensorView positions, TensorView table, bool interleave) override { inner_.rope(x, positions, table, interleave); }
  void mla_append(const CacheView& cache, TensorView latent, TensorView key_rope, const AttentionBatch& rows) override { inner_.mla_append(cache, latent, key_rope, rows); }
  void mla_attend(TensorView out, TensorView q_latent, TensorView q_rope, const CacheView& cache, const AttentionBatch& rows, float scale) override {
    inner_.mla_attend(out, q_latent, q_rope, cache, rows, scale);
  }
  void mla_gather(TensorView out, const CacheView& cache, TensorView pages, int64_t first) override { inner_.mla_gather(out, cache, pages, first); }
  void attend_expanded(TensorView out, TensorView lse, TensorView q, TensorView kv, TensorView key_rope, int64_t q_first, int64_t k_first, float scale) override {
    inner_.attend_expanded(out, lse, q, kv, key_rope, q_first, k_first, scale);
  }
  void merge_attention(TensorView out, TensorView lse, TensorView part, TensorView part_lse) override { inner_.merge_attention(out, lse, part, part_lse); }
  void silu_mul(TensorView out, TensorView gate_up) override { inner_.silu_mul(out, gate_up); }
  void route(TensorView experts, TensorView weights, TensorView logits, TensorView bias, const GateOptions& gate) override { inner_.route(experts, weights, logits, bias, gate); }
  void gather_rows(TensorView out, TensorView x, TensorView rows) override { inner_.gather_rows(out, x, rows); }
  void grouped_linear(TensorView out, TensorView x, std::span<const Weight> experts, std::span<const int64_t> offsets) override { inner_.grouped_linear(out, x, experts, offsets); }
  void scatter_add(TensorView out, TensorView x, TensorView rows, TensorView scale) override { inner_.scatter_add(out, x, rows, scale); }

 private:
  void pass_on(TensorView dst, TensorView src) {
    copied += dst.bytes();
    dst.place = src.place = Place::host;
    inner_.copy(dst, src);
  }
  void end_one() {
    pass_on(late_.front().first, late_.front().second);
    late_.pop_front();
    ++ended_;
  }

  Backend& inner_;
  std::map<std::byte*, size_t> staged_;
  std::deque<std::pair<TensorView, TensorView>> late_;
  uint64_t begun_ = 0, ended_ = 0;
  int asked_ = 0;
};

}  // namespace dsinfer::testing_support
