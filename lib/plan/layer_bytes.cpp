// Weights of one rank, layer by layer, from the tensor table.
#include <string_view>

#include "config/tensors.hpp"
#include "plan/cost.hpp"
#include "plan/cut.hpp"
#include "plan/memory.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kFp8Block = 128;
constexpr int64_t kInt4Bits = 4, kInt4ScaleBits = 16, kInt4ZeroBits = 4;  // of each group: 0.51953 B a weight in groups of 128

int64_t blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

// Bytes of a part as the target precision holds it.
class Scales {
 public:
  Scales(const ModelConfig& config, const Precisions& precisions)
      : precisions_(precisions), stored_int4_(config.int4), fp8_(precisions.host ? config.fp8.has_value() : precisions.weights == Precision::fp8 || precisions.weights == Precision::fp8_bf16) {
    if (config.fp8) block_rows_ = config.fp8->block_rows, block_cols_ = config.fp8->block_cols;
  }

  int64_t part_bytes(const TensorSpec& spec, const Cut& part) const {
    if (!spec.quantisable) return part.elements() * dtype_size(precisions_.host ? held_dtype(spec, spec.dtype) : spec.dtype);
    const int64_t rows = part.rows.size(), cols = part.cols.size();
    if (fp8_) return rows * cols + blocks(rows, block_rows_) * blocks(cols, block_cols_) * dtype_size(DType::f32);
    if (int4(spec)) {
      const int64_t group_bits = kInt4ScaleBits + (!stored_int4_ || stored_int4_->zero_points ? kInt4ZeroBits : 0);
      return (rows * cols * kInt4Bits + rows * blocks(cols, precisions_.int4_group) * group_bits + 7) / 8;
    }
    return rows * cols * dtype_size(DType::bf16);
  }

  // Of kv_b's part: BF16 copies for the absorbed form in place of what is stored, so the difference counts; none where it is BF16 already.
  // On the host, f32 copies beside it.
  int64_t absorbed_bytes(const Cut& part) const {
    if (precisions_.host) return part.elements() * dtype_size(DType::f32);
    if (fp8_) return part.elements() * (dtype_size(DType::bf16) - dtype_size(DType::e4m3));
    if (precisions_.weights == Precision::int4) return part.elements() * (16 - kInt4Bits) / 8;  // also of a checkpoint that leaves attention alone: an upper bound
    return 0;
  }

 private:
  // A layer that the checkpoint at hand leaves unquantised stays so; one that has yet to be quantised will be.
  bool int4(const TensorSpec& spec) const {
    if (!precisions_.host && precisions_.weights != Precision::int4) return false;
    if (!stored_int4_) return !precisions_.host;
    return stored_int4_->converts(std::string_view(spec.name).substr(0, spec.name.size() - std::string_view(".weight").size()));
  }

  Precisions precisions_;
  std::optional<Int4Config> stored_int4_;
  bool fp8_;
  int64_t block_rows_ = kFp8Block, block_cols_ = kFp8Block;
};

const char* kind_of(const TensorSpec& spec) {
  switch (spec.split) {
    case Split::expert_rows: case Split::expert_columns: return "experts";
    case Split::shared_rows: case Split::shared_columns: return "shared";
    case Split::dense_rows: case Split::dense_columns: return "dense";
    case Split::head_rows: case Split::head_columns: return "attention";
    case Split::vocab_rows: return "embedding";
    case Split::whole: break;
  }
  if (std::string_view(spec.name).find(".mlp.gate.") != std::string_view::npos) return "router";
  return spec.shape.size() == 1 ? "norms" : "attention";
}

// An MTP layer shares the main embedding and head; a checkpoint's copies of them are not held.
bool is_shared_copy(const TensorSpec& spec) { return spec.split == Split::vocab_rows; }

}  // namespace

RankPlan any_rank(const ModelConfig& config, const Shape& shape) {
  RankPlan rank;
  rank.tp = static_cast<int>(shape.tp);
  rank.pp = static_cast<int>(shape.pp);
  rank.dp = static_cast<int>(shape.dp);
  rank.ep = static_cast<int>(shape.ep);
  rank.moe_tp = static_cast<int>(shape.moe_tp());
  rank.layers = {0, config.num_hidden_layers};
  rank.heads = {0, config.num_attention_heads / shape.tp};
  rank.vocab = {0, config.vocab_size / shape.tp};
  rank.dense_inter = {0, config.intermediate_size / shape.tp};
  rank.shared_inter = {0, config.n_shared_experts * config.moe_intermediate_size / shape.tp};
  rank.experts = {0, (config.n_routed_experts + shape.redundant_experts) / shape.ep};
  rank.moe_inter = {0, config.moe_intermediate_size / shape.moe_tp()};
  return rank;
}

LayerBytes layer_bytes(const ModelConfig& config, const Precisions& precisions, const Shape& shape) {
  const RankPlan rank = any_rank(config, shape);
  const Scales scales(config, precisions);
  std::map<std::string, int64_t> dense, moe;  // one layer of each sort, by kind
  LayerBytes bytes;
  for (const TensorSpec& spec : tensor_outline(config)) {
    const auto part = cut(spec, config, rank);
    if (!part) continue;
    const int64_t copies = spec.expert >= 0 ? rank.experts.size() : 1;
    const int64_t size = scales.part_bytes(spec, *part) * copies;
    if (is_prediction(spec, config)) {
      if (!is_shared_copy(spec)) bytes.prediction += size * config.num_nextn_predict_layers;
    } else if (spec.layer < 0) {
      (spec.home == Home::first_stage ? bytes.embedding : bytes.head) += size;
    } else {
      (config.is_moe(spec.layer) ? moe : dense)[kind_of(spec)] += size;
      if (is_kv_b(spec)) bytes.absorbed_per_layer = scales.absorbed_bytes(*part);
    }
  }
  bytes.layer.assign(static_cast<size_t>(config.num_hidden_layers), 0);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    for (const auto& [kind, size] : config.is_moe(i) ? moe : dense) {
      bytes.layer[static_cast<size_t>(i)] += size;
      auto& of_kind = bytes.by_kind[kind];
      of_kind.resize(bytes.layer.size());
      of_kind[static_cast<size_t>(i)] = size;
    }
  return bytes;
}

int64_t cache_bytes_per_token_layer(const ModelConfig& config, const Precisions& precisions) {
  if (precisions.host) return config.cache_dim() * dtype_size(DType::f32);
  switch (precisions.cache) {
    case CachePrecision::bf16: return config.cache_dim() * dtype_size(DType::bf16);
    case CachePrecision::fp8: return config.cache_dim();
    case CachePrecision::fp8_scaled: break;
  }
  // FlashMLA's FP8 row: the latent in 1 B with an f32 scale for each 128 values, the rope key in BF16: 512 + 16 + 128 = 656 B.
  return config.kv_lora_rank + blocks(config.kv_lora_rank, kFp8Block) * dtype_size(DType::f32) + config.qk_rope_head_dim * dtype_size(DType::bf16);
}

}  // namespace dsinfer
