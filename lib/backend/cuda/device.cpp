#include "backend/cuda/device.hpp"

#include <fmt/format.h>

#include <chrono>
#include <thread>

#include "core/wait.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer::cuda {
namespace {

constexpr size_t kUploads = 4, kParameterSlots = 16;
constexpr std::chrono::seconds kStall{120};   // no kernel here runs for a second

const char* fault_text(int32_t kind) {
  switch (kind) {
    case FaultRecord::embed_token: return "embed: token {} of a table of {}";
    case FaultRecord::rope_position: return "rope: position {} outside of a table of {}";
    case FaultRecord::append_page: return "mla_append: a position lies in page {} of a cache of {} pages";
    case FaultRecord::attend_page: return "mla_attend: a position lies in page {} of a cache of {} pages";
    case FaultRecord::gather_page: return "mla_gather: a position lies in page {} of a cache of {} pages";
    case FaultRecord::gather_row: return "gather_rows: row {} of a tensor of {}";
    case FaultRecord::scatter_row: return "scatter_add: row {} of a tensor of {}";
    default: return "a kernel met {} of {}";
  }
}

void check_device(int index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    throw Error(Error::not_found, fmt::format("device cuda: no GPU can be used here ({}); install NVIDIA's driver, or choose device \"cpu\"",
                                              status == cudaSuccess ? "the driver shows none" : cudaGetErrorString(status)));
  }
  if (index >= count) throw Error(Error::not_found, fmt::format("device cuda:{}: the driver shows {} GPUs, numbered from 0", index, count));
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // told here, not again after the next launch
  throw Error(status == cudaErrorMemoryAllocation ? Error::out_of_memory : Error::internal, fmt::format("CUDA: {}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status)));
}

void check_launch(const char* op) {
  const cudaError_t status = cudaGetLastError();
  if (status == cudaErrorNoKernelImageForDevice) {
    throw Error(Error::unsupported, fmt::format("CUDA: {}: this GPU's architecture has no code in libdsinfer_cuda; build it with -DDSINFER_CUDA_ARCHITECTURES=… for this GPU", op));
  }
  check(status, op);
}

Current::Current(int device) {
  int now = -1;
  check(cudaGetDevice(&now), "the current device");
  if (now == device) return;
  check(cudaSetDevice(device), "choosing a device");
  before_ = now;
}
Current::~Current() {
  if (before_ >= 0) cudaSetDevice(before_);
}

Device::Device(int index) : index_(index) {
  check_device(index);
  const Current current(index);
  check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, index), "the number of multiprocessors");
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "the compute capability");
  if (major < 8) {
    throw Error(Error::unsupported, fmt::format("device cuda:{} has compute capability {}.x, expected 8.0 or later (A100, H100 and their like)", index, major));
  }
  try {
    make();
  } catch (...) {
    release();
    throw;
  }
}

void Device::make() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  check(cudaEventCreateWithFlags(&downloaded_, cudaEventDisableTiming), "an event");
  check(cudaMalloc(reinterpret_cast<void**>(&elected_), sizeof *elected_), "memory for reports");
  check(cudaMemsetAsync(elected_, 0, sizeof *elected_, stream_), "memory for reports");
  check(cudaHostAlloc(reinterpret_cast<void**>(&record_), sizeof *record_, cudaHostAllocMapped), "memory for reports");
  *record_ = {};
  check(cudaHostAlloc(reinterpret_cast<void**>(&landing_), kStaging, cudaHostAllocDefault), "pinned memory");
  const auto slots = [](std::vector<Slot>& all, size_t count, size_t bytes, bool device) {
    for (size_t i = 0; i < count; ++i) {
      Slot& slot = all.emplace_back();
      check(cudaHostAlloc(reinterpret_cast<void**>(&slot.host), bytes, cudaHostAllocDefault), "pinned memory");
      if (device) check(cudaMalloc(reinterpret_cast<void**>(&slot.device), bytes), "memory for parameters");
      check(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming), "an event");
    }
  };
  slots(uploads_, kUploads, kStaging, false);
  slots(parameters_, kParameterSlots, kParameterBytes, true);
}

Device::~Device() {
  int before = -1;
  cudaGetDevice(&before);
  cudaSetDevice(index_);
  release();
  cudaSetDevice(before);
}

// What there is of it: the constructor may have come to an end before all was made.
void Device::release() {
  for (auto* slots : {&uploads_, &parameters_}) {
    for (Slot& slot : *slots) {
      cudaFreeHost(slot.host);
      cudaFree(slot.device);
      if (slot.done) cudaEventDestroy(slot.done);
    }
  }
  cudaFreeHost(landing_);
  cudaFreeHost(record_);
  cudaFree(elected_);
  if (downloaded_) cudaEventDestroy(downloaded_);
  if (stream_) cudaStreamDestroy(stream_);
}

Buffer Device::allocate(size_t bytes) {
  if (bytes == 0) return {};
  ++transfers_;
  std::byte* memory = nullptr;
  const cudaError_t status = cudaMalloc(reinterpret_cast<void**>(&memory), bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    const size_t left = free_bytes();
    throw Error(Error::out_of_memory, fmt::format("device cuda:{} needs {} bytes ({:.2f} GB) in one piece, {} ({:.2f} GB) are free; use more ranks or a smaller cache, or free memory", index_, bytes,
                                                  static_cast<double>(bytes) / 1e9, left, static_cast<double>(left) / 1e9));
  }
  check(status, "memory");
  const int device = index_;
  Buffer buffer(memory, bytes, Place::device, [device](std::byte* p) {
    int before = -1;
    cudaGetDevice(&before);
    cudaSetDevice(device);
    cudaFree(p);
    cudaSetDevice(before);
  });
  check(cudaMemsetAsync(memory, 0, bytes, stream_), "zeroing memory");
  zeroing_ = true;
  return buffer;
}

size_t Device::free_bytes() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "free memory");
  return free;
}

void wait_for(cudaEvent_t event, int device) {
  // A step's answer is waited for awake: a sleep comes to an end 50 to 100 µs late, a twentieth of a small step.
  constexpr std::chrono::milliseconds kAwake{20};
  Backoff backoff(std::chrono::microseconds(50));
  const auto started = std::chrono::steady_clock::now();
  for (int round = 0;; ++round) {
    const cudaError_t status = cudaEventQuery(event);
    if (status == cudaSuccess) return;
    if (status != cudaErrorNotReady) check(status, "work on the device");
    if (round % 1024 == 1023 && std::chrono::steady_clock::now() - started > kStall) {
      throw Error(Error::stalled, fmt::format("device cuda:{}: its stream has not moved for {} s", device, kStall.count()));
    }
    if (std::chrono::steady_clock::now() - started < kAwake) std::this_thread::yield();
    else backoff.pause();
  }
}

void Device::finish() {
  join_uploads();
  check(cudaEventRecord(downloaded_, stream_), "an event");
  wait(downloaded_);
  check_faults();
}

void Device::check_faults() {
  if (record_->kind == FaultRecord::none) return;
  const FaultRecord found = *record_;
  *record_ = {};
  check(cudaMemsetAsync(elected_, 0, sizeof *elected_, stream_), "memory for reports");
  throw Error(Error::internal, fmt::format(fmt::runtime(fault_text(found.kind)), found.value, found.limit));
}

}  // namespace dsinfer::cuda
