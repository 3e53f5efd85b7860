#include "storage/local_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

// statx(2) with STATX_DIOALIGN (Linux 6.1) by hand: C libraries that are older than it have no fields for the answer.
struct DirectAlignment {
  uint32_t memory = 0, offset = 0;
  bool known = false;  // and 0 then means that the file has no O_DIRECT
};

DirectAlignment direct_alignment([[maybe_unused]] int descriptor) {
  DirectAlignment found;
#ifdef SYS_statx
  constexpr unsigned kDioAlign = 0x2000;
  alignas(8) unsigned char answer[256] = {};
  if (::syscall(SYS_statx, descriptor, "", AT_EMPTY_PATH, kDioAlign, answer) != 0) return found;
  uint32_t mask = 0;
  std::memcpy(&mask, answer, 4);
  if (!(mask & kDioAlign)) return found;
  std::memcpy(&found.memory, answer + 152, 4);
  std::memcpy(&found.offset, answer + 156, 4);
  found.known = true;
#endif
  return found;
}

struct NoDescriptor {};

bool is_refusal(int code) { return code == EINVAL || code == EOPNOTSUPP || code == ENOSYS; }

}  // namespace

std::string file_version(int descriptor) {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) return {};
  return fmt::format("{}-{}.{:09}", status.st_size, static_cast<int64_t>(status.st_mtim.tv_sec), static_cast<int64_t>(status.st_mtim.tv_nsec));
}

LocalFile::LocalFile(const Source& source) : name_(source.name()), path_(*source.path()), size_(source.size()) {
  const char* path = path_.c_str();
  buffered_ = ::open(path, O_RDONLY | O_CLOEXEC);
  if (buffered_ < 0 && (errno == EMFILE || errno == ENFILE)) throw NoDescriptor();
  if (buffered_ < 0) throw Error(Error::io, fmt::format("{}: cannot be opened: {}", name_, std::strerror(errno)));
  if (const std::string now = file_version(buffered_); now != source.version()) {
    ::close(buffered_);
    throw Error(Error::io, fmt::format("{}: changed since it was opened (size and time of change {}, now {}); load again when nobody writes to it", name_,
                                       source.version(), now));
  }
  const DirectAlignment wanted = direct_alignment(buffered_);
  if (wanted.known && wanted.offset == 0) return;
  if (wanted.known) offset_align_ = wanted.offset, memory_align_ = std::max<int64_t>(wanted.memory, 1);
  direct_ = ::open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
}

LocalFile::~LocalFile() {
  ::close(buffered_);
  if (direct_ >= 0) ::close(direct_);
}

bool LocalFile::can_bypass(int64_t offset, std::span<const std::byte> out) const {
  if (direct_descriptor() < 0) return false;
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out.data()));
  return offset % offset_align_ == 0 && static_cast<int64_t>(out.size()) % offset_align_ == 0 && address % memory_align_ == 0;
}

size_t LocalFile::needed(int64_t offset, std::span<const std::byte> out) const {
  const auto bytes = static_cast<int64_t>(out.size());
  if (offset < 0 || offset > size_ || bytes - (size_ - offset) >= kDirectAlignment) std::rethrow_exception(ends_early(size_, bytes - (size_ - offset)));
  if (bytes <= size_ - offset) return out.size();
  if (offset % kDirectAlignment || bytes % kDirectAlignment) std::rethrow_exception(ends_early(size_, bytes - (size_ - offset)));
  return static_cast<size_t>(size_ - offset);
}

void LocalFile::read(int64_t offset, std::span<std::byte> out, size_t done, size_t needed, bool bypass) {
  while (done < needed) {
    const int64_t at = offset + static_cast<int64_t>(done);
    std::span<std::byte> rest = out.subspan(done, std::min(out.size() - done, kMaxRead));
    const bool direct = bypass && can_bypass(at, rest);
    if (!direct) rest = rest.first(std::min(rest.size(), needed - done));
    const ssize_t got = ::pread(direct ? direct_ : buffered_, rest.data(), rest.size(), at);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0 && direct && is_refusal(errno)) {
      refuse_bypass();
      continue;
    }
    if (got < 0) std::rethrow_exception(failed(at, rest.size(), errno));
    if (got == 0) std::rethrow_exception(ends_early(at, static_cast<int64_t>(needed - done)));
    done += static_cast<size_t>(got);
  }
}

std::exception_ptr LocalFile::ends_early(int64_t at, int64_t missing) const {
  return std::make_exception_ptr(
      Error(Error::io, fmt::format("{}: ends at byte {}, expected {} more (the file was {} bytes long when opened)", name_, at, missing, size_)));
}

std::exception_ptr LocalFile::failed(int64_t at, size_t bytes, int code) const {
  return std::make_exception_ptr(Error(Error::io, fmt::format("{}: reading {} bytes at {}: {}", name_, bytes, at, std::strerror(code))));
}

std::shared_ptr<LocalFile> local_file(const Source& source) {
  static std::mutex mutex;
  static auto& files = *new std::unordered_map<std::string, std::weak_ptr<LocalFile>>;  // outlives threads that are given up at exit
  const std::string key = source.path()->string() + '\n' + source.version();
  const std::lock_guard lock(mutex);
  auto& slot = files[key];
  std::shared_ptr<LocalFile> file = slot.lock();
  if (file) return file;
  try {
    file = std::make_shared<LocalFile>(source);
  } catch (const NoDescriptor&) {
    return nullptr;
  }
  slot = file;
  if (files.size() > 1024) std::erase_if(files, [](const auto& entry) { return entry.second.expired(); });
  return file;
}

}  // namespace dsinfer
