/// WeightSetBuilder: views of one buffer that is laid out as a HeldLayout says.
#pragma once
#include "weights/layout.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {

class WeightSetBuilder {
 public:
  /// `buffer` holds at least layout.buffer_bytes, in any place, filled or not yet; `files` are those that tensors stay in.
  DSINFER_INTERNAL static WeightSet build(const HeldLayout& layout, Buffer buffer, const ModelConfig& config, std::vector<std::shared_ptr<const MappedFile>> files = {});
  /// The buffer of a set that build() made.
  DSINFER_INTERNAL static const Buffer& buffer(const WeightSet& set);
};

/// A matrix of the layout as a Weight over the buffer's memory.
DSINFER_INTERNAL Weight held_matrix(const HeldTensor& tensor, std::byte* base, Place place);
DSINFER_INTERNAL TensorView held_vector(const HeldTensor& tensor, std::byte* base, Place place);
/// The absorbed copies of a kv_b_proj: [heads, rkv, dn] and [heads, dv, rkv].
DSINFER_INTERNAL TensorView held_key_up(const HeldTensor& tensor, const ModelConfig& config, std::byte* base, Place place);
DSINFER_INTERNAL TensorView held_value_up(const HeldTensor& tensor, const ModelConfig& config, std::byte* base, Place place);

}  // namespace dsinfer
