/// The V2/V3 family's reading of a config.json: V2, V2-Lite, V3, R1, V3.1, Moonlight, Kimi-K2.
#pragma once
#include "core/json.hpp"
#include "dsinfer/config.hpp"

namespace dsinfer {

/// All keys of `json` that inference uses, with the family's meaning of absent ones. `model_type` is known already.
ModelConfig parse_deepseek(const JsonObject& json);
/// The two forms of 4-bit checkpoints, from their quantization_config. Unknown settings are `unsupported`, naming the key.
Int4Config read_awq(const JsonObject& json, const std::string& origin);
Int4Config read_pack_quantized(const JsonObject& json, const std::string& origin);
/// Refuses values that contradict each other or cannot be computed with; errors name key, value and what was expected.
void check_deepseek(const ModelConfig& config, const std::string& origin);

}  // namespace dsinfer
