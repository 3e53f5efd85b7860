#include "plan/cut.hpp"

#include <string_view>

namespace dsinfer {
namespace {

bool holds(const TensorSpec& spec, const RankPlan& rank) {
  switch (spec.home) {
    case Home::layer: if (!rank.layers.contains(spec.layer)) return false; break;
    case Home::first_stage: if (!rank.first_stage) return false; break;
    case Home::last_stage: if (!rank.last_stage) return false; break;
  }
  return spec.expert < 0 || rank.experts.contains(spec.expert);
}

// A range of weight rows (or columns) as a range of stored ones, all that are touched. Only a matrix that is decoded on loading is cut within them.
Range to_units(Range range, int64_t unit) { return {range.begin / unit, (range.end + unit - 1) / unit}; }

}  // namespace

std::optional<Cut> cut(const TensorSpec& spec, const ModelConfig&, const RankPlan& rank) {
  if (!holds(spec, rank)) return std::nullopt;
  Cut all{{0, spec.shape[0]}, {0, spec.shape.size() > 1 ? spec.shape[1] : 1}};
  Range part;
  bool by_columns = false;
  switch (spec.split) {
    case Split::whole: return all;
    case Split::vocab_rows: part = rank.vocab; break;
    case Split::head_columns: by_columns = true; [[fallthrough]];
    case Split::head_rows: part = {rank.heads.begin * spec.row_group, rank.heads.end * spec.row_group}; break;
    case Split::dense_columns: by_columns = true; [[fallthrough]];
    case Split::dense_rows: part = rank.dense_inter; break;
    case Split::shared_columns: by_columns = true; [[fallthrough]];
    case Split::shared_rows: part = rank.shared_inter; break;
    case Split::expert_columns: by_columns = true; [[fallthrough]];
    case Split::expert_rows: part = rank.moe_inter; break;
  }
  (by_columns != spec.transposed ? all.cols : all.rows) = to_units(part, by_columns ? spec.unit_cols : spec.unit_rows);
  return all;
}

bool is_kv_b(const TensorSpec& spec) {
  const bool weight = std::string_view(spec.name).ends_with(".weight") || spec.int4 == Int4Part::words;
  return weight && std::string_view(spec.name).find(".self_attn.kv_b_proj.") != std::string_view::npos;
}

}  // namespace dsinfer
