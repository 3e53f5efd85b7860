// A folder of this machine as a tree. "/" is the machine itself: there the kernel follows links; below any other root we do, so that a
// captured folder never shows what lies outside it.
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include "topology/tree.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMaxNames = 100000;  // of one folder

class FolderTree : public Tree {
 public:
  explicit FolderTree(std::string root) : root_(std::move(root)) {
    while (!root_.empty() && root_.back() == '/') root_.pop_back();
  }

  std::optional<std::string> read(std::string_view path, size_t limit, size_t offset) const override {
    const auto place = walk(path, true);
    return place ? content(*place, limit, offset) : std::nullopt;
  }

  std::vector<std::string> list(std::string_view path) const override {
    std::vector<std::string> names;
    const auto place = walk(path, true);
    DIR* folder = place ? opendir(absolute(*place).c_str()) : nullptr;
    if (!folder) return names;
    while (const dirent* entry = readdir(folder)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != ".." && names.size() < kMaxNames) names.emplace_back(name);
    }
    closedir(folder);
    std::sort(names.begin(), names.end(), natural_less);
    return names;
  }

  bool exists(std::string_view path) const override {
    const auto place = walk(path, true);
    struct stat status;
    return place && stat(absolute(*place).c_str(), &status) == 0;
  }

  std::optional<std::string> resolve(std::string_view path) const override {
    if (!root_.empty()) {
      auto place = walk(path, true);
      return place && exists(*place) ? place : std::nullopt;
    }
    std::array<char, PATH_MAX> real;
    return realpath(absolute(path).c_str(), real.data()) ? std::optional<std::string>(real.data() + 1) : std::nullopt;
  }

  std::optional<std::string> link(std::string_view path) const override {
    const auto place = walk(path, false);
    return place ? link_text(*place) : std::nullopt;
  }

  bool unreadable(std::string_view path) const override {
    const auto place = walk(path, true);
    struct stat status;
    if (!place || stat(absolute(*place).c_str(), &status) != 0) return place && (errno == EACCES || errno == EPERM);
    if (S_ISDIR(status.st_mode)) return access(absolute(*place).c_str(), R_OK | X_OK) != 0;
    return S_ISREG(status.st_mode) && !content(*place, 1, 0);
  }

 private:
  std::string absolute(std::string_view path) const { return root_ + "/" + std::string(path); }

  std::optional<std::string> link_text(const std::string& path) const {
    std::array<char, PATH_MAX> text;
    const ssize_t length = readlink(absolute(path).c_str(), text.data(), text.size());
    return length < 0 ? std::nullopt : std::optional<std::string>(std::in_place, text.data(), static_cast<size_t>(length));
  }

  std::optional<std::string> walk(std::string_view path, bool follow_last) const {
    while (!path.empty() && path.front() == '/') path.remove_prefix(1);
    if (root_.empty()) return std::string(path);
    return walk_links(path, follow_last, [this](const std::string& p) { return link_text(p); });
  }

  // Devices and pipes are not read: they may block.
  std::optional<std::string> content(const std::string& path, size_t limit, size_t offset) const {
    const int file = open(absolute(path).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (file < 0) return std::nullopt;
    struct stat status;
    bool whole = fstat(file, &status) == 0 && S_ISREG(status.st_mode);
    if (whole && offset > 0) whole = lseek(file, static_cast<off_t>(offset), SEEK_SET) >= 0;
    std::string text;
    std::array<char, 4096> page;
    while (whole && text.size() < limit) {
      const ssize_t got = ::read(file, page.data(), std::min(page.size(), limit - text.size()));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) whole = !text.empty();
      if (got <= 0) break;
      text.append(page.data(), static_cast<size_t>(got));
    }
    close(file);
    return whole ? std::optional<std::string>(std::move(text)) : std::nullopt;
  }

  std::string root_;  // without a slash at its end: "" is the machine itself
};

}  // namespace

std::unique_ptr<Tree> folder_tree(const std::string& root) { return std::make_unique<FolderTree>(root); }

}  // namespace dsinfer::topology
