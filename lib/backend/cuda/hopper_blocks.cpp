#include "backend/cuda/hopper_blocks.hpp"

#include <algorithm>

#include "backend/backend.hpp"
#include "backend/cuda/device.hpp"
#include "backend/cuda/hopper/edges.hpp"
#include "backend/cuda/hopper/prefill.hpp"
#include "backend/cuda/hopper_fits.hpp"
#include "backend/cuda/hopper_room.hpp"

namespace dsinfer::cuda {
namespace {

using hopper::bf16;

bf16* halves(const TensorView& v) { return reinterpret_cast<bf16*>(v.data); }
uint8_t* bytes_of(const TensorView& v) { return reinterpret_cast<uint8_t*>(v.data); }
float* floats(const TensorView& v) { return v.as<float>(); }
int small(int64_t v) { return static_cast<int>(v); }
hopper::Fp8Weight fp8(const Weight& w) { return {bytes_of(w.data), floats(w.scale)}; }
hopper::Fp8Rows quantised(const TensorView& rows, const TensorView& scale) { return {bytes_of(rows), floats(scale)}; }
void start(cudaError_t status, const char* what) { cuda::check(status, what); }

class HopperBlocks final : public Blocks {
 public:
  HopperBlocks(Device& device, const BlockDims& dims, bool ue8m0) : device_(device), d_(dims), ue8m0_(ue8m0) {}

  int64_t page_size() const override { return hopper::kKvPageRows; }
  int64_t scratch_bytes() const override {
    const Current current(device_.index());
    Arena counting = Arena::counting();
    HopperRoom(counting, d_);
    return static_cast<int64_t>(counting.peak());
  }
  void use(TensorView scratch) override {
    const Current current(device_.index());
    Arena arena(Buffer(scratch.data, static_cast<size_t>(scratch.bytes()), scratch.place, {}));
    room_ = std::make_unique<HopperRoom>(arena, d_);
  }

  void check(const AttentionWeights& w) const override { check_for_hopper(w, d_); }
  void check(const MlpWeights& w) const override { check_for_hopper(w, d_); }
  void check(const MoeWeights& w) const override { check_for_hopper(w, d_); }

  void begin(const BlockStep& step) override {
    step_ = step;
    left_ = Left::nothing;
  }
  void attention(const AttentionWeights& w, const CacheView& cache) override;
  void mlp(const MlpWeights& w) override;
  void moe(const MoeWeights& w) override;
  TensorView branch() override {
    combine(0, rows());
    return room_->branch.rows(0, rows());
  }
  void finish() override {
    if (rows() > 0 && left_ != Left::nothing) add_norm(last_norm_, false, false);
    left_ = Left::nothing;
  }
  bool head(TensorView out, TensorView x, const Weight& w) override;

 private:
  // What the last block left: nothing, the branch, or the experts' rows of the whole step, which the next norm adds up by itself.
  enum class Left : uint8_t { nothing, branch, routed };

  int64_t rows() const { return step_.residual.dim(0); }
  cudaStream_t stream() const { return device_.stream(); }
  hopper::KvFormat format() const { return d_.cache == CacheRows::fp8 ? hopper::KvFormat::kFp8 : hopper::KvFormat::kBf16; }
  const int* positions() const { return step_.positions.as<int32_t>(); }
  const int* pages_of(int64_t row) const { return step_.block_table.row<int32_t>(row); }

  void add_norm(const TensorView& weight, bool as_bf16, bool as_fp8);
  void linear(const TensorView& out, hopper::Fp8Rows x, const Weight& w, int64_t n) {
    start(hopper::fp8_linear(halves(out), x, fp8(w), small(n), small(w.out_dim()), small(w.in_dim()), stream()), "a linear of Hopper's");
  }
  void attend_absorbed(const AttentionWeights& w, const CacheView& cache, int64_t begin, int64_t end);
  void attend_slice(const AttentionWeights& w, const CacheView& cache, int64_t first, int64_t n);
  bool attend_expanded(const AttentionWeights& w, const CacheView& cache, const BlockSegment& segment);
  void experts(const MoeWeights& w, int64_t first, int64_t n);
  void combine(int64_t first, int64_t n);
  hopper::Routed routed() const {
    return {room_->experts.as<int32_t>(), floats(room_->weights), room_->slot.as<int32_t>(), room_->rows.as<int32_t>(), reinterpret_cast<hopper::ExpertRun*>(room_->runs.data),
            room_->num_runs.as<int32_t>()};
  }

