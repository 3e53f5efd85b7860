// An archive held in memory as a tree: captured machines travel as tar files, with the links of their /sys inside.
#include <algorithm>
#include <map>

#include "dsinfer/error.hpp"
#include "topology/tree.hpp"

#ifdef DSINFER_ARCHIVES
#include <archive.h>
#include <archive_entry.h>
#endif

namespace dsinfer::topology {
namespace {

bool begins(std::string_view bytes, std::string_view magic, size_t at = 0) {
  return bytes.size() >= at + magic.size() && bytes.substr(at, magic.size()) == magic;
}

}  // namespace

bool is_archive(std::string_view bytes) {
  return begins(bytes, "\x1f\x8b") || (begins(bytes, "BZh") && bytes.size() > 4 && begins(bytes, "1AY&SY", 4)) ||
         begins(bytes, std::string_view("\xfd\x37zXZ\0", 6)) || begins(bytes, "\x28\xb5\x2f\xfd") || begins(bytes, "ustar", 257);
}

#ifndef DSINFER_ARCHIVES

std::unique_ptr<Tree> archive_tree(std::string_view, const std::string& name) {
  throw Error(Error::unsupported, name + ": this build reads no archives (DSINFER_ARCHIVES=OFF): unpack it");
}

#else
namespace {

constexpr size_t kMaxBytes = size_t{256} << 20;  // unpacked, of all files, names and targets of links together
constexpr size_t kMaxFile = (size_t{16} << 20) + 1;  // kept of one file: one more than importers read, so that they see it is too long
constexpr size_t kMaxEntries = 500000;
constexpr size_t kMaxPath = 4096, kMaxDepth = 64;  // kMaxPath: of a name and of a link's target, as PATH_MAX

class ArchiveTree : public Tree {
 public:
  ArchiveTree(std::string_view bytes, const std::string& name) {
    archive* reader = archive_read_new();
    if (!reader) throw Error(Error::out_of_memory, name + ": no memory to unpack it");
    support_filters(reader);
    archive_read_support_format_tar(reader);
    archive_read_support_format_raw(reader);  // one compressed file: ibstat.txt.gz
    if (archive_read_open_memory(reader, bytes.data(), bytes.size()) == ARCHIVE_OK) unpack(reader, name);
    else damage_ = "no archive";
    archive_read_free(reader);
    if (root_.children.empty()) throw Error(Error::bad_format, name + ": no tar archive, or nothing in it" + (damage_.empty() ? "" : " (" + damage_ + ")"));
  }

  std::optional<std::string> read(std::string_view path, size_t limit, size_t offset) const override {
    const Entry* entry = target(path);
    if (!entry || entry->kind != Entry::file) return std::nullopt;
    return entry->content.substr(std::min(offset, entry->content.size()), limit);
  }
  std::vector<std::string> list(std::string_view path) const override {
    std::vector<std::string> names;
    if (const Entry* entry = target(path)) {
      for (const auto& child : entry->children) names.push_back(child.first);
      std::sort(names.begin(), names.end(), natural_less);
    }
    return names;
  }
  bool exists(std::string_view path) const override { return target(path) != nullptr; }
  std::optional<std::string> resolve(std::string_view path) const override {
    auto place = walk(path, true);
    return place && find(*place) ? place : std::nullopt;
  }
  std::optional<std::string> link(std::string_view path) const override {
    const auto place = walk(path, false);
    return place ? link_text(*place) : std::nullopt;
  }
  bool unreadable(std::string_view path) const override {
    const Entry* entry = target(path);
    return entry && entry->kind == Entry::special;
  }
  std::string damage() const override { return damage_; }

 private:
  // Only what the library unpacks itself: for a filter that it lacks, libarchive would start a program.
  static void support_filters(archive* reader) {
    if (archive_zlib_version()) archive_read_support_filter_gzip(reader);
    if (archive_bzlib_version()) archive_read_support_filter_bzip2(reader);
    if (archive_liblzma_version()) archive_read_support_filter_xz(reader);
    if (archive_libzstd_version()) archive_read_support_filter_zstd(reader);
  }

  struct Entry {
    enum Kind { folder, file, link, special } kind = folder;
    std::string content;  // of a file; target of a link
    std::map<std::string, Entry, std::less<>> children;
  };

  void unpack(archive* reader, const std::string& name) {
    size_t headers = 0;
    archive_entry* header = nullptr;
    int status = ARCHIVE_OK;
    while ((status = archive_read_next_header(reader, &header)) == ARCHIVE_OK || status == ARCHIVE_WARN) {
      if (archive_format(reader) == ARCHIVE_FORMAT_RAW && archive_filter_count(reader) < 2) break;  // neither tar nor compressed
      Entry* entry = place(header, reader, name);
      if (!read_content(reader, entry)) break;
      if (entries_ > kMaxEntries || ++headers > kMaxEntries) return too_large("entries");
      if (bytes_ > kMaxBytes) return too_large("bytes");
    }
    if (status == ARCHIVE_FATAL || status == ARCHIVE_FAILED || status == ARCHIVE_RETRY) damage_ = "truncated or damaged archive";
  }

