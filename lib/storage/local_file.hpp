/// LocalFile: a local file's descriptors for the read queues. They are beside those of the Source, so that a read which the system never ends holds
/// neither the Source nor a descriptor number that may come to mean another file.
#pragma once
#include <atomic>
#include <exception>
#include <memory>

#include "storage/source.hpp"

namespace dsinfer {

class LocalFile {
 public:
  /// Opens the file that `source` has open. Throws io where it cannot be opened or is another one by now.
  explicit LocalFile(const Source& source);
  LocalFile(const LocalFile&) = delete;
  LocalFile& operator=(const LocalFile&) = delete;
  ~LocalFile();

  const std::string& name() const { return name_; }
  int descriptor() const { return buffered_; }
  /// With O_DIRECT; -1 where the file system has none.
  int direct_descriptor() const { return bypass_refused_ ? -1 : direct_; }
  /// Whether such a read can go past the page cache.
  bool can_bypass(int64_t offset, std::span<const std::byte> out) const;
  /// The file system took the descriptor and refused a read.
  void refuse_bypass() { bypass_refused_ = true; }

  /// Bytes of `out` that must come. Throws io where the file, as it was when opened, ends before; less than kDirectAlignment of an aligned read may miss.
  size_t needed(int64_t offset, std::span<const std::byte> out) const;
  /// Fills out[done, needed), through `descriptor()` or past the page cache. Throws io; where the file system refuses to bypass, goes on without.
  void read(int64_t offset, std::span<std::byte> out, size_t done, size_t needed, bool bypass);

  /// Of [offset, offset + bytes), inside of the file; as far as the system tells, 0 where it does not.
  int64_t bytes_cached(int64_t offset, int64_t bytes) const;

  std::exception_ptr ends_early(int64_t at, int64_t missing) const;
  std::exception_ptr failed(int64_t at, size_t bytes, int code) const;

 private:
  std::string name_;
  std::filesystem::path path_;
  int64_t size_ = 0;
  int buffered_ = -1, direct_ = -1;
  int64_t offset_align_ = 4096, memory_align_ = 4096;
  std::atomic<bool> bypass_refused_ = false;
};

/// What every file system and disk takes for O_DIRECT: a page. (Disks take 512 or 4096; statx tells where they want more.)
inline constexpr int64_t kDirectAlignment = 4096;
/// Linux moves at most 2 GiB - 4 KiB in one call.
inline constexpr size_t kMaxRead = size_t{1} << 30;

/// Shared by all queues of the process while any of them holds it: many ranks in one process do not multiply descriptors. nullptr where the process may
/// have no more of them: the Source still has its own.
std::shared_ptr<LocalFile> local_file(const Source& source);

/// Size and time of the last change of an open file, as Source::version() has it.
std::string file_version(int descriptor);

}  // namespace dsinfer
