/// A config from what the tensors' headers show: for planning, where config.json is not at hand.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "dsinfer/config.hpp"
#include "dsinfer/export.hpp"

namespace dsinfer {

/// A tensor as its header states it.
struct TensorShape {
  std::string dtype;           ///< "BF16", "F8_E4M3"
  std::vector<int64_t> shape;
};

/// Every width, the heads, layers, experts and FP8 blocks follow from shapes. What no shape shows comes from the released model of the same
/// shapes, or `experts_per_token` (0 = not given); each such value is named in `assumed`. `origin` names the source in errors. Throws bad_format
/// naming the tensor that is missing or contradicts another; unsupported where num_experts_per_tok can be known from neither.
DSINFER_INTERNAL ModelConfig infer_config(const std::map<std::string, TensorShape>& tensors, const std::string& origin, int64_t experts_per_token, std::vector<std::string>& assumed);

}  // namespace dsinfer
