// What goes between host and device: through pinned memory, in pieces.
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <thread>

#include "backend/backend.hpp"
#include "backend/cuda/device.hpp"

namespace dsinfer::cuda {
namespace {

// A pitch has a limit of 2 GiB, which one row knows nothing of.
void copy_rows(std::byte* to, size_t to_pitch, const std::byte* from, size_t from_pitch, size_t row, size_t rows, cudaMemcpyKind kind, cudaStream_t stream, const char* what) {
  check(rows == 1 ? cudaMemcpyAsync(to, from, row, kind, stream) : cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, row, rows, kind, stream), what);
}

// What the bus alone will read need not be fetched into caches to be overwritten there: a third less for memory to do. `to` is a multiple of 16.
void copy_past_caches(std::byte* to, const std::byte* from, size_t bytes) {
#ifdef __SSE2__
  size_t i = 0;
  for (; i + 64 <= bytes; i += 64) {
    for (size_t j = 0; j < 64; j += 16) _mm_stream_si128(reinterpret_cast<__m128i*>(to + i + j), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i + j)));
  }
  std::memcpy(to + i, from + i, bytes - i);
  _mm_sfence();
#else
  std::memcpy(to, from, bytes);
#endif
}

}  // namespace

Device::Slot& Device::next(std::vector<Slot>& slots, size_t& at) {
  Slot& slot = slots[at];
  at = (at + 1) % slots.size();
  wait(slot.done);
  return slot;
}

// One core copies at a fifth of what the bus takes.
void Device::stage(std::byte* to, const std::byte* from, size_t bytes) {
  constexpr int64_t kShared = int64_t{1} << 20, kGrain = int64_t{256} << 10;
  constexpr unsigned kMostCopiers = 8;  // the rest of the machine reads and decodes meanwhile
  if (static_cast<int64_t>(bytes) < kShared) {
    std::memcpy(to, from, bytes);
    return;
  }
  if (!copiers_) copiers_ = std::make_unique<cpu::ThreadPool>(static_cast<int>(std::clamp(std::thread::hardware_concurrency() / 2, 1u, kMostCopiers)), /*spin=*/true);
  copiers_->parallel_for(static_cast<int64_t>(bytes), kGrain, [&](int64_t begin, int64_t end, int) { copy_past_caches(to + begin, from + begin, static_cast<size_t>(end - begin)); });
}

void Device::upload(std::byte* to, size_t pitch, const std::byte* from, size_t row, size_t rows) {
  ++transfers_;
  if (row == pitch) {
    row *= rows;
    pitch = row;
    rows = 1;
  }
  for (size_t r = 0; r < rows;) {
    if (row > kStaging) {  // a row in pieces
      for (size_t begin = 0; begin < row; begin += kStaging) {
        const size_t bytes = std::min(kStaging, row - begin);
        Slot& slot = next(uploads_, upload_at_);
        stage(slot.host, from + r * row + begin, bytes);
        check(cudaMemcpyAsync(to + r * pitch + begin, slot.host, bytes, cudaMemcpyHostToDevice, stream_), "copy to the device");
        check(cudaEventRecord(slot.done, stream_), "an event");
      }
      ++r;
      continue;
    }
    const size_t count = std::min(rows - r, kStaging / row);
    Slot& slot = next(uploads_, upload_at_);
    stage(slot.host, from + r * row, count * row);
    copy_rows(to + r * pitch, pitch, slot.host, row, row, count, cudaMemcpyHostToDevice, stream_, "copy to the device");
    check(cudaEventRecord(slot.done, stream_), "an event");
    r += count;
  }
}

UploadLane& Device::lane() {
  if (!lane_) lane_ = std::make_shared<UploadLane>(index_);
  return *lane_;
}

void Device::join_uploads() const {
  if (!lane_ahead_) return;
  lane_->lead(stream_);
  lane_ahead_ = false;
}

Buffer Device::staging(size_t bytes) {
  Buffer pinned = lane().pinned(bytes);
  return pinned.data() ? std::move(pinned) : host_pages(bytes);
}

uint64_t Device::upload_staged(std::byte* to, size_t pitch, const std::byte* from, size_t row, size_t rows) {
  if (!UploadLane::is_pinned(from)) {
    upload(to, pitch, from, row, rows);
    return 0;
  }
  ++transfers_;
  UploadLane& uploads = lane();
  if (zeroing_) uploads.follow(stream_);
  zeroing_ = false;
  copy_rows(to, pitch, from, row, row, rows, cudaMemcpyHostToDevice, uploads.stream(), "copy to the device");
  lane_ahead_ = true;
  return uploads.mark();
}

void Device::download(std::byte* to, const std::byte* from, size_t pitch, size_t row, size_t rows) {
  ++transfers_;
  join_uploads();
  if (row == pitch) {
    row *= rows;
    pitch = row;
    rows = 1;
  }
  for (size_t r = 0; r < rows;) {
    const size_t count = std::max<size_t>(1, std::min(rows - r, kStaging / row));
    for (size_t begin = 0; begin < row; begin += kStaging) {
      const size_t bytes = std::min(kStaging, row - begin);
      copy_rows(landing_, bytes, from + r * pitch + begin, pitch, bytes, count, cudaMemcpyDeviceToHost, stream_, "copy to the host");
      check(cudaEventRecord(downloaded_, stream_), "an event");
      wait(downloaded_);
      std::memcpy(to + r * row + begin, landing_, bytes * count);  // whole rows, or a piece of one
    }
    r += count;
  }
  check_faults();
}

void Device::with_parameters(const void* data, size_t bytes, const std::function<void(const void*)>& use) {
  ++transfers_;
  Slot& slot = next(parameters_, parameter_at_);
  std::memcpy(slot.host, data, bytes);
  check(cudaMemcpyAsync(slot.device, slot.host, bytes, cudaMemcpyHostToDevice, stream_), "parameters to the device");
  use(slot.device);
  check(cudaEventRecord(slot.done, stream_), "an event");
}

}  // namespace dsinfer::cuda
