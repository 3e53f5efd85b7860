#include "storage/download_cache.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <thread>

#include "core/sha256.hpp"
#include "dsinfer/error.hpp"
#include "storage/file_handle.hpp"
#include "storage/http_answer.hpp"
#include "storage/read_lanes.hpp"

namespace dsinfer {
namespace {

constexpr std::chrono::milliseconds kTick{100};

[[noreturn]] void refuse(const std::filesystem::path& path, const char* doing, int code) {
  const char* remedy = code == ENOSPC || code == EDQUOT                  ? "; make room, or name another folder in DSINFER_CACHE: what is there is not fetched again"
                       : code == EACCES || code == EPERM || code == EROFS || code == ENOTDIR ? "; name a folder that may be written to in DSINFER_CACHE"
                                                                          : "";
  throw Error(Error::io, fmt::format("{}: {}: {}{}", path.string(), doing, std::strerror(code), remedy));
}

void write_at(int descriptor, const std::filesystem::path& path, int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(descriptor, bytes.data(), bytes.size(), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) refuse(path, "writing", errno);
    offset += put;
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
}

void sync(int descriptor, const std::filesystem::path& path) {
  if (::fsync(descriptor) != 0 && errno != EINVAL) refuse(path, "fsync", errno);  // EINVAL: a file system that has none
}

void rename_into_place(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) refuse(to, "renaming the whole file to its name", errno);
  const FileHandle folder(::open(to.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) ::fsync(folder.get());
}

bool is_there(const Download& download) {
  struct stat status {};
  return ::stat(download.target.c_str(), &status) == 0 && S_ISREG(status.st_mode) && status.st_size == download.size;
}

std::filesystem::path beside(const Download& download, const char* ending) {
  return download.target.parent_path() / ("." + download.target.filename().string() + ending);
}

/// The file as far as it came: bytes [0, prefix) are there, as the note beside it says.
class Part {
 public:
  explicit Part(const Download& download)
      : download_(download), path_(beside(download, ".part")), note_(beside(download, ".part.note")), file_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (file_.get() < 0) refuse(path_, "creating", errno);
    read_note();
  }
  int64_t prefix() const { return prefix_; }
  void put(int64_t offset, std::span<const std::byte> bytes) const { write_at(file_.get(), path_, offset, bytes); }
  /// Chunks end in any order; the prefix grows when the gap closes.
  void ended(int64_t offset, int64_t bytes) {
    ends_.insert({offset, offset + bytes});
    const int64_t before = prefix_;
    while (!ends_.empty() && ends_.begin()->first == prefix_) {
      prefix_ = ends_.begin()->second;
      ends_.erase(ends_.begin());
    }
    if (prefix_ != before && prefix_ < download_.size) write_note();
  }
  void check_content();
  void finish() {
    if (::ftruncate(file_.get(), download_.size) != 0) refuse(path_, "setting its length", errno);
    check_content();
    sync(file_.get(), path_);
    rename_into_place(path_, download_.target);
    forget_note();
  }

 private:
  void read_note() {
    if (download_.identity.empty()) return;  // what is there may be of another content
    std::ifstream note(note_, std::ios::binary);
    std::string identity, count;
    if (std::getline(note, identity) && std::getline(note, count) && identity == line()) prefix_ = parse_count(count, download_.size).value_or(0);
    struct stat status {};
    if (::fstat(file_.get(), &status) != 0 || status.st_size < prefix_) prefix_ = 0;
  }
  // What is written to a file and lost by a power failure may be noted here as there: the hash tells, where the server gives one.
  void write_note() const {
    const std::string text = line() + "\n" + std::to_string(prefix_) + "\n";
    const std::filesystem::path fresh = note_.string() + ".new";
    {
      const FileHandle file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
      if (file.get() < 0) refuse(fresh, "creating", errno);
      write_at(file.get(), fresh, 0, std::as_bytes(std::span(text)));
    }
    if (::rename(fresh.c_str(), note_.c_str()) != 0) refuse(note_, "renaming", errno);
  }
  void forget_note() const { ::unlink(note_.c_str()); }
  std::string line() const { return shown(download_.identity, 500) + " " + std::to_string(download_.size); }

