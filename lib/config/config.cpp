#include "dsinfer/config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "config/deepseek.hpp"
#include "core/json.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

// YaRN's attention temperature. Source: Peng et al. 2023, eq. 22, with DeepSeek's extra factor a.
double yarn_mscale(double factor, double a) { return factor <= 1 ? 1.0 : 0.1 * a * std::log(factor) + 1.0; }

// The (fractional) pair that turns `rotations` times over the original context.
double correction_pair(double rotations, double dim, double base, double original_length) {
  return dim * std::log(original_length / (rotations * 2 * std::numbers::pi)) / (2 * std::log(base));
}

}  // namespace

double ModelConfig::softmax_scale() const {
  const double scale = 1.0 / std::sqrt(static_cast<double>(qk_head_dim()));
  if (!yarn || yarn->mscale_all_dim == 0) return scale;
  const double m = yarn_mscale(yarn->factor, yarn->mscale_all_dim);
  return scale * m * m;
}

double ModelConfig::rope_attention_factor() const {
  if (!yarn) return 1;
  if (yarn->mscale == 0 || yarn->mscale_all_dim == 0) return yarn_mscale(yarn->factor, 1);
  return yarn_mscale(yarn->factor, yarn->mscale) / yarn_mscale(yarn->factor, yarn->mscale_all_dim);
}

std::vector<double> ModelConfig::rope_inv_freq() const {
  const auto dim = static_cast<double>(qk_rope_head_dim);
  std::vector<double> frequencies(static_cast<size_t>(qk_rope_head_dim / 2));
  for (size_t j = 0; j < frequencies.size(); ++j) frequencies[j] = std::pow(rope_theta, -2.0 * static_cast<double>(j) / dim);
  if (!yarn) return frequencies;

  const auto length = static_cast<double>(yarn->original_max_position_embeddings);
  const double low = std::max(std::floor(correction_pair(yarn->beta_fast, dim, rope_theta, length)), 0.0);
  double high = std::min(std::ceil(correction_pair(yarn->beta_slow, dim, rope_theta, length)), dim - 1);
  if (low == high) high += 0.001;  // as every implementation does: a step instead of a division by zero
  for (size_t j = 0; j < frequencies.size(); ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    frequencies[j] = frequencies[j] * (1 - ramp) + frequencies[j] / yarn->factor * ramp;
  }
  return frequencies;
}

ModelConfig ModelConfig::parse(std::string_view json, const std::string& origin) {
  const Json parsed = parse_json(json, origin, /*unique_keys=*/true);
  const JsonObject object(parsed, origin);
  const std::string type = object.string("model_type");
  if (object.has("index_topk"))
    throw Error(Error::unsupported, fmt::format("{}: key \"index_topk\" announces sparse attention (DeepSeek-V3.2, model_type \"{}\"); "
                                                "this version computes dense attention only", origin, type));
  if (type != "deepseek_v3" && type != "deepseek_v2" && type != "kimi_k2")
    throw Error(Error::unsupported, fmt::format("{}: key \"model_type\" is \"{}\"; this version knows deepseek_v3 (V3, R1, V3.1, Moonlight), "
                                                "deepseek_v2 (V2, V2-Lite) and kimi_k2", origin, type));
  ModelConfig config = parse_deepseek(object);
  check_deepseek(config, origin);
  return config;
}

ModelConfig ModelConfig::load(const std::filesystem::path& folder) {
  std::error_code code;
  const auto status = std::filesystem::status(folder, code);
  if (!std::filesystem::exists(status))
    throw Error(Error::not_found, folder.string() + ": no such model folder; expected a folder with config.json and safetensors files");
  const std::filesystem::path file = std::filesystem::is_directory(status) ? folder / "config.json" : folder;
  const bool there = std::filesystem::exists(file, code);
  if (code) throw Error(Error::io, fmt::format("{}: cannot be looked at: {}", file.string(), code.message()));
  if (!there) throw Error(Error::not_found, folder.string() + ": the model folder has no config.json");
  return parse(read_text_file(file.string()), file.string());
}

}  // namespace dsinfer
