/// Source: where one file's bytes come from.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "dsinfer/export.hpp"

namespace dsinfer {

/// One file, read by ranges. Reads may come from several threads at once.
class DSINFER_INTERNAL Source {
 public:
  virtual ~Source() = default;
  /// Path or URL, as errors shall name it.
  virtual const std::string& name() const = 0;
  virtual int64_t size() const = 0;
  /// Fills `out` with the bytes from `offset` on. Throws io naming the file and offset if it ends before, has changed since it was opened, or does not
  /// answer; cancelled after interrupt().
  virtual void read(int64_t offset, std::span<std::byte> out) = 0;
  /// Reads under way and to come end soon with Error::cancelled. Any thread. Local files may ignore it.
  virtual void interrupt() {}
  /// What tells this content from another under the same name: ETag, or size and time of the last change. May be empty.
  virtual std::string version() const { return {}; }
  /// A local file's path, from which it may be mapped or opened anew; nullptr elsewhere.
  virtual const std::filesystem::path* path() const { return nullptr; }
};

/// A local file through pread. Throws not_found or io naming it.
DSINFER_INTERNAL std::unique_ptr<Source> open_file(const std::filesystem::path& path);

}  // namespace dsinfer
