/// Storage: a model's folder, wherever it lies.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "storage/source.hpp"

namespace dsinfer {

struct StorageOptions {
  std::filesystem::path cache;    ///< of downloaded files; empty = $DSINFER_CACHE, else $XDG_CACHE_HOME/dsinfer, else ~/.cache/dsinfer
  int retries = 5;                ///< of one request, with back-off, on refusals that may pass (408, 429, 5xx, connection lost, cut short)
  int backoff_milliseconds = 200; ///< before the first retry; doubled for each further one, up to 10 s
  int stall_seconds = 60;         ///< a transfer that moves nothing, or less than 1 KiB, for so long counts as lost
  std::function<bool()> keep_going;  ///< asked some times a second by the thread that opened the storage, while it waits for a server; false: Error::cancelled
};

/// Told while a file is fetched: bytes that are there, and in all. false ends it with Error::cancelled.
using KeepGoing = std::function<bool(int64_t done, int64_t total)>;

/// Whether it is the name of a file alone, which can be put behind a folder or a URL: no folders, no leading dot, 255 bytes at most.
DSINFER_INTERNAL bool is_plain_name(std::string_view file);

/// Files by name, a plain one. Any thread.
class DSINFER_INTERNAL Storage {
 public:
  virtual ~Storage() = default;
  /// Folder or URL without a slash at its end.
  virtual const std::string& name() const = 0;
  virtual bool exists(const std::string& file) = 0;
  /// Throws not_found, io. Of a file that is not there as a copy, ranges are read over the network.
  virtual std::unique_ptr<Source> open(const std::string& file) = 0;
  virtual bool keeps_copies() const { return false; }
  /// Where this storage keeps copies (hf://): brings one of `file` into the download cache, from which open() takes it from then on; no work if it is there.
  /// Of threads and processes that ask at the same time one fetches, the others wait. false: files are read in place. Throws not_found, io, cancelled.
  virtual bool fetch([[maybe_unused]] const std::string& file, [[maybe_unused]] const KeepGoing& keep_going = {}) { return false; }
  /// The folder if it is a local one; nullptr elsewhere.
  virtual const std::filesystem::path* folder() const { return nullptr; }
};

/// `model`: a local folder, http(s)://host/path, s3://bucket/prefix, hf://org/repo[@revision]. Throws invalid_argument for another scheme,
/// not_found for an absent folder, unsupported naming the build option where this build has no HTTP.
DSINFER_INTERNAL std::unique_ptr<Storage> open_storage(const std::string& model, const StorageOptions& options = {});

/// A whole small file. Throws bad_format beyond `limit` bytes.
DSINFER_INTERNAL std::string read_text(Storage& storage, const std::string& file, int64_t limit = int64_t{256} << 20);

/// A local folder with the small files of a model (config.json, tokenizer files, generation_config.json, the index, *.jinja): the folder itself where it is
/// local, else a folder of the cache, brought up to date. Safe under concurrent processes: a file there is whole or absent.
DSINFER_INTERNAL std::filesystem::path local_words(Storage& storage, const StorageOptions& options = {});

}  // namespace dsinfer
