#include "weights/new_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

constexpr std::string_view kPart = ".part";
constexpr size_t kMaxWrite = size_t{64} << 20;  // of one call, so that a signal or a slow disk never holds one for long

std::filesystem::path folder_of(const std::filesystem::path& path) { return path.has_parent_path() ? path.parent_path() : std::filesystem::path("."); }

// Whether the open file still has the name: a sweeper may have taken it between its creation and its lock.
bool has_name(int fd, const std::filesystem::path& path) {
  struct stat open {}, named {};
  return ::fstat(fd, &open) == 0 && ::stat(path.c_str(), &named) == 0 && open.st_dev == named.st_dev && open.st_ino == named.st_ino;
}

}  // namespace

void sweep_unfinished(const std::filesystem::path& folder) noexcept {
  try {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with('.') || !name.ends_with(kPart)) continue;
      const int fd = ::open(entry.path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
      if (fd < 0) continue;
      if (::flock(fd, LOCK_EX | LOCK_NB) == 0 && has_name(fd, entry.path())) ::unlink(entry.path().c_str());
      ::close(fd);
    }
  } catch (...) {  // rubbish may stay
  }
}

NewFile::NewFile(std::filesystem::path path, int64_t bytes) : path_(std::move(path)) {
  static std::atomic<int> next{0};
  sweep_unfinished(folder_of(path_));
  for (int attempt = 0; attempt < 100; ++attempt)
    if (create(next++)) {
      reserve(bytes);
      return;
    }
  fail("no name for a new file can be had", EEXIST);
}

bool NewFile::create(int number) {
  part_ = folder_of(path_) / fmt::format(".{}.{}-{}{}", path_.filename().string(), ::getpid(), number, kPart);
  fd_ = ::open(part_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd_ < 0 && errno == EEXIST) return false;
  if (fd_ < 0) fail("cannot be created", errno);
  // Where the file system knows no locks there is nobody who sweeps either.
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) ::flock(fd_, LOCK_EX);  // a sweeper has it; it will not keep it
  if (has_name(fd_, part_)) return true;
  ::close(fd_);
  fd_ = -1;
  return false;
}

void NewFile::reserve(int64_t bytes) {
  if (bytes <= 0 || ::fallocate(fd_, 0, 0, bytes) == 0 || (errno != ENOSPC && errno != EFBIG && errno != EDQUOT)) return;
  const int code = errno;
  ::unlink(part_.c_str());
  ::close(fd_);
  fd_ = -1;
  fail("cannot be written", code, bytes);
}

NewFile::~NewFile() {
  if (fd_ < 0) return;
  ::unlink(part_.c_str());
  ::close(fd_);
}

void NewFile::fail(const char* what, int code, int64_t bytes) const {
  const std::string size = bytes > 0 ? fmt::format(" ({} bytes)", bytes) : "";
  const char* remedy = code == ENOSPC || code == EDQUOT ? "; make room or choose another folder" : "";
  throw Error(Error::io, fmt::format("{}: {}{}: {}{}", path_.string(), what, size, std::strerror(code), remedy));
}

void NewFile::write(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::pwrite(fd_, bytes.data(), std::min(bytes.size(), kMaxWrite), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("cannot be written", errno, offset + static_cast<int64_t>(bytes.size()));
    offset += done;
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void NewFile::write(int64_t offset, std::string_view text) { write(offset, std::as_bytes(std::span(text))); }

void NewFile::sync() {
  if (::fsync(fd_) != 0) fail("cannot be brought to the disk", errno);
}

void NewFile::commit() {
  sync();
  if (::rename(part_.c_str(), path_.c_str()) != 0) fail("cannot be given its name", errno);
  ::close(fd_);
  fd_ = -1;
  const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;  // a folder that may be written but not read: the name comes to the disk later
  ::fsync(folder);
  ::close(folder);
}

}  // namespace dsinfer