  Device& device_;
  const BlockDims d_;
  const bool ue8m0_;
  std::unique_ptr<HopperRoom> room_;
  BlockStep step_;
  Left left_ = Left::nothing;
  TensorView last_norm_;
};

// residual += what the last block left; then the norm of it, in bf16 and quantised.
void HopperBlocks::add_norm(const TensorView& weight, bool as_bf16, bool as_fp8) {
  hopper::AddNorm a{};
  a.residual = floats(step_.residual);
  a.weight = floats(weight);
  a.shared_first = -1;
  a.eps = d_.eps;
  a.ue8m0 = ue8m0_;
  if (as_bf16) a.out = halves(room_->normed);
  if (as_fp8) a.q = bytes_of(room_->q8), a.q_scale = floats(room_->q8_scale);
  if (left_ == Left::branch) a.x = halves(room_->branch);
  if (left_ == Left::routed) {
    a.x = halves(room_->y);
    a.slot = room_->slot.as<int32_t>();
    a.route_weight = floats(room_->weights);
    a.top_k = small(d_.gate.top_k);
    a.shared_first = rows() * d_.gate.top_k;
  }
  start(hopper::add_norm(a, small(rows()), small(kHidden), stream()), "add_norm");
  last_norm_ = weight;
}

void HopperBlocks::attention(const AttentionWeights& w, const CacheView& cache) {
  if (rows() == 0) return;
  const Current current(device_.index());
  const HopperRoom& r = *room_;
  add_norm(w.norm, false, true);
  linear(r.joined, quantised(r.q8, r.q8_scale), *w.latents, rows());
  hopper::Latent l{};
  l.a = halves(r.joined);
  l.q_norm = floats(w.q_norm);
  l.kv_norm = floats(w.kv_norm);
  l.rope = floats(step_.rope_table);
  l.positions = positions();
  l.block_table = pages_of(0);
  l.cache = cache.data.data;
  l.q = bytes_of(r.latent8);
  l.q_scale = floats(r.latent8_scale);
  l.max_pages = small(step_.block_table.stride[0]);
  l.eps = d_.latent_eps;
  l.ue8m0 = ue8m0_;
  l.format = format();
  start(hopper::latents(l, small(rows()), stream()), "latents");
  linear(r.q_b, quantised(r.latent8, r.latent8_scale), *w.q_b, rows());
  attend_absorbed(w, cache, 0, step_.decode_rows);
  for (const BlockSegment& segment : step_.prefill)
    if (!attend_expanded(w, cache, segment)) attend_absorbed(w, cache, segment.first_row, segment.first_row + segment.rows);
  linear(r.branch, quantised(r.o8, r.o8_scale), *w.o, rows());
  left_ = Left::branch;
}

void HopperBlocks::attend_absorbed(const AttentionWeights& w, const CacheView& cache, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += room_->attend_rows) attend_slice(w, cache, first, std::min(room_->attend_rows, end - first));
}

// Rows [first, first + n), each on its own.
void HopperBlocks::attend_slice(const AttentionWeights& w, const CacheView& cache, int64_t first, int64_t n) {
  const HopperRoom& r = *room_;
  const int tokens = small(n), heads = small(d_.heads);
  const int* at = positions() + first;
  start(hopper::absorb_query(halves(r.q), halves(r.q_b.rows(first, first + n)), halves(w.key_up->data), floats(step_.rope_table), at, tokens, heads, stream()), "absorb_query");
  hopper::MlaDecode m{};
  m.u = halves(r.u);
  m.q = halves(r.q);
  m.cache = cache.data.data;
  m.block_table = pages_of(first);
  m.positions = at;
  m.partial = reinterpret_cast<float*>(r.attend_work.data);
  m.tokens = tokens;
  m.heads = heads;
  m.max_pages = small(step_.block_table.stride[0]);
  m.parts = hopper::mla_parts(tokens, heads, step_.longest);  // the room is counted for classes of length, not for every length
  m.scale = d_.softmax_scale;
  m.format = format();
  start(hopper::mla_decode(m, stream()), "mla_decode");
  start(hopper::expand_values(bytes_of(r.o8.rows(first, first + n)), floats(r.o8_scale.rows(first, first + n)), halves(r.u), halves(w.value_up->data), tokens, heads, ue8m0_, stream()),
        "expand_values");
}

// Keys and values of all heads are made anew from the latents, which pays for chunks of many rows.
bool HopperBlocks::attend_expanded(const AttentionWeights& w, const CacheView& cache, const BlockSegment& segment) {
  constexpr int64_t kFewestRows = 128;  // absorbed, a row and key cost 278,000 operations; expanded 82,000, and 33.5 million a key: equal at 171 rows, but without slices
  const int64_t keys = segment.position + segment.rows, first = segment.first_row, end = first + segment.rows;
  if (segment.rows < kFewestRows || keys > room_->expanded_keys) return false;
  const HopperRoom& r = *room_;
  hopper::PrefillSegment s{};
  s.o = bytes_of(r.o8.rows(first, end));
  s.o_scale = floats(r.o8_scale.rows(first, end));
  s.q_b = halves(r.q_b.rows(first, end));
  s.cache = cache.data.data;
  s.block_table = pages_of(first);
  s.positions = positions() + first;
  s.rope = floats(step_.rope_table);
  s.kv_b = fp8(*w.kv_b);
  s.work = r.expand_work.data;
  s.tokens = small(segment.rows);
  s.heads = small(d_.heads);
  s.q_first = small(segment.position);
  s.scale = d_.softmax_scale;
  s.ue8m0 = ue8m0_;
  s.format = format();
  start(hopper::prefill_segment(s, stream()), "prefill_segment");
  return true;
}

void HopperBlocks::mlp(const MlpWeights& w) {
  if (rows() == 0) return;
  const Current current(device_.index());
  const HopperRoom& r = *room_;
  add_norm(w.norm, false, true);
  start(hopper::fp8_gate_up(halves(r.h), quantised(r.q8, r.q8_scale), fp8(*w.gate_up), small(rows()), small(2 * d_.dense_inter), small(kHidden), stream()), "gate_up");
  start(hopper::quantise(bytes_of(r.h8), floats(r.h8_scale), halves(r.h), rows(), d_.dense_inter, ue8m0_, stream()), "quantise");
  linear(r.branch, quantised(r.h8, r.h8_scale), *w.down, rows());
  left_ = Left::branch;
}

void HopperBlocks::moe(const MoeWeights& w) {
  if (rows() == 0) return;
  const Current current(device_.index());
  add_norm(w.norm, true, true);
  if (rows() <= room_->moe_rows) {
    experts(w, 0, rows());
    left_ = Left::routed;
    return;
  }
  for (int64_t first = 0; first < rows(); first += room_->moe_rows) {
    const int64_t n = std::min(room_->moe_rows, rows() - first);
    experts(w, first, n);
    left_ = Left::routed;
    combine(first, n);
  }
}

// Gate and experts of rows [first, first + n): their rows are left in y.
void HopperBlocks::experts(const MoeWeights& w, int64_t first, int64_t n) {
  const HopperRoom& r = *room_;
  const int tokens = small(n);
  const TensorView x = r.normed.rows(first, first + n), x8 = r.q8.rows(first, first + n), x8_scale = r.q8_scale.rows(first, first + n);
  hopper::RouteOptions o;
  o.topk_group = small(d_.gate.topk_group);
  o.top_k = small(d_.gate.top_k);
  o.normalise = d_.gate.normalise;
  o.scale = d_.gate.scale;
  o.positions = positions() + first;
  const int64_t inner = d_.moe_inter, places = n * (d_.gate.top_k + 1);
  start(hopper::gate_logits(floats(r.logits), halves(x), halves(w.gate->data), tokens, small(kExperts), small(kHidden), stream()), "gate_logits");
  start(hopper::route(routed(), floats(r.logits), floats(w.bias), nullptr, tokens, o, stream()), "route");
  const hopper::Fp8Weight gate_up = fp8(w.gate_up.front()), shared_gate_up = fp8(*w.shared_gate_up);
  if (n > hopper::kMostGathered) {
    start(hopper::sort_rows(bytes_of(r.sorted), floats(r.sorted_scale), quantised(x8, x8_scale), routed(), tokens, o, small(kHidden), stream()), "sort_rows");
    start(hopper::grouped_gate_up_sorted(halves(r.h), quantised(r.sorted, r.sorted_scale), gate_up, shared_gate_up, routed(), tokens, o, small(2 * inner), small(kHidden), stream()),
          "experts' gate_up");
  } else {
    start(hopper::grouped_gate_up(halves(r.h), quantised(x8, x8_scale), gate_up, shared_gate_up, routed(), tokens, o, small(2 * inner), small(kHidden), stream()), "experts' gate_up");
  }
  start(hopper::quantise(bytes_of(r.h8), floats(r.h8_scale), halves(r.h), places, inner, ue8m0_, stream()), "quantise");
  start(hopper::grouped_down(halves(r.y), quantised(r.h8, r.h8_scale), fp8(w.down.front()), fp8(*w.shared_down), routed(), tokens, o, small(kHidden), small(inner), stream()), "experts' down");
}

// The experts' rows of rows [first, first + n) of the step become their part of the branch.
void HopperBlocks::combine(int64_t first, int64_t n) {
  if (left_ == Left::routed && n > 0) {
    const Current current(device_.index());
    const int64_t k = d_.gate.top_k;
    start(hopper::combine(halves(room_->branch.rows(first, first + n)), halves(room_->y), room_->slot.as<int32_t>(), floats(room_->weights), n * k, n, small(k), kHidden, stream()), "combine");
  }
  left_ = Left::branch;
}

bool HopperBlocks::head(TensorView out, TensorView x, const Weight& w) {
  if (w.format != Format::bf16 || w.out_dim() % 2 != 0 || x.dim(1) != kHidden || !w.data.contiguous() || out.stride[0] != w.out_dim()) return false;
  const Current current(device_.index());
  for (int64_t first = 0; first < x.dim(0); first += kHeadRows) {
    const int64_t n = std::min(kHeadRows, x.dim(0) - first);
    start(hopper::to_bf16(halves(room_->head_in), x.row<float>(first), x.stride[0], n, kHidden, stream()), "to_bf16");
    start(hopper::bf16_linear(out.row<float>(first), halves(room_->head_in), halves(w.data), small(n), w.out_dim(), small(kHidden), stream()), "the head");
  }
  return true;
}

}  // namespace

std::unique_ptr<Blocks> make_hopper_blocks(Device& device, const BlockDims& dims, bool ue8m0) {
  if (!fits_hopper(dims) || !is_hopper()) return nullptr;
  return std::make_unique<HopperBlocks>(device, dims, ue8m0);
}

}  // namespace dsinfer::cuda
