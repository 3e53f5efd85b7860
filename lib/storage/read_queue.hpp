/// ReadQueue: reads in flight, of any Source.
#pragma once
#include <exception>
#include <optional>
#include <vector>

#include "storage/source.hpp"

namespace dsinfer {

/// How local files are read. automatic: what lies in the page cache through pread; else io_uring with O_DIRECT where the kernel, the file system and the
/// build allow it, else pread with O_DIRECT, else plain pread. The others ask for one way alone and throw unsupported naming what is missing.
enum class IoEngine : uint8_t { automatic, uring, direct, pread };

/// One read. Source and bytes belong to the caller and must stay until its Done came or the queue is gone. `shared` keeps alive what `out` points into (and a
/// Source that may not listen to interrupt()): a queue that is given up while the system still holds a read leaves them to it.
struct Read {
  Source* source = nullptr;
  int64_t offset = 0;
  std::span<std::byte> out;
  uint64_t tag = 0;
  std::shared_ptr<void> shared;
};

struct Done {
  uint64_t tag = 0;
  std::exception_ptr error;  ///< Error naming file and offset; none if `out` is filled
};

/// Driven by one thread. Reads end in any order. Not more than depth() should be in flight; more wait inside.
class DSINFER_INTERNAL ReadQueue {
 public:
  virtual ~ReadQueue() = default;  ///< cancels what is in flight, by Source::interrupt() too; takes 2 seconds at most, or 4 where two ways are in use
  virtual void submit(Read read) = 0;
  /// A read that has ended, or nothing if none did by now. Never waits.
  virtual std::optional<Done> poll() = 0;
  /// Sleeps until a read ends, at most `microseconds`.
  virtual void wait(int64_t microseconds) = 0;
  virtual int depth() const = 0;
  /// Alignment of offset, length and address that lets a read of a local file bypass the page cache; 1 where nothing is gained. Unaligned reads are
  /// allowed always: they go through the page cache. An aligned read may reach past the end of the file by less than this.
  virtual int64_t alignment() const = 0;
  /// "io_uring, O_DIRECT", "pread", …: what is in use, for reports.
  virtual std::string text() const = 0;
};

/// `depth` 0: 32 for local files. `remote`: the sources are not local files.
DSINFER_INTERNAL std::unique_ptr<ReadQueue> make_read_queue(IoEngine engine, int depth = 0, bool remote = false);

/// How many of the bytes of [offset, offset + bytes) lie in the page cache, as far as the system tells (sampled). 0 for sources that are not local.
DSINFER_INTERNAL int64_t bytes_in_page_cache(const Source& source, int64_t offset, int64_t bytes);

}  // namespace dsinfer
