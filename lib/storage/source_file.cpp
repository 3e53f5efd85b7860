#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "dsinfer/error.hpp"
#include "storage/local_file.hpp"

namespace dsinfer {
namespace {

class FileSource final : public Source {
 public:
  explicit FileSource(const std::filesystem::path& path) : name_(path.string()), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {  // not blocking: a FIFO waits for who writes
    if (fd_ < 0) {
      const int code = errno;
      throw Error(code == ENOENT ? Error::not_found : Error::io, fmt::format("{}: cannot be opened: {}", name_, std::strerror(code)));
    }
    struct stat status {};
    if (::fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) {
      ::close(fd_);
      throw Error(Error::io, name_ + ": not a regular file, which weights and their headers are read from; put a copy of the file there");
    }
    size_ = status.st_size;
    version_ = file_version(fd_);
    std::error_code ignored;
    path_ = std::filesystem::absolute(path, ignored);
    if (ignored) path_ = path;
  }
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;
  ~FileSource() override { ::close(fd_); }

  const std::string& name() const override { return name_; }
  std::string version() const override { return version_; }
  const std::filesystem::path* path() const override { return &path_; }
  int64_t size() const override { return size_; }

  void read(int64_t offset, std::span<std::byte> out) override {
    while (!out.empty()) {
      const ssize_t got = ::pread(fd_, out.data(), std::min(out.size(), kMaxRead), offset);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw Error(Error::io, fmt::format("{}: reading {} bytes at {}: {}", name_, out.size(), offset, std::strerror(errno)));
      if (got == 0) throw Error(Error::io, fmt::format("{}: ends at byte {}, expected {} more (the file was {} bytes long when opened)", name_, offset, out.size(), size_));
      offset += got;
      out = out.subspan(static_cast<size_t>(got));
    }
  }

 private:
  std::string name_, version_;
  std::filesystem::path path_;
  int fd_;
  int64_t size_ = 0;
};

}  // namespace

std::unique_ptr<Source> open_file(const std::filesystem::path& path) { return std::make_unique<FileSource>(path); }

}  // namespace dsinfer
