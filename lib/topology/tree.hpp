/// A tree of small files to read facts from: a folder of the machine, a folder of a capture, or an archive held in memory.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dsinfer/export.hpp"

namespace dsinfer::topology {

/// Paths are relative, without a leading slash: "sys/class/net/eth0/mtu". Nothing throws: what cannot be read is absent, and
/// `unreadable` says so when something was there. Links are followed, inside the tree only.
class DSINFER_INTERNAL Tree {
 public:
  static constexpr size_t kReadLimit = size_t{1} << 20;
  virtual ~Tree() = default;
  /// Content, at most `limit` bytes of it, from `offset` on.
  virtual std::optional<std::string> read(std::string_view path, size_t limit = kReadLimit, size_t offset = 0) const = 0;
  /// Names in a folder, sorted with numbers by value (mlx5_2 before mlx5_10); empty if there is none.
  virtual std::vector<std::string> list(std::string_view path) const = 0;
  virtual bool exists(std::string_view path) const = 0;
  /// Where a path leads when all links in it are followed, relative to the tree; nullopt if it leads nowhere.
  virtual std::optional<std::string> resolve(std::string_view path) const = 0;
  /// The text of a link itself; nullopt if `path` is no link.
  virtual std::optional<std::string> link(std::string_view path) const = 0;
  /// True if it was there but could not be read (permission, EINVAL).
  virtual bool unreadable(std::string_view path) const = 0;
  /// Why the tree is not whole ("truncated tar.gz"); "" if nothing is known to be missing.
  virtual std::string damage() const { return ""; }

  /// First line without white space around it; nullopt if absent or empty.
  std::optional<std::string> line(std::string_view path) const;
  std::optional<long long> number(std::string_view path) const;  ///< decimal, or hexadecimal with 0x
};

/// Order of names with numbers by value: mlx5_2 before mlx5_10.
DSINFER_INTERNAL bool natural_less(std::string_view a, std::string_view b);
/// Follows `path` part by part; `link_of` gives the text of a link or nullopt for what is none. nullopt if the way leaves the tree or goes in circles.
DSINFER_INTERNAL std::optional<std::string> walk_links(std::string_view path, bool follow_last,
                                                       const std::function<std::optional<std::string>(const std::string&)>& link_of);

/// A folder of this machine ("/" for the machine itself).
DSINFER_INTERNAL std::unique_ptr<Tree> folder_tree(const std::string& root);
/// An archive (tar, plain or compressed; also one compressed file) in memory, 256 MiB unpacked at most. A truncated one gives what came before its end.
/// Throws bad_format naming `name`; unsupported if this build reads no archives.
DSINFER_INTERNAL std::unique_ptr<Tree> archive_tree(std::string_view bytes, const std::string& name);
/// True if the bytes begin as an archive or a compressed file does.
DSINFER_INTERNAL bool is_archive(std::string_view bytes);
/// The part of a tree below `folder`.
DSINFER_INTERNAL std::unique_ptr<Tree> sub_tree(std::shared_ptr<const Tree> tree, std::string folder);

}  // namespace dsinfer::topology
