/// The download cache: files that came over a network, each whole or absent, shared by any number of processes.
#pragma once
#include <atomic>
#include <functional>
#include <span>
#include <string>

#include "storage/storage.hpp"

namespace dsinfer {

/// StorageOptions::cache, else $DSINFER_CACHE, else $XDG_CACHE_HOME/dsinfer, else ~/.cache/dsinfer. Throws invalid_argument where none of them is set.
DSINFER_INTERNAL std::filesystem::path cache_root(const StorageOptions& options);

/// A file to bring into the cache.
struct Download {
  std::filesystem::path target;
  std::string name;        ///< for errors
  int64_t size = 0;
  std::string identity;    ///< of the content (ETag): a part that is there from an earlier try is kept if it has the same one
  std::string sha256;      ///< of the content, hex; empty = not known
  int64_t chunk_bytes = 32 << 20;
  int connections = 8;
  /// Gives bytes [offset, offset + bytes) to `sink` in order. Called from several threads; ends soon once `stop` is true.
  std::function<void(int64_t offset, int64_t bytes, const std::function<void(std::span<const std::byte>)>& sink, const std::atomic<bool>& stop)> get;
};

/// Fetches it unless it is there. One of those that ask at the same time fetches, the others wait; the lock of a process that died is free at once, and what
/// it had fetched is not fetched again. Throws io (full disk, content that differs from its hash), cancelled, what get() throws.
DSINFER_INTERNAL void fetch_into_cache(const Download& download, const KeepGoing& keep_going);

/// Writes a small file so that it is whole or absent.
DSINFER_INTERNAL void write_whole(const std::filesystem::path& path, std::string_view text);

/// A symbolic link at `path`, which may be there.
DSINFER_INTERNAL void link_whole(const std::filesystem::path& path, const std::filesystem::path& to);

}  // namespace dsinfer
