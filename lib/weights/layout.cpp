#include "weights/layout.hpp"

#include <fmt/format.h>

#include <map>
#include <string_view>
#include <unordered_map>

#include "core/buffer.hpp"
#include "dsinfer/error.hpp"
#include "plan/cost.hpp"

namespace dsinfer {
namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";

int64_t row_bytes(Format format, int64_t cols) { return format == Format::int4_group ? cols / 2 : cols * dtype_size(element_of(format)); }

// The matrix that may follow `name` back to back; empty for most.
std::string partner_name(const std::string& name) {
  constexpr std::pair<std::string_view, std::string_view> kPairs[] = {{".gate_proj.weight", ".up_proj.weight"}, {".q_a_proj.weight", ".kv_a_proj_with_mqa.weight"}};
  for (const auto& [first, second] : kPairs)
    if (name.ends_with(first)) return name.substr(0, name.size() - first.size()).append(second);
  return {};
}

class LayoutWriter {
 public:
  LayoutWriter(const std::vector<ShardPiece>& pieces, const ModelConfig& config, WeightFormat format, bool in_files, DType absorbed)
      : pieces_(pieces), config_(config), held_(held_config(config, format)), format_(format), in_files_(in_files), absorbed_(absorbed) {}

  HeldLayout write() && {
    for (size_t i = 0; i < pieces_.size(); ++i) enter(static_cast<int>(i));
    for (HeldTensor& tensor : layout_.tensors) measure(tensor);
    pair_up();
    for (size_t i = 0; i < layout_.tensors.size(); ++i)
      if (!follows_[i] && layout_.tensors[i].expert < 0) place(layout_.tensors[i]);
    place_experts();
    layout_.buffer_bytes = end_;
    return std::move(layout_);
  }

 private:
  void enter(int piece) {
    const ShardPiece& p = pieces_[static_cast<size_t>(piece)];
    const TensorSpec& spec = *p.tensor.spec;
    const std::string name = held_name(spec);
    const auto [it, fresh] = index_.emplace(name, static_cast<int>(layout_.tensors.size()));
    if (fresh) layout_.tensors.emplace_back().name = name;
    HeldTensor& tensor = layout_.tensors[static_cast<size_t>(it->second)];
    tensor.pieces.push_back(piece);
    layout_.tensor_of.push_back(it->second);
    if (spec.is_scale) return;  // follows from the weight
    if (spec.int4 == Int4Part::scales) {
      tensor.scale_dtype = p.tensor.dtype;
      tensor.scale_bytes = p.cut.elements() * dtype_size(p.tensor.dtype);  // to be compared with the words
    }
    if (spec.int4 == Int4Part::zeros) tensor.zero_bytes = 1;  // measured once the weight is known
    if (spec.int4 == Int4Part::scales || spec.int4 == Int4Part::zeros) return;
    tensor.vector = spec.shape.size() == 1;
    tensor.format = tensor.vector ? Format::f32 : held_format(spec, p.tensor.dtype, format_);
    tensor.rows = (spec.transposed ? p.cut.cols : p.cut.rows).size() * spec.unit_rows;
    tensor.cols = (spec.transposed ? p.cut.rows : p.cut.cols).size() * spec.unit_cols;
    tensor.absorbed = is_kv_b(spec);
    tensor.layer = spec.layer;
    tensor.expert = spec.expert;
    tensor.in_file = in_files_ && lies_as_held(p.tensor, format_);
  }

  void measure(HeldTensor& tensor) const {
    tensor.data_bytes = tensor.rows * row_bytes(tensor.format, tensor.cols);
    if (tensor.format == Format::int4_group) {
      tensor.block_rows = 1;
      tensor.block_cols = config_.int4->group_size;
      const int64_t groups = tensor.rows * (tensor.cols / tensor.block_cols);
      // A file may hold in 4 bits what its config lists as left alone, so that no rule of the plan has looked at it.
      if (tensor.cols % tensor.block_cols != 0 || tensor.scale_bytes != groups * dtype_size(tensor.scale_dtype))
        throw Error(Error::unsupported, fmt::format("tensor {}: a part of [{}, {}] is no whole number of groups of {} columns, or of words of 8; take a plan that does not cut it so", tensor.name,
                                                    tensor.rows, tensor.cols, tensor.block_cols));
      if (tensor.zero_bytes > 0) tensor.zero_bytes = (groups + 1) / 2;
    }
    if (tensor.format == Format::fp8_block) {
      tensor.block_rows = held_.fp8->block_rows;
      tensor.block_cols = held_.fp8->block_cols;
      tensor.scale_bytes = blocks(tensor.rows, tensor.block_rows) * blocks(tensor.cols, tensor.block_cols) * dtype_size(DType::f32);
    }
    if (tensor.absorbed) {
      const int64_t heads = tensor.rows / (config_.qk_nope_head_dim + config_.v_head_dim);
      tensor.absorbed_dtype = absorbed_;
      tensor.key_up_bytes = heads * config_.kv_lora_rank * config_.qk_nope_head_dim * dtype_size(absorbed_);
      tensor.value_up_bytes = heads * config_.kv_lora_rank * config_.v_head_dim * dtype_size(absorbed_);
    }
  }

  void pair_up() {
    follows_.assign(layout_.tensors.size(), false);
    for (HeldTensor& first : layout_.tensors) {
      const auto second = index_.find(partner_name(first.name));
      if (second == index_.end() || !joins(first, layout_.tensors[static_cast<size_t>(second->second)])) continue;
      first.fused_with = second->second;
      follows_[static_cast<size_t>(second->second)] = true;
    }
  }

