#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "core/sha256.hpp"
#include "topology/choice.hpp"
#include "topology/probes.hpp"
#include "topology/tree.hpp"

namespace dsinfer::topology {
namespace {

bool readable(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && access(path.c_str(), R_OK) == 0;
}

std::string already_loaded(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (!handle) return "";
  link_map* map = nullptr;
  std::string path = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name ? map->l_name : "";
  dlclose(handle);
  return path;
}

/// The loader's cache, glibc's format since 2.2: header, entries {flags, name, path, osversion, hwcap}, texts counted from the header.
constexpr char kCacheMagic[] = "glibc-ld.so.cache1.1";
#if defined(__x86_64__)
constexpr int32_t kCacheFlags = 0x0303;
#elif defined(__aarch64__)
constexpr int32_t kCacheFlags = 0x0a03;
#else
constexpr int32_t kCacheFlags = -1;  // any
#endif

std::string in_cache(std::string_view cache, std::string_view library) {
  constexpr size_t kHeader = 48, kEntry = 24;
  const size_t begin = cache.find(kCacheMagic);
  if (begin == cache.npos || cache.size() - begin < kHeader) return "";
  cache.remove_prefix(begin);
  const auto word_at = [&](size_t at) {
    uint32_t value = 0;
    std::memcpy(&value, cache.data() + at, sizeof value);
    return value;
  };
  const auto text_at = [&](size_t at) {
    return at < cache.size() ? std::string_view(cache.data() + at, strnlen(cache.data() + at, cache.size() - at)) : std::string_view();
  };
  const size_t count = std::min<size_t>(word_at(20), (cache.size() - kHeader) / kEntry);
  for (size_t i = 0; i < count; ++i) {
    const size_t at = kHeader + i * kEntry;
    if (kCacheFlags >= 0 && static_cast<int32_t>(word_at(at)) != kCacheFlags) continue;
    if (text_at(word_at(at + 4)) != library) continue;
    const std::string path(text_at(word_at(at + 8)));
    if (readable(path)) return path;
  }
  return "";
}

std::vector<std::string> split(std::string_view text, std::string_view marks) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of(marks), text.size());
    if (end > 0) parts.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

/// Version and hash of a library.
struct LibraryFile {
  std::string version, hash;
};

// "NCCL version 2.27.3+cuda12.9" stands in every libnccl, for its first log line.
std::string version_in(std::string_view bytes) {
  constexpr std::string_view kWords = "NCCL version ";
  for (size_t at = bytes.find(kWords); at != bytes.npos; at = bytes.find(kWords, at + 1)) {
    const std::string_view rest = bytes.substr(at + kWords.size(), 32);
    const size_t end = std::min(rest.find_first_not_of("0123456789."), rest.size());
    if (std::count(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(end), '.') >= 2) return std::string(rest.substr(0, end));
  }
  return "";
}

// Reads up to `size` bytes at `offset`; fewer at the end of the file. Not mapped: a file that shrinks meanwhile would kill the host.
std::string read_at(int file, size_t offset, size_t size) {
  std::string bytes(size, '\0');
  size_t got = 0;
  while (got < size) {
    const ssize_t n = pread(file, bytes.data() + got, size - got, static_cast<off_t>(offset + got));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    got += static_cast<size_t>(n);
  }
  bytes.resize(got);
  return bytes;
}

// NCCL is hundreds of megabytes: the hash is that of its size and of blocks spread over it, which differ between any two builds.
std::string sampled_hash(int file, size_t size) {
  constexpr size_t kBlock = 64 << 10, kBlocks = 64;
  Sha256 hash;
  hash.add(std::to_string(size));
  const size_t step = size <= kBlock * kBlocks ? kBlock : (size - kBlock) / (kBlocks - 1);
  for (size_t at = 0; at < size; at += step) hash.add(read_at(file, at, kBlock));
  return hash.hex();
}

// "libnccl.so.2.28.3" at the end of the links, else its bytes tell.
std::string version_of(const std::string& path, int file, size_t size) {
  std::error_code error;
  const std::string name = std::filesystem::canonical(path, error).filename().string();
  const size_t at = name.find(".so.");
  if (!error && at != name.npos && std::count(name.begin() + static_cast<std::ptrdiff_t>(at) + 4, name.end(), '.') == 2) return name.substr(at + 4);
  constexpr size_t kPiece = 4 << 20, kOverlap = 64;  // the words may stand across two pieces
  std::string version;
  for (size_t offset = 0; offset < size && version.empty(); offset += kPiece - kOverlap) version = version_in(read_at(file, offset, kPiece));
  return version;
}

LibraryFile describe(const std::string& path) {
  LibraryFile result;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (file >= 0 && fstat(file, &status) == 0 && S_ISREG(status.st_mode)) {
    const auto size = static_cast<size_t>(status.st_size);
    result = {version_of(path, file, size), sampled_hash(file, size)};
  }
  if (file >= 0) close(file);
  return result;
}

// As NCCL looks: the names that NCCL_NET_PLUGIN lists ("none" = no plug-in), a name alone also as libnccl-net-<name>.so; unset: libnccl-net.so.
std::string find_plugin(const Node& node) {
  const auto wanted = user_setting(node, "NCCL_NET_PLUGIN");
  if (!wanted || wanted->empty()) return loader_path("libnccl-net.so");
  for (const std::string& name : split(*wanted, ",")) {
    if (name == "none") return "";
    for (const std::string& file : {name, "libnccl-net-" + name + ".so"}) {
      if (const std::string path = loader_path(file); !path.empty()) return path;
    }
  }
  return "";
}

// Where images of clouds and vendors keep their plug-ins, often outside the loader's path.
void note_hidden_plugins(Node& node) {
  static constexpr const char* kFolders[] = {"/opt/amazon/ofi-nccl/lib", "/opt/amazon/ofi-nccl/lib/x86_64-linux-gnu", "/opt/amazon/ofi-nccl/lib64", "/opt/aws-ofi-nccl/lib",
                                             "/usr/local/gib/lib64", "/var/lib/tcpx/lib64", "/var/lib/tcpxo/lib64", "/usr/local/tcpx/lib64", "/usr/local/fastrak/lib64",
                                             "/usr/local/nvidia/lib64", "/opt/hpcx/nccl_rdma_sharp_plugin/lib"};
  for (const char* folder : kFolders) {
    const std::string path = std::string(folder) + "/libnccl-net.so";
    if (!node.host.net_plugin.empty() || !readable(path)) continue;
    node.findings.push_back({"net-plugin-hidden", Severity::warning, {}, "a network plug-in for NCCL is installed where the loader does not look", {path},
                             "put " + std::string(folder) + " into LD_LIBRARY_PATH if this fabric shall be used"});
  }
}

}  // namespace

std::string loader_path(const std::string& library) {
  if (library.empty()) return "";
  if (library.find('/') != library.npos) return readable(library) ? library : "";
  if (std::string path = already_loaded(library); !path.empty()) return path;
  const char* folders = std::getenv("LD_LIBRARY_PATH");
  for (const std::string& folder : split(folders ? folders : "", ":;")) {
    if (readable(folder + "/" + library)) return folder + "/" + library;
  }
  const auto cache = folder_tree("/")->read("etc/ld.so.cache");
  if (std::string path = in_cache(cache.value_or(""), library); !path.empty()) return path;
  for (const char* folder : {"/lib64", "/usr/lib64", "/lib", "/usr/lib"}) {
    if (readable(std::string(folder) + "/" + library)) return std::string(folder) + "/" + library;
  }
  return "";
}

void find_nccl(const std::string& library, Node& node) {
  const std::string path = loader_path(library);
  if (!path.empty()) {
    const LibraryFile file = describe(path);
    node.host.nccl_path = clean_text(path);
    node.host.nccl_version = file.version;
    node.host.nccl_hash = file.hash;
  }
  node.host.net_plugin = clean_text(find_plugin(node));
  note_hidden_plugins(node);
}

}  // namespace dsinfer::topology
