/// The tokens that end an answer, as the model's files say.
#pragma once
#include <vector>

#include "dsinfer/config.hpp"
#include "storage/storage.hpp"

namespace dsinfer {

/// config.json's and, where there is one, generation_config.json's.
DSINFER_INTERNAL std::vector<int32_t> read_end_tokens(const ModelConfig& config, Storage& storage);

}  // namespace dsinfer
