/// UploadLane: copies from pinned host memory to the device on a stream of their own, beside whatever else the device does.
#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <memory>

#include "core/buffer.hpp"

namespace dsinfer::cuda {

/// Driven by one thread; the device must be current. Copies are numbered from 1 on, and end in that order.
class UploadLane : public std::enable_shared_from_this<UploadLane> {
 public:
  explicit UploadLane(int device);
  ~UploadLane();
  UploadLane(const UploadLane&) = delete;
  UploadLane& operator=(const UploadLane&) = delete;

  /// Pinned memory, which begins with a page; nothing where the system pins no more. It keeps the lane, may be given back on any thread, and waits for the copies then.
  Buffer pinned(size_t bytes);
  static bool is_pinned(const std::byte* memory);

  /// Where a copy is asked for; mark() then gives its number.
  cudaStream_t stream() const { return stream_; }
  uint64_t mark();
  bool ended(uint64_t number);
  void await(uint64_t number);

  /// What this lane is asked for from now on waits for what `other` was asked for by now, and the other way round.
  void follow(cudaStream_t other);
  void lead(cudaStream_t other) const;

 private:
  /// Waits for all copies. False: the device does not answer, so that memory which they may still read has to stay.
  bool drained() const;
  void release();
  static constexpr size_t kEvents = 64;  // copies under way, at most
  cudaEvent_t event(uint64_t number) const { return events_[number % kEvents]; }

  int device_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t before_ = nullptr;
  std::array<cudaEvent_t, kEvents> events_{};
  uint64_t begun_ = 0, ended_ = 0;
  mutable std::atomic<bool> stuck_ = false;  // waited for in vain: every other block would wait as long
};

}  // namespace dsinfer::cuda
