#include "model/end_tokens.hpp"

#include "core/json.hpp"

namespace dsinfer {

std::vector<int32_t> read_end_tokens(const ModelConfig& config, Storage& storage) {
  std::vector<int32_t> ends;
  const auto add = [&](const std::vector<int64_t>& ids) {
    for (const int64_t id : ids)
      if (id >= 0 && id < config.vocab_size) ends.push_back(static_cast<int32_t>(id));  // others are never drawn
  };
  add(config.eos_token_id);
  const char* file = "generation_config.json";
  if (!storage.exists(file)) return ends;
  const std::string name = storage.name() + "/" + file;
  const Json json = parse_json(read_text(storage, file), name);
  add(JsonObject(json, name).integers("eos_token_id"));
  return ends;
}

}  // namespace dsinfer
