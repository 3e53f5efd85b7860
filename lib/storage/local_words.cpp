#include <fmt/format.h>

#include "core/json.hpp"
#include "core/sha256.hpp"
#include "dsinfer/error.hpp"
#include "storage/download_cache.hpp"

namespace dsinfer {
namespace {

// What config, tokenizer and chat formats are read from. A folder behind a URL cannot be listed, so all are asked for by name.
constexpr const char* kWords[] = {"config.json",        "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                  "added_tokens.json",  "chat_template.jinja",    "chat_template.json", "model.safetensors.index.json"};

std::string sha256(std::string_view text) {
  Sha256 sha;
  sha.add(text);
  return sha.hex();
}

// A copy of one file and, beside it, of which version it is and what it must hold: two processes may write at the same time.
void bring_up_to_date(Storage& storage, const std::filesystem::path& folder, const std::string& file) {
  const std::filesystem::path copy = folder / file, note = folder / ("." + file + ".version");
  std::error_code code;
  if (!storage.exists(file)) {
    std::filesystem::remove(copy, code);
    return;
  }
  const auto source = storage.open(file);
  const std::string version = fmt::format("{} {} ", source->size(), source->version());
  const bool have = !source->version().empty() && std::filesystem::exists(copy, code) && std::filesystem::exists(note, code);
  if (have && read_text_file(note.string()) == version + sha256(read_text_file(copy.string()))) return;
  const std::string text = read_text(storage, file);
  write_whole(copy, text);
  write_whole(note, version + sha256(text));
}

}  // namespace

std::filesystem::path local_words(Storage& storage, const StorageOptions& options) {
  if (storage.folder()) return *storage.folder();
  if (!storage.exists("config.json")) throw Error(Error::not_found, storage.name() + ": no config.json is there; expected the folder of a model");
  std::filesystem::path folder;
  for (const char* file : kWords) {
    if (!storage.exists(file)) continue;
    if (!storage.fetch(file)) break;
    folder = std::filesystem::path(*storage.open(file)->path()).parent_path();
  }
  if (!folder.empty()) return folder;
  folder = cache_root(options) / "words" / sha256(storage.name()).substr(0, 32);
  for (const char* file : kWords) bring_up_to_date(storage, folder, file);
  return folder;
}

}  // namespace dsinfer
