#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "storage/local_file.hpp"
#include "storage/read_queue.hpp"

namespace dsinfer {
namespace {

// cachestat(2), Linux 6.5: counts without looking at page tables. -1 where the kernel has or allows none.
int64_t count_by_cachestat(int descriptor, int64_t offset, int64_t bytes, int64_t page) {
  constexpr long kCachestat = 451;  // the same number on all architectures
  struct {
    uint64_t offset, bytes;
  } range{static_cast<uint64_t>(offset), static_cast<uint64_t>(bytes)};
  std::array<uint64_t, 5> counts{};  // in cache, dirty, under writeback, evicted, recently evicted; pages
  if (::syscall(kCachestat, descriptor, &range, counts.data(), 0) != 0) return -1;
  return std::min(static_cast<int64_t>(counts[0]) * page, bytes);
}

// mincore(2) answers "all there" about files that the caller neither owns nor may write (CVE-2019-5489): such an answer says nothing.
bool mincore_is_honest(int descriptor, const char* path) {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) return false;
  return status.st_uid == ::geteuid() || ::geteuid() == 0 || ::access(path, W_OK) == 0;
}

int64_t count_by_mincore(int descriptor, int64_t offset, int64_t bytes, int64_t page) {
  constexpr int64_t kSamples = 16, kSamplePages = 16;
  const int64_t first = offset / page, pages = (offset + bytes - 1) / page + 1 - first;
  const int64_t samples = std::min(kSamples, (pages + kSamplePages - 1) / kSamplePages);
  std::array<unsigned char, kSamplePages> there{};
  int64_t asked = 0, found = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t begin = first + i * pages / samples, count = std::min(kSamplePages, first + pages - begin);
    void* map = ::mmap(nullptr, static_cast<size_t>(count * page), PROT_READ, MAP_SHARED, descriptor, begin * page);
    if (map == MAP_FAILED) return 0;
    if (::mincore(map, static_cast<size_t>(count * page), there.data()) == 0) {
      asked += count;
      found += std::count_if(there.begin(), there.begin() + count, [](unsigned char flags) { return flags & 1; });
    }
    ::munmap(map, static_cast<size_t>(count * page));
  }
  return asked == 0 ? 0 : static_cast<int64_t>(static_cast<double>(bytes) * static_cast<double>(found) / static_cast<double>(asked));
}

}  // namespace

int64_t bytes_in_page_cache(const Source& source, int64_t offset, int64_t bytes) {
  offset = std::max<int64_t>(offset, 0);
  bytes = std::min(bytes, source.size() - offset);
  if (!source.path() || bytes <= 0) return 0;
  std::shared_ptr<LocalFile> file;
  try {
    file = local_file(source);
  } catch (const std::exception&) {  // reading it will say why
  }
  return file ? file->bytes_cached(offset, bytes) : 0;
}

int64_t LocalFile::bytes_cached(int64_t offset, int64_t bytes) const {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  if (const int64_t counted = count_by_cachestat(buffered_, offset, bytes, page); counted >= 0) return counted;
  return mincore_is_honest(buffered_, path_.c_str()) ? count_by_mincore(buffered_, offset, bytes, page) : 0;
}

}  // namespace dsinfer