  void too_large(const char* what) { damage_ = std::string("archive has too many ") + what + ", the rest is left out"; }

  // "run/ibstat.txt.gz" → "ibstat.txt"
  static std::string bare_name(const std::string& name) {
    const std::string last = name.substr(name.rfind('/') + 1);
    return last.empty() ? "data" : last.find('.') == last.npos ? last : last.substr(0, last.rfind('.'));
  }

  // Where the entry belongs, made ready; nullptr for names that lead out of the archive.
  Entry* place(archive_entry* header, archive* reader, const std::string& name) {
    const char* text = archive_entry_pathname(header);
    std::string path = text ? text : "";
    if (archive_format(reader) == ARCHIVE_FORMAT_RAW) path = bare_name(name);
    const char* hard = archive_entry_hardlink(header);
    const char* soft = !hard && archive_entry_filetype(header) == AE_IFLNK ? archive_entry_symlink(header) : nullptr;
    const std::string_view to = hard ? hard : soft ? soft : "";
    if (path.size() > kMaxPath || to.size() > kMaxPath) return nullptr;
    Entry* entry = &root_;
    size_t depth = 0;
    for (size_t at = 0; at <= path.size();) {
      const size_t slash = std::min(path.find('/', at), path.size());
      const std::string part = path.substr(at, slash - at);
      at = slash + 1;
      if (part.empty() || part == ".") continue;
      if (part == ".." || ++depth > kMaxDepth) return nullptr;
      if (entry->kind != Entry::folder) return nullptr;  // below a file or through a link: not how tar writes a tree
      const auto [child, added] = entry->children.try_emplace(part);
      entries_ += added;
      if (added) bytes_ += part.size();
      entry = &child->second;
    }
    if (entry == &root_ || !entry->children.empty()) return nullptr;
    *entry = Entry();
    bytes_ += to.size();
    if (hard || soft) {
      entry->kind = Entry::link;
      entry->content = (hard ? "/" : "") + std::string(to);
    } else if (archive_entry_filetype(header) == AE_IFREG || archive_format(reader) == ARCHIVE_FORMAT_RAW) {
      entry->kind = Entry::file;
    } else if (archive_entry_filetype(header) != AE_IFDIR) {
      entry->kind = Entry::special;
    }
    return entry;
  }

  // Reads the data also of entries that are not kept: sizes in headers are not to be trusted, so what is unpacked is counted.
  bool read_content(archive* reader, Entry* entry) {
    const void* block = nullptr;
    size_t size = 0;
    la_int64_t offset = 0;
    int status = ARCHIVE_OK;
    while ((status = archive_read_data_block(reader, &block, &size, &offset)) == ARCHIVE_OK || status == ARCHIVE_WARN) {
      bytes_ += size;
      if (bytes_ > kMaxBytes) return true;
      if (!entry || entry->kind != Entry::file || entry->content.size() >= kMaxFile) continue;
      entry->content.append(static_cast<const char*>(block), std::min(size, kMaxFile - entry->content.size()));
    }
    if (status == ARCHIVE_EOF) return true;
    damage_ = "truncated or damaged archive";
    return false;
  }

  const Entry* find(std::string_view path) const {
    const Entry* entry = &root_;
    while (!path.empty()) {
      const size_t slash = std::min(path.find('/'), path.size());
      const auto child = entry->children.find(path.substr(0, slash));
      if (child == entry->children.end()) return nullptr;
      entry = &child->second;
      path.remove_prefix(std::min(slash + 1, path.size()));
    }
    return entry;
  }
  std::optional<std::string> link_text(const std::string& path) const {
    const Entry* entry = find(path);
    return entry && entry->kind == Entry::link ? std::optional<std::string>(entry->content) : std::nullopt;
  }
  std::optional<std::string> walk(std::string_view path, bool follow_last) const {
    return walk_links(path, follow_last, [this](const std::string& p) { return link_text(p); });
  }
  const Entry* target(std::string_view path) const {
    const auto place = walk(path, true);
    return place ? find(*place) : nullptr;
  }

  Entry root_;
  size_t entries_ = 0;  // made in root_, folders that only paths name included
  size_t bytes_ = 0;    // unpacked so far
  std::string damage_;
};

}  // namespace

std::unique_ptr<Tree> archive_tree(std::string_view bytes, const std::string& name) { return std::make_unique<ArchiveTree>(bytes, name); }

#endif

}  // namespace dsinfer::topology
