/// Which rows and columns of a checkpoint tensor a rank holds.
#pragma once
#include <optional>

#include "config/tensors.hpp"
#include "dsinfer/plan.hpp"

namespace dsinfer {

/// Half-open rows and columns of a tensor as stored (of a transposed one too); a 1-D tensor is one column.
struct Cut {
  Range rows, cols;
  int64_t elements() const { return rows.size() * cols.size(); }
  bool operator==(const Cut&) const = default;
};

/// Nothing if the rank holds no part of it. Scales are cut where their weights are. MTP layers belong to the last stage.
DSINFER_INTERNAL std::optional<Cut> cut(const TensorSpec& spec, const ModelConfig& config, const RankPlan& rank);

/// A layer beyond num_hidden_layers: multi-token prediction. The forward pass of this version doesn't use it.
inline bool is_prediction(const TensorSpec& spec, const ModelConfig& config) { return spec.layer >= config.num_hidden_layers; }

/// kv_b_proj.weight or its 4-bit words, of which ranks also hold the absorbed f32 copies.
DSINFER_INTERNAL bool is_kv_b(const TensorSpec& spec);

/// Numbers of the weight that this part of it stands for.
inline int64_t weights_in(const TensorSpec& spec, const Cut& part) { return part.elements() * spec.unit_rows * spec.unit_cols; }

}  // namespace dsinfer
