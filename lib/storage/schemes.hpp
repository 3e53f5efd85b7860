/// The kinds of Storage, by the scheme of the model's name.
#pragma once
#include "storage/storage.hpp"

namespace dsinfer {

std::unique_ptr<Storage> open_folder(const std::filesystem::path& folder);
std::unique_ptr<Storage> open_http(const std::string& model, const StorageOptions& options);
std::unique_ptr<Storage> open_s3(const std::string& model, const StorageOptions& options);
std::unique_ptr<Storage> open_hub(const std::string& model, const StorageOptions& options);

}  // namespace dsinfer
