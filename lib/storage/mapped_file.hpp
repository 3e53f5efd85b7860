/// MappedFile: a local file's bytes as read-only memory.
#pragma once
#include <memory>

#include "storage/source.hpp"

namespace dsinfer {

/// Pages come from the disk when they are first looked at, and are shared by all processes that map the file. Whoever cuts the file short while it is mapped
/// ends the process that looks behind its new end (SIGBUS).
class MappedFile {
 public:
  /// Throws unsupported where `source` is no local file, io where it cannot be mapped or has changed since it was opened.
  DSINFER_INTERNAL explicit MappedFile(const Source& source);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  DSINFER_INTERNAL ~MappedFile();

  /// A write to it ends the process.
  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace dsinfer
