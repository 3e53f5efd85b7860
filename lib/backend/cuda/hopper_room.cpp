#include "backend/cuda/hopper_room.hpp"

#include <algorithm>

#include "backend/cuda/hopper/prefill.hpp"

namespace dsinfer::cuda {
namespace {

// The most that any slice of up to `rows` rows needs, whatever length its sequences are counted with.
int64_t attend_bytes(int64_t rows, int64_t heads, int64_t max_len) {
  int64_t most = 0;
  for (int64_t longest = 1024;; longest *= 2) {
    const int64_t length = std::min(longest, max_len);
    for (int64_t n = 1; n <= rows; ++n) {
      const int parts = hopper::mla_parts(static_cast<int>(n), static_cast<int>(heads), length);
      most = std::max(most, hopper::mla_workspace(static_cast<int>(n), static_cast<int>(heads), parts));
    }
    if (longest >= max_len) return most;
  }
}

// The most that up to `rows` rows need: few have shorter runs.
int64_t most_runs(int64_t rows, const BlockDims& d) {
  int64_t most = 0;
  for (int64_t n = 1; n <= rows; ++n) most = std::max(most, hopper::max_runs(n, d.gate.top_k, d.experts));
  return most;
}

}  // namespace

HopperRoom::HopperRoom(Arena& arena, const BlockDims& d) {
  const int64_t T = d.max_tokens, H = d.hidden;
  const auto bytes = [&](int64_t n) { return arena.take(DType::u8, {std::max<int64_t>(n, 1)}); };
  moe_rows = std::min(T, kMoeSlice);
  attend_rows = std::min(T, kAttendSlice);
  expanded_keys = std::min(d.max_len, kExpandedKeys);
  num_runs = arena.take(DType::i32, {2});
  normed = arena.take(DType::bf16, {T, H});
  branch = arena.take(DType::bf16, {T, H});
  q8 = arena.take(DType::e4m3, {T, H});
  q8_scale = arena.take(DType::f32, {T, H / 128});

  const size_t shared = arena.mark();
  joined = arena.take(DType::bf16, {T, d.q_lora_rank + d.kv_lora_rank + d.rope});
  latent8 = arena.take(DType::e4m3, {T, d.q_lora_rank});
  latent8_scale = arena.take(DType::f32, {T, d.q_lora_rank / 128});
  q_b = arena.take(DType::bf16, {T, d.heads * (d.nope + d.rope)});
  o8 = arena.take(DType::e4m3, {T, d.heads * d.value});
  o8_scale = arena.take(DType::f32, {T, d.heads});
  const size_t work = arena.mark();  // a segment is expanded, or a slice goes absorbed
  q = arena.take(DType::bf16, {attend_rows, d.heads, d.kv_lora_rank + d.rope});
  u = arena.take(DType::bf16, {attend_rows, d.heads, d.kv_lora_rank});
  attend_work = bytes(attend_bytes(attend_rows, d.heads, d.max_len));
  arena.rewind(work);
  expand_work = bytes(hopper::prefill_workspace(expanded_keys, static_cast<int>(d.heads)));

  arena.rewind(shared);
  const int64_t k = d.gate.top_k, positions = d.moe_layers ? moe_rows * (k + 1) : 0;
  const int64_t inner = std::max(positions * d.moe_inter, d.dense_layers ? T * d.dense_inter : 0);
  h = arena.take(DType::bf16, {inner});
  h8 = arena.take(DType::e4m3, {inner});
  h8_scale = arena.take(DType::f32, {inner / 128});
  if (d.moe_layers) {
    const size_t outputs = arena.mark();  // the experts' inputs are read before their outputs are written
    sorted = arena.take(DType::e4m3, {positions, H});
    sorted_scale = arena.take(DType::f32, {positions, H / 128});
    arena.rewind(outputs);
    y = arena.take(DType::bf16, {positions, H});
    logits = arena.take(DType::f32, {hopper::kGateParts, moe_rows, d.experts});
    experts = arena.take(DType::i32, {moe_rows, k});
    weights = arena.take(DType::f32, {moe_rows, k});
    slot = arena.take(DType::i32, {moe_rows, k});
    rows = arena.take(DType::i32, {positions});
    runs = bytes(most_runs(moe_rows, d) * hopper::kExpertRunBytes);
  }

  arena.rewind(shared);
  head_in = arena.take(DType::bf16, {kHeadRows, H});
}

}  // namespace dsinfer::cuda
