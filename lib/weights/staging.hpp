/// Staging: host memory for bytes on their way, within a limit.
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "backend/backend.hpp"

namespace dsinfer {

/// Driven by one thread. The backend lends the memory, and outlives this; a block lives on while the system still writes to it, even if the Staging is gone.
class Staging {
 public:
  /// `least`: bytes of a block at least, where the limit allows: blocks of one size are never given back for others, which takes a while where memory is pinned.
  Staging(Backend& backend, int64_t limit, int64_t least) : backend_(backend), limit_(limit), least_(std::min(least, limit)) {}

  /// Nothing while the limit is reached; a first block is given whatever its size.
  std::shared_ptr<Buffer> take(int64_t bytes) {
    const int64_t rounded = (std::max(bytes, least_) + kGrain - 1) / kGrain * kGrain;
    for (size_t i = 0; i < free_.size(); ++i) {
      if (bytes_of(*free_[i]) < rounded || bytes_of(*free_[i]) > 2 * rounded) continue;
      auto block = std::move(free_[i]);
      free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(i));
      return block;
    }
    while (held_ + rounded > limit_ && !free_.empty()) {
      held_ -= bytes_of(*free_.back());
      free_.pop_back();
    }
    if (held_ > 0 && held_ + rounded > limit_) return nullptr;
    held_ += rounded;
    peak_ = std::max(peak_, held_);
    return std::make_shared<Buffer>(backend_.staging(static_cast<size_t>(rounded)));
  }
  void give_back(std::shared_ptr<Buffer> block) { free_.push_back(std::move(block)); }
  /// Free again when the backend's uploads up to this one have ended, which reclaim() asks for.
  void give_back(std::shared_ptr<Buffer> block, uint64_t upload) {
    last_ = std::max(last_, upload);
    if (backend_.uploaded(upload)) give_back(std::move(block));
    else uploading_.emplace_back(upload, std::move(block));
  }
  /// Whether any block came free.
  bool reclaim() {
    bool any = false;
    for (; !uploading_.empty() && backend_.uploaded(uploading_.front().first); uploading_.pop_front(), any = true) give_back(std::move(uploading_.front().second));
    return any;
  }
  bool uploading() const { return !uploading_.empty(); }
  void await_uploads() {
    backend_.await_upload(last_);
    reclaim();
  }
  int64_t peak() const { return peak_; }

 private:
  static constexpr int64_t kGrain = int64_t{256} << 10;
  static int64_t bytes_of(const Buffer& block) { return static_cast<int64_t>(block.size()); }
  Backend& backend_;
  int64_t limit_, least_, held_ = 0, peak_ = 0;
  uint64_t last_ = 0;
  std::vector<std::shared_ptr<Buffer>> free_;
  std::deque<std::pair<uint64_t, std::shared_ptr<Buffer>>> uploading_;
};

}  // namespace dsinfer
