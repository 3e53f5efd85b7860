#include "backend/cuda/hopper_fits.hpp"

#include "backend/cuda/kernels.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer::cuda {
namespace {

// A linear's input or output width that is cut over ranks: whole 128-blocks, at least the four that the kernels' pipelines begin with.
bool fits_width(int64_t width) { return width >= 4 * kBlock && width % kBlock == 0; }

[[noreturn]] void refuse(const std::string& what, const std::string& wanted) {
  throw Error(Error::unsupported, what + ": expected " + wanted + ", as the kernels for Hopper take it; run without w8a8, or choose device \"cpu\"");
}

void expect_fp8(const char* name, const Weight* w, int64_t n, int64_t k) {
  const bool good = w && w->format == Format::fp8_block && w->block_rows == kBlock && w->block_cols == kBlock && w->out_dim() == n && w->in_dim() == k && w->data.contiguous() &&
                    w->scale.contiguous() && w->scale.dim(0) == (n + kBlock - 1) / kBlock && w->scale.dim(1) == k / kBlock;
  if (!good) refuse(std::string(name) + (w ? " as " + std::string(format_name(w->format)) + " " + w->data.shape_text() : " in two parts"),
                    "FP8 [" + std::to_string(n) + ", " + std::to_string(k) + "] in blocks of 128x128");
}

void expect_view(const char* name, const TensorView& v, DType dtype, std::initializer_list<int64_t> dims) {
  const TensorView wanted(nullptr, dtype, dims);
  if (!v || v.dtype != dtype || v.rank != wanted.rank || v.shape != wanted.shape || !v.contiguous())
    refuse(std::string(name) + " as " + dtype_name(v.dtype) + " " + v.shape_text(), dtype_name(dtype) + std::string(" ") + wanted.shape_text());
}

// One expert's memory where that of the one before ends.
void expect_stack(const char* name, std::span<const Weight> all, int64_t n, int64_t k) {
  if (static_cast<int64_t>(all.size()) != kExperts) refuse(std::string(name) + " of " + std::to_string(all.size()) + " experts", std::to_string(kExperts) + " with gate and up back to back");
  for (size_t e = 0; e < all.size(); ++e) {
    expect_fp8(name, &all[e], n, k);
    const Weight& before = all[e ? e - 1 : 0];
    if (e > 0 && (all[e].data.data != before.data.data + before.data.bytes() || all[e].scale.data != before.scale.data + before.scale.bytes()))
      refuse(std::string(name) + " of expert " + std::to_string(e), "memory right behind the expert before");
  }
}

}  // namespace

bool fits_hopper(const BlockDims& d) {
  const bool attention = d.q_lora_rank == kQRank && d.kv_lora_rank == kLatent && d.nope == kNope && d.rope == kRope && d.value == kValue && d.rope_interleave && d.heads >= 16 &&
                         d.heads <= 128 && d.heads % 4 == 0;
  const bool dense = !d.dense_layers || fits_width(d.dense_inter);
  const bool moe = !d.moe_layers || (d.experts == kExperts && d.own_experts == kExperts && fits_width(d.moe_inter) && d.shared_inter == d.moe_inter && d.gate.sigmoid && d.gate.grouped &&
                                     d.gate.group_score_top2 && d.gate.n_group == kGroups && d.gate.topk_group >= 1 && d.gate.topk_group <= kGroups && d.gate.top_k >= 1 && d.gate.top_k <= 25);
  return d.hidden == kHidden && attention && dense && moe && d.block_rows == kBlock && d.block_cols == kBlock &&
         (d.cache == CacheRows::bf16 || d.cache == CacheRows::fp8) && d.max_tokens > 0 && d.max_len > 0;
}

bool is_hopper() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for the device");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking for the device");
  return major == 9 && minor == 0;
}

void check_for_hopper(const AttentionWeights& w, const BlockDims& d) {
  expect_view("input_layernorm", w.norm, DType::f32, {kHidden});
  expect_view("q_a_layernorm", w.q_norm, DType::f32, {kQRank});
  expect_view("kv_a_layernorm", w.kv_norm, DType::f32, {kLatent});
  expect_fp8("q_a_proj and kv_a_proj_with_mqa", w.latents, kQRank + kLatent + kRope, kHidden);
  expect_fp8("q_b_proj", w.q_b, d.heads * (kNope + kRope), kQRank);
  expect_fp8("kv_b_proj", w.kv_b, d.heads * (kNope + kValue), kLatent);
  expect_fp8("o_proj", w.o, kHidden, d.heads * kValue);
  expect_view("kv_b_proj's keys", w.key_up->data, DType::bf16, {d.heads, kLatent, kNope});
  expect_view("kv_b_proj's values", w.value_up->data, DType::bf16, {d.heads, kValue, kLatent});
}

void check_for_hopper(const MlpWeights& w, const BlockDims& d) {
  expect_view("post_attention_layernorm", w.norm, DType::f32, {kHidden});
  expect_fp8("gate_proj and up_proj", w.gate_up, 2 * d.dense_inter, kHidden);
  expect_fp8("down_proj", w.down, kHidden, d.dense_inter);
}

void check_for_hopper(const MoeWeights& w, const BlockDims& d) {
  expect_view("post_attention_layernorm", w.norm, DType::f32, {kHidden});
  expect_view("e_score_correction_bias", w.bias, DType::f32, {kExperts});
  if (!w.gate || w.gate->format != Format::bf16) refuse(std::string("the gate as ") + (w.gate ? format_name(w.gate->format) : "nothing"), "bf16");
  expect_view("the gate", w.gate->data, DType::bf16, {kExperts, kHidden});
  expect_stack("experts' gate_proj and up_proj", w.gate_up, 2 * d.moe_inter, kHidden);
  expect_stack("experts' down_proj", w.down, kHidden, d.moe_inter);
  expect_fp8("shared gate_proj and up_proj", w.shared_gate_up, 2 * d.shared_inter, kHidden);
  expect_fp8("shared down_proj", w.shared_down, kHidden, d.shared_inter);
}

}  // namespace dsinfer::cuda
