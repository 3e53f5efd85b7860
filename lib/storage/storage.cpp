#include "storage/storage.hpp"

#include <fmt/format.h>

#include "dsinfer/error.hpp"
#include "storage/http_answer.hpp"
#include "storage/schemes.hpp"

namespace dsinfer {

bool is_plain_name(std::string_view file) {
  constexpr size_t kLongest = 255;  // of Linux's file systems
  return !file.empty() && file.size() <= kLongest && file[0] != '.' && file.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

std::unique_ptr<Storage> open_storage(const std::string& model, [[maybe_unused]] const StorageOptions& options) {
  const size_t end = model.find("://");
  const bool is_scheme = end != std::string::npos && model.find('/') > end;
  if (!is_scheme) return open_folder(model);
  const std::string scheme = model.substr(0, end);
  if (scheme != "http" && scheme != "https" && scheme != "s3" && scheme != "hf") {
    throw Error(Error::invalid_argument, fmt::format("{}://: expected a folder, http(s)://host/path, s3://bucket/prefix or hf://org/repo", shown(scheme)));
  }
#ifdef DSINFER_HTTP
  if (scheme == "s3") return open_s3(model, options);
  if (scheme == "hf") return open_hub(model, options);
  return open_http(model, options);
#else
  throw Error(Error::unsupported, fmt::format("{}://: this build reads local folders only; build with -DDSINFER_HTTP=ON and libcurl4-openssl-dev", scheme));
#endif
}

std::string read_text(Storage& storage, const std::string& file, int64_t limit) {
  const auto source = storage.open(file);
  if (source->size() > limit) throw Error(Error::bad_format, fmt::format("{}: is {} bytes long, expected at most {}", source->name(), source->size(), limit));
  std::string text(static_cast<size_t>(source->size()), '\0');
  source->read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace dsinfer
