#include "model/end_tokens.hpp"

#include "core/json.hpp"

namespace dsinfer {

std::vector<int32_t> read_end_tokens(const ModelConfig& config, Storage& storage) {
  std::vector<int32_t> ends(config.eos_token_id.begin(), config.eos_token_id.end());
  const char* file = "generation_config.json";
  if (!storage.exists(file)) return ends;
  const std::string name = storage.name() + "/" + file;
  const Json json = parse_json(read_text(storage, file), name);
  for (const int64_t id : JsonObject(json, name).integers("eos_token_id")) ends.push_back(static_cast<int32_t>(id));
  return ends;
}

}  // namespace dsinfer
