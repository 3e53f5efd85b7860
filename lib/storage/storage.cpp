#include "storage/storage.hpp"

#include <fmt/format.h>

#include "dsinfer/error.hpp"
#include "storage/schemes.hpp"

namespace dsinfer {

std::unique_ptr<Storage> open_storage(const std::string& model, const StorageOptions&) {
  const size_t scheme = model.find("://");
  if (scheme == std::string::npos) return open_folder(model);
  throw Error(Error::unsupported, fmt::format("{}: this version reads models from local folders only", model));
}

std::string read_text(Storage& storage, const std::string& file, int64_t limit) {
  const auto source = storage.open(file);
  if (source->size() > limit) throw Error(Error::bad_format, fmt::format("{}: is {} bytes long, expected at most {}", source->name(), source->size(), limit));
  std::string text(static_cast<size_t>(source->size()), '\0');
  source->read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace dsinfer
