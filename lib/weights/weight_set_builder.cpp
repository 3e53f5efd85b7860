#include "weights/weight_set_builder.hpp"

#include <algorithm>

namespace dsinfer {
namespace {

int64_t heads_of(const HeldTensor& kv_b, const ModelConfig& config) { return kv_b.rows / (config.qk_nope_head_dim + config.v_head_dim); }

// Two matrices, the second where the first ends.
HeldTensor joined(const HeldTensor& first, const HeldTensor& second) {
  HeldTensor both = first;
  both.rows += second.rows;
  return both;
}

}  // namespace

Weight held_matrix(const HeldTensor& tensor, std::byte* base, Place place) {
  Weight weight;
  weight.format = tensor.format;
  weight.data = TensorView(tensor.in_file ? tensor.mapped : base + tensor.data_at, element_of(tensor.format),
                           {tensor.rows, tensor.format == Format::int4_group ? tensor.cols / 2 : tensor.cols}, place);
  if (tensor.in_file) weight.data.stride[0] = tensor.mapped_stride;
  if (tensor.format == Format::int4_group) {
    weight.block_rows = 1;
    weight.block_cols = tensor.block_cols;
    const int64_t groups = tensor.cols / tensor.block_cols;
    weight.scale = TensorView(base + std::max<int64_t>(tensor.scale_at, 0), tensor.scale_dtype, {tensor.rows, groups}, place);
    if (tensor.zero_bytes > 0) weight.zeros = TensorView(base + tensor.zero_at, DType::u8, {(tensor.rows * groups + 1) / 2}, place);
    return weight;
  }
  if (tensor.format != Format::fp8_block) return weight;
  weight.block_rows = tensor.block_rows;
  weight.block_cols = tensor.block_cols;
  // A rank may hold none of a tensor's rows or columns: a view of nothing still has its shape.
  weight.scale = TensorView(base + std::max<int64_t>(tensor.scale_at, 0), DType::f32, {blocks(tensor.rows, tensor.block_rows), blocks(tensor.cols, tensor.block_cols)}, place);
  return weight;
}

TensorView held_vector(const HeldTensor& tensor, std::byte* base, Place place) { return TensorView(base + tensor.data_at, DType::f32, {tensor.rows}, place); }

TensorView held_key_up(const HeldTensor& tensor, const ModelConfig& config, std::byte* base, Place place) {
  return TensorView(base + tensor.key_up_at, tensor.absorbed_dtype, {heads_of(tensor, config), config.kv_lora_rank, config.qk_nope_head_dim}, place);
}

TensorView held_value_up(const HeldTensor& tensor, const ModelConfig& config, std::byte* base, Place place) {
  return TensorView(base + tensor.value_up_at, tensor.absorbed_dtype, {heads_of(tensor, config), config.v_head_dim, config.kv_lora_rank}, place);
}

WeightSet WeightSetBuilder::build(const HeldLayout& layout, Buffer buffer, const ModelConfig& config, std::vector<std::shared_ptr<const MappedFile>> files) {
  if (static_cast<int64_t>(buffer.size()) < layout.buffer_bytes)
    throw Error(Error::internal, "weights of " + std::to_string(layout.buffer_bytes) + " bytes in a buffer of " + std::to_string(buffer.size()));
  WeightSet set;
  std::byte* base = buffer.data();
  const Place place = buffer.place();
  for (const HeldTensor& tensor : layout.tensors) {
    if (tensor.vector) { set.vectors_[tensor.name] = held_vector(tensor, base, place); continue; }
    set.matrices_[tensor.name] = held_matrix(tensor, base, place);
    if (tensor.fused_with >= 0) set.fused_[tensor.name] = held_matrix(joined(tensor, layout.tensors[static_cast<size_t>(tensor.fused_with)]), base, place);
    if (tensor.key_up_at < 0) continue;
    const Format absorbed = tensor.absorbed_dtype == DType::bf16 ? Format::bf16 : Format::f32;
    set.key_up_[tensor.name] = Weight{held_key_up(tensor, config, base, place), {}, absorbed};
    set.value_up_[tensor.name] = Weight{held_value_up(tensor, config, base, place), {}, absorbed};
  }
  set.bytes_ = layout.held_bytes;
  set.buffers_.push_back(std::move(buffer));
  set.files_ = std::move(files);
  return set;
}

const Buffer& WeightSetBuilder::buffer(const WeightSet& set) {
  if (set.buffers_.size() != 1) throw Error(Error::internal, "these weights do not lie in one buffer");
  return set.buffers_.front();
}

}  // namespace dsinfer
