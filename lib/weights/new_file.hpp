/// NewFile: a file that is whole or absent, whatever happens to the process, the disk or the machine.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "dsinfer/export.hpp"

namespace dsinfer {

/// Written beside its place under a name of its own (".NAME.<process>-<number>.part"), then renamed. Gone with this object unless commit() was called; what a
/// killed process leaves is removed by the next NewFile in that folder, which knows by flock that nobody writes it any more. Any number of processes may make
/// the same file at once: the last rename counts. Throws io naming the file, the bytes and what the system says.
class DSINFER_INTERNAL NewFile {
 public:
  /// `bytes`: its length, if it is known: reserved, so that a full disk is told at once.
  explicit NewFile(std::filesystem::path path, int64_t bytes = 0);
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();
  void write(int64_t offset, std::span<const std::byte> bytes);
  void write(int64_t offset, std::string_view text);
  /// What was written so far is on the disk; the file still has no name.
  void sync();
  /// On the disk under its name, folder included.
  void commit();

 private:
  bool create(int number);
  void reserve(int64_t bytes);
  [[noreturn]] void fail(const char* what, int code, int64_t bytes = 0) const;

  std::filesystem::path path_, part_;
  int fd_ = -1;
};

/// Removes what killed processes left in `folder`.
DSINFER_INTERNAL void sweep_unfinished(const std::filesystem::path& folder) noexcept;

}  // namespace dsinfer
