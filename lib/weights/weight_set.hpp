/// WeightSet: all weights of one rank, by checkpoint name, cut as its RankPlan says.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/buffer.hpp"
#include "core/format.hpp"

namespace dsinfer {

class MappedFile;

/// Owns the memory. Lookups throw Error::internal naming the tensor if this rank does not hold it.
class WeightSet {
 public:
  /// A linear layer's slice, as stored (fp8_block with scales, bf16, f16, f32).
  DSINFER_INTERNAL const Weight& matrix(const std::string& name) const;
  /// A 1-D tensor (norms, correction bias), always f32: [dim].
  DSINFER_INTERNAL TensorView vector(const std::string& name) const;
  /// Absorbed copies of `kv_b_proj.weight`'s local heads, decoded before the cut, f32 or bf16:
  /// key_up [heads, rkv, dn] (so that q̃ = w·q_nope contracts the inner dim), value_up [heads, dv, rkv].
  DSINFER_INTERNAL const Weight& key_up(const std::string& kv_b_name) const;
  DSINFER_INTERNAL const Weight& value_up(const std::string& kv_b_name) const;
  /// Two matrices that lie back to back, as one [out of both, in]; nothing if they do not: gate_up of "….gate_proj.weight" and "….up_proj.weight",
  /// or of "….q_a_proj.weight" and "….kv_a_proj_with_mqa.weight". Named by the first.
  const Weight* fused(const std::string& first) const {
    const auto it = fused_.find(first);
    return it == fused_.end() ? nullptr : &it->second;
  }
  /// Every view of memory by name: matrices and vectors by their own, "…_scale_inv" for scales, "…#key_up" and "…#value_up" for absorbed copies.
  DSINFER_INTERNAL void each(const std::function<void(const std::string& name, const TensorView& view)>& call) const;
  bool has(const std::string& name) const { return matrices_.count(name) || vectors_.count(name); }
  /// Bytes held, absorbed copies and scales included, without those that stay in mapped files. Equals rank_memory(…).weight_bytes of the plan if none does.
  int64_t bytes() const { return bytes_; }

 private:
  friend class ShardLoader;  // of the tests
  friend class WeightSetBuilder;
  std::unordered_map<std::string, Weight> matrices_, key_up_, value_up_, fused_;
  std::unordered_map<std::string, TensorView> vectors_;
  std::vector<Buffer> buffers_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  int64_t bytes_ = 0;
};

}  // namespace dsinfer
