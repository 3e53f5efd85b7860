/// BlockReads: many blocks of files through a ReadQueue, each looked at as it comes. For what needs every byte once and in no order: checks and shard caches.
#pragma once
#include <chrono>
#include <deque>
#include <functional>
#include <memory>

#include "backend/backend.hpp"
#include "storage/read_queue.hpp"

namespace dsinfer {

struct BlockRead {
  std::shared_ptr<Source> source;  ///< none: nothing to read, the block is skipped
  int64_t offset = 0, bytes = 0;
  std::byte* into = nullptr;       ///< where it shall stay; none: in staging memory, until it was looked at
  std::shared_ptr<void> keeps;     ///< what `into` points into
};

class DSINFER_INTERNAL BlockReads {
 public:
  using Next = std::function<BlockRead(size_t)>;
  using Look = std::function<void(size_t, std::span<const std::byte>, const std::exception_ptr&)>;

  /// `longest`: bytes of the longest block. `staging`: memory of all blocks on their way, at most; one block at least. `lender`: the backend that lends it, if one
  /// uploads from it; outlives this.
  BlockReads(IoEngine engine, int depth, bool remote, int64_t longest, int64_t staging, std::chrono::milliseconds stall, Backend* lender = nullptr);
  /// Asks for blocks 0 … count-1, in this order, and hands on each with its bytes or its error, in any order. A skipped block is not looked at. `poll` is called
  /// after each block and at least every 20 ms; what it and `look` throw ends everything. Throws stalled naming what is awaited if nothing comes.
  void run(size_t count, const Next& next, const Look& look, const std::function<void()>& poll);
  /// Of a look: its bytes, in staging memory, stay as they are until the lender's uploads up to this one have ended. They have when run() returns.
  void keep(uint64_t upload) { kept_ = upload; }
  std::string text() const { return queue_->text(); }
  /// Staging memory in use.
  int64_t staging_bytes() const { return staging_bytes_; }

 private:
  struct Slot {
    BlockRead read;
    size_t block = 0;
    std::span<std::byte> bytes;
    std::shared_ptr<Buffer> memory;  // made when first needed
  };
  using Clock = std::chrono::steady_clock;
  void start(Slot& slot, size_t tag);
  void end(const Done& done, const Look& look);
  void reclaim();
  void wait();
  [[noreturn]] void throw_stalled() const;

  int64_t longest_, staging_bytes_ = 0;
  std::chrono::milliseconds stall_;
  std::vector<Slot> slots_;
  Backend* lender_;
  std::vector<size_t> idle_;
  std::deque<std::pair<uint64_t, size_t>> uploading_;  // slots that are still read from
  uint64_t kept_ = 0;
  Clock::time_point last_ = Clock::now();
  Clock::duration silent_{};
  std::unique_ptr<ReadQueue> queue_;  // goes first: it may still write into the slots' memory
};

}  // namespace dsinfer
