#include "backend/cuda/cuda_backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backend/cuda/hopper_blocks.hpp"

namespace dsinfer {
namespace cuda {

void expect(bool fits, const char* op, NamedViews views) {
  if (!fits) refuse_operands(op, views, Place::device);
}

bool is(const TensorView& view, int rank, DType dtype) {
  if (view.rank != rank || view.dtype != dtype) return false;
  if (view.elements() == 0) return true;
  const auto last = static_cast<size_t>(rank - 1);
  return view.place == Place::device && view.data != nullptr && (view.stride[last] == 1 || view.shape[last] == 1);
}

bool is_weight(const Weight& w) {
  constexpr int64_t kMost = INT32_MAX;  // kernels count outputs and depth in 32 bits
  if (w.data.rank != 2 || w.out_dim() > kMost || w.in_dim() > kMost) return false;
  return dsinfer::is_weight(w, is);
}

LinearWeight memory_of(const Weight& w) {
  return {w.data.data, w.scale.data, w.zeros ? reinterpret_cast<const uint8_t*>(w.zeros.data) : nullptr};
}

LinearShape shape_of(const Weight& w) {
  const bool blocked = w.format == Format::fp8_block || w.format == Format::int4_group;
  LinearShape s{};
  s.format = w.format;
  s.scale_dtype = blocked ? w.scale.dtype : DType::f32;
  s.stride = w.data.stride[0] * dtype_size(w.data.dtype);
  s.scale_stride = blocked ? w.scale.stride[0] : 0;
  s.n = static_cast<int32_t>(w.out_dim());
  s.k = static_cast<int32_t>(w.in_dim());
  s.block_rows = blocked ? static_cast<int32_t>(std::min<int64_t>(w.block_rows, INT32_MAX)) : 1;
  s.block_cols = blocked ? static_cast<int32_t>(std::min<int64_t>(w.block_cols, INT32_MAX)) : std::max(s.k, 1);
  const int per_load = w.format == Format::int4_group ? 32 : 16 / static_cast<int>(dtype_size(w.data.dtype));
  s.aligned = reinterpret_cast<uintptr_t>(w.data.data) % 16 == 0 && s.stride % 16 == 0 && s.k % per_load == 0 && (!blocked || s.block_cols % per_load == 0);
  return s;
}

}  // namespace cuda

namespace {

// Four dimensions for any rank, leading ones 1; strides in elements.
struct Four {
  int64_t shape[4] = {1, 1, 1, 1}, stride[4] = {};
  explicit Four(const TensorView& v) {
    for (int i = 0; i < v.rank; ++i) {
      shape[4 - v.rank + i] = v.dim(i);
      stride[4 - v.rank + i] = v.stride[static_cast<size_t>(i)];
    }
  }
};

// Calls move(device, host, pitch, row bytes, rows) for each run of rows of a strided device view; the host side is dense. All in bytes.
template <class Move> void by_rows(const TensorView& device, std::byte* host, const Move& move) {
  const Four v(device);
  const auto size = static_cast<size_t>(dtype_size(device.dtype));
  if (device.contiguous()) return move(device.data, host, static_cast<size_t>(device.bytes()), static_cast<size_t>(device.bytes()), size_t{1});
  const bool dense_rows = v.stride[3] == 1 || v.shape[3] == 1;
  const size_t row = dense_rows ? static_cast<size_t>(v.shape[3]) * size : size;
  const size_t rows = static_cast<size_t>(dense_rows ? v.shape[2] : v.shape[3]), pitch = static_cast<size_t>(dense_rows ? v.stride[2] : v.stride[3]) * size;
  for (int64_t a = 0; a < v.shape[0]; ++a) {
    for (int64_t b = 0; b < v.shape[1]; ++b) {
      for (int64_t c = 0; c < (dense_rows ? 1 : v.shape[2]); ++c) {
        std::byte* at = device.data + (a * v.stride[0] + b * v.stride[1] + c * v.stride[2]) * static_cast<int64_t>(size);
        if (rows == 1) move(at, host, row, row, size_t{1});
        else move(at, host, pitch, row, rows);
        host += row * rows;
      }
    }
  }
}

void copy_on_host(const TensorView& dst, const TensorView& src) {
  const Four to(dst), from(src);
  const int64_t size = dtype_size(dst.dtype);
  for (int64_t a = 0; a < to.shape[0]; ++a)
    for (int64_t b = 0; b < to.shape[1]; ++b)
      for (int64_t c = 0; c < to.shape[2]; ++c)
        for (int64_t d = 0; d < to.shape[3]; ++d)
          std::memmove(dst.data + (a * to.stride[0] + b * to.stride[1] + c * to.stride[2] + d * to.stride[3]) * size,
                       src.data + (a * from.stride[0] + b * from.stride[1] + c * from.stride[2] + d * from.stride[3]) * size, static_cast<size_t>(size));
}

// A dense host view of the same shape over other memory.
TensorView dense_over(const TensorView& view, std::byte* memory) {
  TensorView v = view;
  v.data = memory;
  v.place = Place::host;
  int64_t step = 1;
  for (size_t i = view.rank; i-- > 0;) {
    v.stride[i] = step;
    step *= v.shape[i];
  }
  return v;
}

}  // namespace

CudaBackend::CudaBackend(int device, const BackendOptions& options) : device_(device), arithmetic_(options.arithmetic), ue8m0_(options.ue8m0), graphs_(device_) {
  const cuda::Current current(device_.index());
  tiles_ = device_.allocate(kTileBytes);
  partials_ = device_.allocate(cuda::mla_partial_bytes(device_.multiprocessors()));
  survey_ = device_.allocate(cuda::kSurveyRows * cuda::kSurveyRowBytes);
}

void CudaBackend::run(const StepKey& key, const std::function<void()>& step) {
  const cuda::Current current(device_.index());
  graphs_.run(key, step);
}

// Powers of two and, from 8 on, what lies halfway between them: little padding and few graphs.
int64_t CudaBackend::padded_rows(int64_t rows) const {
  if (rows <= 0) return 0;
  int64_t power = 1;
  while (power < rows) power *= 2;
  return power >= 16 && rows <= power / 4 * 3 ? power / 4 * 3 : power;
}

std::unique_ptr<Blocks> CudaBackend::make_blocks(const BlockDims& dims) {
  if (arithmetic_ != Arithmetic::w8a8) return nullptr;
  const cuda::Current current(device_.index());
  std::unique_ptr<Blocks> blocks = cuda::make_hopper_blocks(device_, dims, ue8m0_);
  if (!blocks && dims.block_rows > 0) reserve_quantised(dims);
  return blocks;
}

// Room for the widest activations that a step of so many rows quantises, before anybody asks what memory is left.
void CudaBackend::reserve_quantised(const BlockDims& d) {
  const int64_t row = std::max({d.hidden, d.q_lora_rank, d.heads * d.value, d.dense_inter, d.shared_inter, std::min(d.gate.top_k, d.own_experts) * d.moe_inter});
  const auto bytes = static_cast<size_t>(d.max_tokens * row) * sizeof(float);
  if (quantised_.empty() && bytes > 0 && bytes <= device_.free_bytes()) quantised_.push_back(device_.allocate(bytes));
}

Buffer CudaBackend::allocate(size_t bytes) {
  const cuda::Current current(device_.index());
  return device_.allocate(bytes);
}

size_t CudaBackend::available_bytes() const {
  const cuda::Current current(device_.index());
  return device_.free_bytes();
}

void CudaBackend::copy(TensorView dst, TensorView src) {
  const bool shapes = dst.rank == src.rank && std::equal(dst.shape.begin(), dst.shape.begin() + std::min<int>(dst.rank, 4), src.shape.begin());
  cuda::expect(shapes && dst.dtype == src.dtype, "copy", {{"dst", &dst}, {"src", &src}});
  if (dst.elements() == 0) return;
  const cuda::Current current(device_.index());
  const bool to_device = dst.place == Place::device, from_device = src.place == Place::device;
  if (to_device && from_device) {
    if (dst.contiguous() && src.contiguous()) {
      return cuda::check(cudaMemcpyAsync(dst.data, src.data, static_cast<size_t>(dst.bytes()), cudaMemcpyDeviceToDevice, device_.stream()), "copy on the device");
    }
    const Four to(dst), from(src);
    cuda::StridedCopy strided{dst.data, src.data, {}, {}, {}, static_cast<int32_t>(dtype_size(dst.dtype))};
    std::copy_n(to.shape, 4, strided.shape);
    std::copy_n(to.stride, 4, strided.to_stride);
    std::copy_n(from.stride, 4, strided.from_stride);
    return cuda::copy_strided(strided, device_.stream());
  }
  if (!to_device && !from_device) return copy_on_host(dst, src);
  // The host side goes dense; most often it is.
  const TensorView& host = to_device ? src : dst;
  std::vector<std::byte> packed;
  TensorView dense = host;
  if (!host.contiguous()) {
    packed.resize(static_cast<size_t>(host.bytes()));
    dense = dense_over(host, packed.data());
  }
  if (to_device) {
    if (!packed.empty()) copy_on_host(dense, src);
    by_rows(dst, dense.data, [&](std::byte* device, std::byte* from, size_t pitch, size_t row, size_t rows) { device_.upload(device, pitch, from, row, rows); });
  } else {
    by_rows(src, dense.data, [&](std::byte* device, std::byte* to, size_t pitch, size_t row, size_t rows) { device_.download(to, device, pitch, row, rows); });
    if (!packed.empty()) copy_on_host(dst, dense);
  }
}

Buffer CudaBackend::staging(size_t bytes) {
  const cuda::Current current(device_.index());
  return device_.staging(bytes);
}

uint64_t CudaBackend::upload(TensorView dst, TensorView src) {
  if (dst.place != Place::device || src.place != Place::host || !src.contiguous() || dst.dtype != src.dtype || dst.bytes() != src.bytes() || dst.elements() == 0) {
    copy(dst, src);
    return 0;
  }
  const cuda::Current current(device_.index());
  uint64_t last = 0;
  by_rows(dst, src.data, [&](std::byte* device, std::byte* from, size_t pitch, size_t row, size_t rows) { last = device_.upload_staged(device, pitch, from, row, rows); });
  return last;
}

bool CudaBackend::uploaded(uint64_t number) {
  const cuda::Current current(device_.index());
  return device_.uploaded(number);
}

void CudaBackend::await_upload(uint64_t number) {
  const cuda::Current current(device_.index());
  device_.await_upload(number);
}

void CudaBackend::zero(TensorView x) {
  if (x.elements() == 0) return;
  cuda::expect(x.place == Place::device && x.contiguous(), "zero", {{"x", &x}});
  const cuda::Current current(device_.index());
  cuda::check(cudaMemsetAsync(x.data, 0, static_cast<size_t>(x.bytes()), device_.stream()), "zero");
}

}  // namespace dsinfer