  const Download& download_;
  std::filesystem::path path_, note_;
  FileHandle file_;
  int64_t prefix_ = 0;
  std::set<std::pair<int64_t, int64_t>> ends_;
};

void Part::check_content() {
  if (download_.sha256.empty()) return;
  Sha256 sha;
  std::vector<char> bytes(4 << 20);
  for (int64_t at = 0; at < download_.size;) {
    const ssize_t got = ::pread(file_.get(), bytes.data(), bytes.size(), at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) refuse(path_, "reading it back", got < 0 ? errno : EIO);
    sha.add({bytes.data(), static_cast<size_t>(got)});
    at += got;
  }
  const std::string found = sha.hex();
  if (found == download_.sha256) return;
  forget_note();
  ::unlink(path_.c_str());
  throw Error(Error::io, fmt::format("{}: what came has the SHA-256 {}, expected {}; it was dropped, load again", download_.name, found, download_.sha256));
}

/// The threads that fetch the chunks of one file.
class Fetch {
 public:
  Fetch(const Download& download, Part& part) : download_(download), part_(part), next_(part.prefix()), done_(part.prefix()) {}
  Fetch(const Fetch&) = delete;
  Fetch& operator=(const Fetch&) = delete;
  ~Fetch() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  void run(const KeepGoing& keep_going) {
    const int64_t chunks = (download_.size - next_ + download_.chunk_bytes - 1) / download_.chunk_bytes;
    for (int64_t i = 0; i < std::min<int64_t>(chunks, download_.connections); ++i) {
      {
        const std::lock_guard lock(mutex_);
        ++working_;
      }
      threads_.push_back(quiet_thread([this] { work(); }));
    }
    std::unique_lock lock(mutex_);
    while (working_ > 0 && !error_) {
      changed_.wait_for(lock, kTick);
      const int64_t done = done_;
      lock.unlock();
      const bool go = !keep_going || keep_going(done, download_.size);
      lock.lock();
      if (!go && !error_) error_ = std::make_exception_ptr(Error(Error::cancelled, download_.name + ": cancelled while it was fetched"));
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void work() {
    try {
      while (!stop_) {
        const int64_t begin = next_.fetch_add(download_.chunk_bytes);
        if (begin >= download_.size) break;
        const int64_t bytes = std::min(download_.chunk_bytes, download_.size - begin);
        int64_t at = begin;
        download_.get(begin, bytes, [&](std::span<const std::byte> got) {
          part_.put(at, got);
          at += static_cast<int64_t>(got.size());
          done_ += static_cast<int64_t>(got.size());
        }, stop_);
        const std::lock_guard lock(mutex_);
        part_.ended(begin, bytes);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_ && !stop_) error_ = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    --working_;
    changed_.notify_all();
  }

  const Download& download_;
  Part& part_;
  std::atomic<int64_t> next_, done_;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t working_ = 0;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

// Held by one process at a time; the system frees it when that process ends, however it ends. The file stays: a name that came and went could be locked twice.
class Lock {
 public:
  Lock(const Download& download, const KeepGoing& keep_going)
      : path_(beside(download, ".lock")), file_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (file_.get() < 0) refuse(path_, "creating", errno);
    while (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) refuse(path_, "locking", errno);
      struct stat status {};
      const int64_t there = ::stat(beside(download, ".part").c_str(), &status) == 0 ? status.st_size : 0;
      if (keep_going && !keep_going(std::min<int64_t>(there, download.size), download.size)) {
        throw Error(Error::cancelled, download.name + ": cancelled while another process fetched it");
      }
      std::this_thread::sleep_for(kTick);
    }
  }

 private:
  std::filesystem::path path_;
  FileHandle file_;
};

}  // namespace

std::filesystem::path cache_root(const StorageOptions& options) {
  if (!options.cache.empty()) return options.cache;
  for (const auto& [name, below] : {std::pair{"DSINFER_CACHE", ""}, std::pair{"XDG_CACHE_HOME", "dsinfer"}, std::pair{"HOME", ".cache/dsinfer"}}) {
    const char* value = std::getenv(name);
    if (value && *value) return *below ? std::filesystem::path(value) / below : std::filesystem::path(value);
  }
  throw Error(Error::invalid_argument, "no folder for the download cache: none of DSINFER_CACHE, XDG_CACHE_HOME and HOME is set");
}

void fetch_into_cache(const Download& download, const KeepGoing& keep_going) {
  if (is_there(download)) return;
  std::error_code code;
  std::filesystem::create_directories(download.target.parent_path(), code);
  if (code) refuse(download.target.parent_path(), "creating the folder", code.value());
  const Lock lock(download, keep_going);
  if (is_there(download)) return;
  Part part(download);
  const int64_t missing = download.size - part.prefix();
  const auto space = std::filesystem::space(download.target.parent_path(), code);
  struct stat status {};
  const int64_t held = ::stat(beside(download, ".part").c_str(), &status) == 0 ? status.st_blocks * 512 : 0;
  if (!code && static_cast<int64_t>(space.available) < missing - std::max<int64_t>(0, held - part.prefix())) {
    throw Error(Error::io, fmt::format("{}: {} bytes are missing of it and its disk has room for {}; make room, or name another folder in DSINFER_CACHE",
                                       download.target.string(), missing, space.available));
  }
  Fetch(download, part).run(keep_going);
  part.finish();
}

void write_whole(const std::filesystem::path& path, std::string_view text) {
  std::error_code code;
  std::filesystem::create_directories(path.parent_path(), code);
  if (code) refuse(path.parent_path(), "creating the folder", code.value());
  std::string fresh = (path.parent_path() / ("." + path.filename().string() + ".XXXXXX")).string();
  const FileHandle file(::mkostemp(fresh.data(), O_CLOEXEC));
  if (file.get() < 0) refuse(path, "creating", errno);
  try {
    write_at(file.get(), fresh, 0, std::as_bytes(std::span(text)));
    ::fchmod(file.get(), 0644);
    sync(file.get(), fresh);
    rename_into_place(fresh, path);
  } catch (...) {
    ::unlink(fresh.c_str());
    throw;
  }
}

void link_whole(const std::filesystem::path& path, const std::filesystem::path& to) {
  std::error_code code;
  std::filesystem::create_directories(path.parent_path(), code);
  if (code) refuse(path.parent_path(), "creating the folder", code.value());
  static std::atomic<int> next{0};  // ranks may be threads of one process
  const std::filesystem::path fresh = path.parent_path() / fmt::format(".{}.{}-{}.link", path.filename().string(), ::getpid(), next++);
  std::filesystem::remove(fresh, code);  // of a process that died and had our number
  std::filesystem::create_symlink(to, fresh, code);
  if (code) refuse(path, "linking", code.value());
  try {
    rename_into_place(fresh, path);
  } catch (...) {
    std::filesystem::remove(fresh, code);
    throw;
  }
}

}  // namespace dsinfer
