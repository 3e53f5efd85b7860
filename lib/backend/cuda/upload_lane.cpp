#include "backend/cuda/upload_lane.hpp"

#include <algorithm>

#include "backend/cuda/device.hpp"

namespace dsinfer::cuda {

UploadLane::UploadLane(int device) : device_(device) {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream for uploads");
  cudaError_t status = cudaEventCreateWithFlags(&before_, cudaEventDisableTiming);
  for (cudaEvent_t& event : events_)
    if (status == cudaSuccess) status = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  if (status == cudaSuccess) return;
  release();
  check(status, "events of uploads");
}

UploadLane::~UploadLane() { release(); }

// What there is of it: the constructor may have come to an end before all was made.
void UploadLane::release() {
  for (cudaEvent_t event : events_)
    if (event) cudaEventDestroy(event);
  if (before_) cudaEventDestroy(before_);
  if (stream_) cudaStreamDestroy(stream_);
}

Buffer UploadLane::pinned(size_t bytes) {
  std::byte* memory = nullptr;
  if (bytes == 0 || cudaHostAlloc(reinterpret_cast<void**>(&memory), bytes, cudaHostAllocDefault) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  return Buffer(memory, bytes, Place::host, [lane = shared_from_this()](std::byte* p) {
    int before = -1;
    cudaGetDevice(&before);
    cudaSetDevice(lane->device_);
    if (lane->drained()) cudaFreeHost(p);
    cudaSetDevice(before);
  });
}

bool UploadLane::drained() const {
  if (stuck_) return false;
  cudaEvent_t last = nullptr;
  bool ended = false;
  if (cudaEventCreateWithFlags(&last, cudaEventDisableTiming) == cudaSuccess && cudaEventRecord(last, stream_) == cudaSuccess) {
    try {
      wait_for(last, device_);
      ended = true;
    } catch (...) {  // whoever gives memory back cannot be told
    }
  }
  if (last) cudaEventDestroy(last);
  if (!ended) stuck_ = true;
  return ended;
}

bool UploadLane::is_pinned(const std::byte* memory) {
  cudaPointerAttributes found{};
  if (cudaPointerGetAttributes(&found, memory) == cudaSuccess) return found.type == cudaMemoryTypeHost;
  cudaGetLastError();
  return false;
}

uint64_t UploadLane::mark() {
  const uint64_t number = begun_ + 1;
  if (number > kEvents) await(number - kEvents);
  check(cudaEventRecord(event(number), stream_), "an event");
  return begun_ = number;
}

bool UploadLane::ended(uint64_t number) {
  while (ended_ < number && ended_ < begun_) {
    const cudaError_t status = cudaEventQuery(event(ended_ + 1));
    if (status == cudaErrorNotReady) return false;
    check(status, "copy to the device");
    ++ended_;
  }
  return true;
}

void UploadLane::await(uint64_t number) {
  if (ended(number)) return;
  wait_for(event(number), device_);
  ended_ = std::max(ended_, number);  // else mark() would record again the event that ended() asks about
}

void UploadLane::follow(cudaStream_t other) {
  check(cudaEventRecord(before_, other), "an event");
  check(cudaStreamWaitEvent(stream_, before_), "the order of streams");
}

void UploadLane::lead(cudaStream_t other) const {
  if (begun_ > 0) check(cudaStreamWaitEvent(other, event(begun_)), "the order of streams");
}

}  // namespace dsinfer::cuda
