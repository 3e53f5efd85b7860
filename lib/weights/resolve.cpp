#include <fmt/format.h>
#include <fmt/ranges.h>

#include "dsinfer/error.hpp"
#include "plan/cut.hpp"
#include "storage/http_answer.hpp"
#include "weights/checkpoint.hpp"

namespace dsinfer {
namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";

bool is_down(const TensorSpec& spec) { return spec.name.find(".down_proj.") != std::string::npos; }

std::string fused_name(const TensorSpec& spec) {
  return fmt::format("model.layers.{}.mlp.experts.{}{}", spec.layer, is_down(spec) ? "down_proj" : "gate_up_proj", spec.is_scale ? kScaleSuffix : "");
}

// transformers 5 can write all experts of a layer as gate_up_proj [E, 2·MI, H] (gate above up) and down_proj [E, H, MI]; scales alike at block size.
// The slice of `spec` in such a tensor, or nothing if `fused` has another shape.
std::optional<TensorEntry> fused_slice(const TensorSpec& spec, const TensorEntry& fused, bool down, bool up) {
  const int64_t rows = spec.shape[0], cols = spec.shape[1];
  if (fused.shape.size() != 3 || fused.shape[1] != (down ? rows : 2 * rows) || fused.shape[2] != cols || spec.expert >= fused.shape[0]) return std::nullopt;
  const int64_t expert_bytes = (fused.end - fused.begin) / fused.shape[0];
  const int64_t bytes = down ? expert_bytes : expert_bytes / 2;
  const int64_t begin = fused.begin + spec.expert * expert_bytes + (up ? bytes : 0);
  return TensorEntry{fused.dtype, spec.shape, begin, begin + bytes};
}

}  // namespace

std::optional<Location> Checkpoint::locate(const TensorSpec& spec, const ModelConfig& config) const {
  if (const Location* at = find(spec.name)) return *at;
  if (spec.expert < 0 || spec.int4 != Int4Part::none) return std::nullopt;
  const bool down = is_down(spec), up = spec.name.find(".up_proj.") != std::string::npos;
  // Half a block of gate and half of up would share a scale.
  if (spec.is_scale && !down && config.moe_intermediate_size % config.fp8->block_rows != 0) return std::nullopt;
  const std::string name = fused_name(spec);
  const Location* whole = find(name);
  if (!whole) return std::nullopt;
  auto slice = fused_slice(spec, whole->entry, down, up);
  if (!slice)
    throw Error(Error::bad_format, fmt::format("{}: tensor {} has shape [{}], which does not hold {} of shape [{}]", files_[static_cast<size_t>(whole->file)].path, name,
                                               shape_text(whole->entry.shape), spec.name, fmt::join(spec.shape, ", ")));
  return Location{whole->file, *slice};
}

DType Checkpoint::usable_dtype(const TensorSpec& spec, const Location& at, const ModelConfig& config) const {
  const auto dtype = parse_dtype(at.entry.dtype);
  if (spec.int4 == Int4Part::words || spec.int4 == Int4Part::zeros) {
    if (at.entry.dtype == dtype_name(DType::i32)) return DType::i32;
    throw Error(Error::bad_format, fmt::format("{}: tensor {} has dtype {}, expected I32", files_[static_cast<size_t>(at.file)].path, spec.name, shown(at.entry.dtype)));
  }
  const char* expected = spec.is_scale ? "F32 or BF16" : spec.quantisable && config.fp8 ? "F8_E4M3, BF16, F16 or F32" : "BF16, F16 or F32";
  const bool good = dtype && (spec.is_scale ? *dtype == DType::f32 || *dtype == DType::bf16 : *dtype != DType::e4m3 || (spec.quantisable && config.fp8));
  if (good) return *dtype;
  const char* why = dtype == DType::e4m3 && !config.fp8 ? " (config.json has no quantization_config with weight_block_size)" : "";
  throw Error(Error::bad_format, fmt::format("{}: tensor {} has dtype {}, expected {}{}", files_[static_cast<size_t>(at.file)].path, spec.name, shown(at.entry.dtype), expected, why));
}

// A tensor of the table, found and checked.
StoredTensor Checkpoint::stored(const TensorSpec& spec, const ModelConfig& config) const {
  const auto at = locate(spec, config);
  if (!at) {
    const std::string why = spec.is_scale ? "; its weight is F8_E4M3 and cannot be decoded without it" : "";
    throw Error(Error::not_found, fmt::format("{}: tensor {} of shape [{}] is missing{}", storage_->name(), spec.name, fmt::join(spec.shape, ", "), why));
  }
  if (at->entry.shape != spec.shape)
    throw Error(Error::bad_format, fmt::format("{}: tensor {} has shape [{}], expected [{}] as config.json says", files_[static_cast<size_t>(at->file)].path, spec.name,
                                               shape_text(at->entry.shape), fmt::join(spec.shape, ", ")));
  return {&spec, *at, usable_dtype(spec, *at, config)};
}

std::vector<StoredTensor> Checkpoint::resolve(const ModelConfig& config, const std::vector<TensorSpec>& table, const Problems& problems) const {
  std::vector<StoredTensor> found;
  found.reserve(table.size());
  bool quantised = false;  // whether the weight just seen is F8_E4M3; its scale is the table's next entry
  bool packed = false;     // whether it is absent, to be stored in 4 bits; its parts are the next entries
  for (const TensorSpec& spec : table) {
    if (is_prediction(spec, config) || (spec.is_scale && !quantised) || (spec.int4 != Int4Part::none && !packed)) continue;
    quantised = false;
    if (spec.int4 == Int4Part::none) packed = config.int4 && spec.quantisable && !find(spec.name) && !(spec.expert >= 0 && find(fused_name(spec)));
    if (packed && spec.int4 == Int4Part::none) continue;
    try {
      found.push_back(stored(spec, config));
      quantised = found.back().dtype == DType::e4m3;
    } catch (const Error& problem) {
      if (!problems) throw;
      const bool known = problem.code() == Error::not_found && (all_lost_ || lost_.count(spec.name) || (spec.expert >= 0 && lost_.count(fused_name(spec))));
      if (!known) problems(problem);
    }
  }
  return found;
}

}  // namespace dsinfer
