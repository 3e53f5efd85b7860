/// One GPU as a backend holds it: its stream, memory, pinned staging between host and device, and the place where kernels report what cannot be.
#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/thread_pool.hpp"
#include "backend/cuda/kernels.hpp"
#include "backend/cuda/upload_lane.hpp"
#include "core/buffer.hpp"

namespace dsinfer::cuda {

/// Makes a device current on this thread, and what was current again at its end.
class Current {
 public:
  explicit Current(int device);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  int before_ = -1;
};

/// Returns when what was asked for before the event has ended. Throws what it failed with, or stalled.
void wait_for(cudaEvent_t event, int device);

/// Driven by one thread at a time; the device must be current.
class Device {
 public:
  /// Throws not_found where there is no driver, no GPU of that number, or one that this build has no code for.
  explicit Device(int index);
  ~Device();

  int index() const { return index_; }
  int multiprocessors() const { return multiprocessors_; }
  /// For work that follows: it comes after what was uploaded by now.
  cudaStream_t stream() const {
    if (lane_ahead_) join_uploads();
    return stream_;
  }
  FaultSink fault_sink() const { return {elected_, record_}; }

  /// Zeroed. Throws out_of_memory.
  Buffer allocate(size_t bytes);
  size_t free_bytes() const;

  /// `bytes` bytes in rows of `row` dense bytes on the host side, `pitch` bytes apart on the device. The source may change on return.
  void upload(std::byte* to, size_t pitch, const std::byte* from, size_t row, size_t rows);
  /// Pinned host memory where the system has some left, else plain. May outlive the device.
  Buffer staging(size_t bytes);
  /// As upload() from pinned memory, on a stream of its own: what stream() is asked for afterwards comes after it, the source stays until uploaded() of the number
  /// given. 0: the source was not pinned, and may change.
  uint64_t upload_staged(std::byte* to, size_t pitch, const std::byte* from, size_t row, size_t rows);
  bool uploaded(uint64_t number) { return !lane_ || lane_->ended(number); }
  void await_upload(uint64_t number) { if (lane_) lane_->await(number); }
  /// All work of the stream before it has ended on return. Throws what kernels reported.
  void download(std::byte* to, const std::byte* from, size_t pitch, size_t row, size_t rows);
  /// Waits for the stream, then throws what kernels reported.
  void finish();

  /// How often anything went between host and device: a step in which this moved cannot be replayed.
  uint64_t transfers() const { return transfers_; }

  /// A copy of `bytes` for one launch: `use` gets it in device memory and starts the work that reads it. At most kParameterBytes.
  static constexpr size_t kParameterBytes = size_t{256} << 10;
  void with_parameters(const void* data, size_t bytes, const std::function<void(const void*)>& use);

 private:
  struct Slot {
    std::byte *host = nullptr, *device = nullptr;
    cudaEvent_t done = nullptr;  ///< recorded when what the slot holds is no longer needed
  };
  static constexpr size_t kStaging = size_t{4} << 20;  ///< a pinned block: large enough for the bus to run at speed
  void make();
  void release();
  void wait(cudaEvent_t event) { wait_for(event, index_); }
  UploadLane& lane();
  void join_uploads() const;
  void stage(std::byte* to, const std::byte* from, size_t bytes);
  Slot& next(std::vector<Slot>& slots, size_t& at);
  void check_faults();

  int index_, multiprocessors_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t downloaded_ = nullptr;
  int32_t* elected_ = nullptr;
  FaultRecord* record_ = nullptr;
  std::byte* landing_ = nullptr;           // pinned, for downloads
  std::vector<Slot> uploads_, parameters_;
  size_t upload_at_ = 0, parameter_at_ = 0;
  uint64_t transfers_ = 0;
  std::shared_ptr<UploadLane> lane_;       // from the first staging or upload on
  mutable bool lane_ahead_ = false;        // the stream does not know yet of what it uploaded
  bool zeroing_ = false;                   // of memory that the lane does not know of yet
  std::unique_ptr<cpu::ThreadPool> copiers_;  // of large uploads, from the first on
};

}  // namespace dsinfer::cuda
