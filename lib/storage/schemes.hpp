/// The kinds of Storage, by the scheme of the model's name.
#pragma once
#include "storage/storage.hpp"

namespace dsinfer {

std::unique_ptr<Storage> open_folder(const std::filesystem::path& folder);

}  // namespace dsinfer