  // Blocks of scales must not straddle the two.
  static bool joins(const HeldTensor& first, const HeldTensor& second) {
    return !first.in_file && !second.in_file && first.format == second.format && first.cols == second.cols && first.block_rows == second.block_rows && first.block_cols == second.block_cols &&
           first.scale_dtype == second.scale_dtype && (first.zero_bytes > 0) == (second.zero_bytes > 0) && (first.format != Format::fp8_block || first.rows % first.block_rows == 0) &&
           (first.zero_bytes == 0 || first.rows * (first.cols / first.block_cols) % 2 == 0);
  }

  // The matrices of one kind of a layer's experts one after another, in the order of their numbers: data, then scales, then zero points.
  void place_experts() {
    std::map<std::pair<int64_t, std::string>, std::map<int64_t, HeldTensor*>> kinds;
    for (size_t i = 0; i < layout_.tensors.size(); ++i) {
      HeldTensor& tensor = layout_.tensors[i];
      if (tensor.expert >= 0 && !follows_[i]) kinds[{tensor.layer, kind_of(tensor.name)}][tensor.expert] = &tensor;
    }
    for (const auto& [kind, experts] : kinds) {
      for (const auto& [expert, tensor] : experts) {
        if (tensor->in_file) layout_.mapped_bytes += tensor->data_bytes;
        else place(*tensor, second_of(*tensor), &HeldTensor::data_at, &HeldTensor::data_bytes);
      }
      for (const auto& [expert, tensor] : experts) place(*tensor, second_of(*tensor), &HeldTensor::scale_at, &HeldTensor::scale_bytes);
      for (const auto& [expert, tensor] : experts) place(*tensor, second_of(*tensor), &HeldTensor::zero_at, &HeldTensor::zero_bytes);
    }
  }

  // "gate_proj.weight"
  static std::string kind_of(const std::string& name) { return name.substr(name.rfind('.', name.rfind('.') - 1) + 1); }

  HeldTensor* second_of(const HeldTensor& tensor) { return tensor.fused_with < 0 ? nullptr : &layout_.tensors[static_cast<size_t>(tensor.fused_with)]; }

  void place(HeldTensor& tensor) {
    HeldTensor* second = second_of(tensor);
    if (tensor.in_file) layout_.mapped_bytes += tensor.data_bytes;
    else place(tensor, second, &HeldTensor::data_at, &HeldTensor::data_bytes);
    place(tensor, second, &HeldTensor::scale_at, &HeldTensor::scale_bytes);
    place(tensor, second, &HeldTensor::zero_at, &HeldTensor::zero_bytes);
    place(tensor, nullptr, &HeldTensor::key_up_at, &HeldTensor::key_up_bytes);
    place(tensor, nullptr, &HeldTensor::value_up_at, &HeldTensor::value_up_bytes);
  }

  void place(HeldTensor& first, HeldTensor* second, int64_t HeldTensor::*at, int64_t HeldTensor::*bytes) {
    int64_t size = first.*bytes;
    if (size == 0 && at != &HeldTensor::data_at) return;
    first.*at = end_;
    if (second) {
      second->*at = end_ + size;
      size += second->*bytes;
    }
    layout_.held_bytes += size;
    end_ += static_cast<int64_t>(Arena::aligned(static_cast<size_t>(size)));
  }

  const std::vector<ShardPiece>& pieces_;
  const ModelConfig& config_;
  ModelConfig held_;
  WeightFormat format_;
  bool in_files_;
  DType absorbed_;
  HeldLayout layout_;
  std::unordered_map<std::string, int> index_;
  std::vector<bool> follows_;
  int64_t end_ = 0;
};

}  // namespace

DType element_of(Format format) {
  switch (format) {
    case Format::f32: return DType::f32;
    case Format::bf16: return DType::bf16;
    case Format::f16: return DType::f16;
    case Format::fp8_block: return DType::e4m3;
    case Format::int4_group: return DType::u8;
  }
  return DType::f32;
}

std::string held_name(const TensorSpec& spec) {
  if (spec.is_scale) return spec.name.substr(0, spec.name.size() - kScaleSuffix.size());
  return spec.int4 == Int4Part::none ? spec.name : spec.name.substr(0, spec.name.rfind('.')) + ".weight";
}

Format held_format(const TensorSpec& spec, DType stored, WeightFormat format) {
  if (spec.int4 != Int4Part::none) return Format::int4_group;
  if (stored == DType::e4m3) return format == WeightFormat::bf16 ? Format::bf16 : Format::fp8_block;
  if (spec.quantisable && format == WeightFormat::fp8) return Format::fp8_block;
  return stored == DType::bf16 ? Format::bf16 : stored == DType::f16 ? Format::f16 : Format::f32;
}

bool lies_as_held(const StoredTensor& tensor, WeightFormat format) {
  const TensorSpec& spec = *tensor.spec;
  if (spec.is_scale || spec.int4 != Int4Part::none || spec.shape.size() != 2 || tensor.at.entry.begin % dtype_size(tensor.dtype) != 0) return false;
  return element_of(held_format(spec, tensor.dtype, format)) == tensor.dtype;
}

HeldLayout held_layout(const std::vector<ShardPiece>& pieces, const ModelConfig& config, WeightFormat format, bool in_files, DType absorbed) {
  return LayoutWriter(pieces, config, format, in_files, absorbed).write();
}

}  // namespace dsinfer
