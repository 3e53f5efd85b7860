/// Staging: aligned host memory for bytes on their way, within a limit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace dsinfer {

/// A block that goes back to where it came from. Its memory lives on while the system still writes to it, even if the Staging is gone.
class StagingBlock {
 public:
  static constexpr size_t kAlign = 4096;
  explicit StagingBlock(int64_t bytes) : bytes_(bytes), data_(static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), std::align_val_t(kAlign)))) {}
  StagingBlock(const StagingBlock&) = delete;
  StagingBlock& operator=(const StagingBlock&) = delete;
  ~StagingBlock() { ::operator delete(data_, std::align_val_t(kAlign)); }
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  std::byte* data_;
};

/// Driven by one thread.
class Staging {
 public:
  explicit Staging(int64_t limit) : limit_(limit) {}
  /// Nothing while the limit is reached; a first block is given whatever its size.
  std::shared_ptr<StagingBlock> take(int64_t bytes) {
    const int64_t rounded = (bytes + kGrain - 1) / kGrain * kGrain;
    for (size_t i = 0; i < free_.size(); ++i) {
      if (free_[i]->bytes() < rounded || free_[i]->bytes() > 2 * rounded) continue;
      auto block = std::move(free_[i]);
      free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(i));
      return block;
    }
    while (held_ + rounded > limit_ && !free_.empty()) {
      held_ -= free_.back()->bytes();
      free_.pop_back();
    }
    if (held_ > 0 && held_ + rounded > limit_) return nullptr;
    held_ += rounded;
    peak_ = held_ > peak_ ? held_ : peak_;
    return std::make_shared<StagingBlock>(rounded);
  }
  void give_back(std::shared_ptr<StagingBlock> block) { free_.push_back(std::move(block)); }
  int64_t peak() const { return peak_; }

 private:
  static constexpr int64_t kGrain = int64_t{256} << 10;
  int64_t limit_, held_ = 0, peak_ = 0;
  std::vector<std::shared_ptr<StagingBlock>> free_;
};

}  // namespace dsinfer
