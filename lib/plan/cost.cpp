#include "plan/cost.hpp"

namespace dsinfer {

DType held_dtype(const TensorSpec& spec, DType stored) { return spec.is_scale || spec.shape.size() == 1 ? DType::f32 : stored; }

RankBytes rank_bytes(std::span<const TensorSpec> table, const StoredDType& stored, const ModelConfig& config, const RankPlan& rank, int64_t cache_element) {
  RankBytes bytes;
  for (const TensorSpec& spec : table) {
    if (is_prediction(spec, config)) continue;
    const auto part = cut(spec, config, rank);
    if (!part) continue;
    const auto dtype = stored(spec);
    if (!dtype) continue;
    bytes.read += part->elements() * dtype_size(*dtype);
    bytes.held += part->elements() * dtype_size(held_dtype(spec, *dtype));
    if (is_kv_b(spec)) bytes.held += weights_in(spec, *part) * dtype_size(DType::f32);
  }
  bytes.cache_per_token = rank.layers.size() * config.cache_dim() * cache_element;
  return bytes;
}

RankBytes rank_bytes(const ModelConfig& config, const RankPlan& rank, int64_t cache_element) {
  return rank_bytes(tensor_table(config), [](const TensorSpec& spec) { return spec.expected ? std::optional(spec.dtype) : std::nullopt; }, config, rank, cache_element);
}

}  // namespace dsinfer
