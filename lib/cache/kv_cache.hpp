/// KvCache: the pages of latent and rope key of one rank's layers.
#pragma once
#include <vector>

#include "backend/backend.hpp"
#include "dsinfer/plan.hpp"

namespace dsinfer {

/// Owns the memory, zeroed (padding rows must never read NaN). Page numbers are shared by all layers and by all ranks of a dp rank.
class KvCache {
 public:
  /// Bytes of one row of a layer. fp8: the latents' bytes, their scales, the rope key in bf16.
  static int64_t row_bytes(const ModelConfig& config, CacheRows rows) {
    if (rows == CacheRows::fp8) return config.kv_lora_rank + config.kv_lora_rank / 128 * dtype_size(DType::f32) + config.qk_rope_head_dim * dtype_size(DType::bf16);
    return config.cache_dim() * dtype_size(rows == CacheRows::bf16 ? DType::bf16 : DType::f32);
  }
  /// Bytes of one page over `layers` layers.
  static int64_t page_bytes(const ModelConfig& config, int64_t layers, int64_t page_size, CacheRows rows) { return layers * page_size * row_bytes(config, rows); }
  KvCache(Backend& backend, const ModelConfig& config, int64_t layers, int64_t page_size, int64_t num_pages, CacheRows rows)
      : buffer_(backend.allocate(static_cast<size_t>(page_bytes(config, layers, page_size, rows) * num_pages))) {
    const int64_t layer_bytes = page_bytes(config, 1, page_size, rows) * num_pages;
    const DType dtype = rows == CacheRows::f32 ? DType::f32 : rows == CacheRows::bf16 ? DType::bf16 : DType::u8;
    for (int64_t i = 0; i < layers; ++i) {
      layers_.push_back({buffer_.view(dtype, {num_pages, page_size, row_bytes(config, rows) / dtype_size(dtype)}, static_cast<size_t>(i * layer_bytes)), config.kv_lora_rank});
    }
  }
  /// i counts this rank's layers from 0.
  const CacheView& layer(int64_t i) const { return layers_[static_cast<size_t>(i)]; }
  int64_t bytes() const { return static_cast<int64_t>(buffer_.size()); }

 private:
  Buffer buffer_;
  std::vector<CacheView> layers_;
};

}  // namespace dsinfer
