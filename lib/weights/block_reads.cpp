#include "weights/block_reads.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/wait.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kSleep = 20'000;  // µs between two polls while nothing comes

int64_t down(int64_t value, int64_t step) { return value / step * step; }
int64_t up(int64_t value, int64_t step) { return down(value + step - 1, step); }

// What the system may still write to after the queue is gone.
struct Held {
  std::shared_ptr<Source> source;
  std::shared_ptr<void> memory;
};

}  // namespace

BlockReads::BlockReads(IoEngine engine, int depth, bool remote, int64_t longest, int64_t staging, std::chrono::milliseconds stall, Backend* lender)
    : longest_(std::max<int64_t>(longest, 1)), stall_(stall), lender_(lender), queue_(make_read_queue(engine, depth, remote)) {
  const int64_t slots = std::clamp<int64_t>(staging / (longest_ + 2 * queue_->alignment()), 1, queue_->depth());
  slots_.resize(static_cast<size_t>(slots));
  idle_.resize(slots_.size());
  std::iota(idle_.rbegin(), idle_.rend(), size_t{0});
}

void BlockReads::start(Slot& slot, size_t tag) {
  const int64_t alignment = queue_->alignment();
  const BlockRead& read = slot.read;
  const bool placed = read.into && read.offset % alignment == 0 && reinterpret_cast<uintptr_t>(read.into) % static_cast<uintptr_t>(alignment) == 0;
  int64_t begin = read.offset, end = read.offset + read.bytes;
  std::byte* out = read.into;
  if (!placed) {
    if (!slot.memory) {
      const auto bytes = static_cast<size_t>(up(longest_, alignment) + 2 * alignment);
      slot.memory = std::make_shared<Buffer>(lender_ ? lender_->staging(bytes) : host_pages(bytes));
      staging_bytes_ += static_cast<int64_t>(slot.memory->size());
    }
    begin = down(begin, alignment);
    end = up(end, alignment);
    out = slot.memory->data();
  }
  slot.bytes = {out + (read.offset - begin), static_cast<size_t>(read.bytes)};
  const std::shared_ptr<void> memory = placed ? read.keeps : std::shared_ptr<void>(slot.memory);
  queue_->submit({read.source.get(), begin, {out, static_cast<size_t>(end - begin)}, tag, std::make_shared<Held>(Held{read.source, memory})});
}

void BlockReads::run(size_t count, const Next& next, const Look& look, const std::function<void()>& poll) {
  size_t asked = 0;
  while (asked < count || idle_.size() < slots_.size()) {
    reclaim();
    while (asked < count && !idle_.empty()) {
      const size_t tag = idle_.back();
      Slot& slot = slots_[tag];
      slot.block = asked;
      slot.read = next(asked++);
      if (!slot.read.source) {
        if (poll) poll();
        continue;
      }
      idle_.pop_back();
      start(slot, tag);
    }
    if (idle_.size() == slots_.size()) continue;
    if (const std::optional<Done> done = queue_->poll()) end(*done, look);
    else if (idle_.size() + uploading_.size() == slots_.size()) lender_->await_upload(uploading_.front().first);
    else wait();
    if (poll) poll();
  }
}

void BlockReads::end(const Done& done, const Look& look) {
  Slot& slot = slots_[done.tag];
  silent_ = {};
  if (!done.error && slot.read.into && slot.bytes.data() != slot.read.into) std::copy(slot.bytes.begin(), slot.bytes.end(), slot.read.into);
  kept_ = 0;
  look(slot.block, done.error ? std::span<const std::byte>() : slot.bytes, done.error);
  slot.read = {};
  if (kept_ > 0) uploading_.emplace_back(kept_, done.tag);
  else idle_.push_back(done.tag);
  last_ = Clock::now();
}

void BlockReads::reclaim() {
  for (; !uploading_.empty() && lender_->uploaded(uploading_.front().first); uploading_.pop_front()) idle_.push_back(uploading_.front().second);
}

// A gap in our own running is not the disk's silence.
void BlockReads::wait() {
  queue_->wait(kSleep);
  const Clock::time_point now = Clock::now();
  silent_ += std::min<Clock::duration>(now - last_, stall_ / 4);
  last_ = now;
  if (silent_ >= stall_) throw_stalled();
}

void BlockReads::throw_stalled() const {
  for (const Slot& slot : slots_)
    if (slot.read.source)
      throw Error(Error::stalled, fmt::format("{}{:g} s while reading {} bytes at {} of {}: the disk or the connection is stuck; if it is only slow, raise the stall limit", kStallWords,
                                              static_cast<double>(stall_.count()) / 1000, slot.read.bytes, slot.read.offset, slot.read.source->name()));
  throw Error(Error::internal, "nothing is being read");
}

}  // namespace dsinfer
