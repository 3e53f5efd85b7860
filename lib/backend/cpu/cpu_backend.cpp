#include "backend/cpu/cpu_backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "backend/cpu/machine.hpp"

namespace dsinfer {
namespace cpu {

void expect(bool fits, const char* op, NamedViews views) {
  if (!fits) refuse_operands(op, views, Place::host);
}

bool is(const TensorView& view, int rank, DType dtype) {
  if (view.rank != rank || view.dtype != dtype || view.place != Place::host) return false;
  if (view.elements() == 0) return true;
  const auto last = static_cast<size_t>(rank - 1);
  return view.data != nullptr && (view.stride[last] == 1 || view.shape[last] == 1);
}

bool is_weight(const Weight& w) { return dsinfer::is_weight(w, is); }

Matrix matrix_of(const Weight& w) {
  Matrix m{w.data.data, w.data.stride[0] * dtype_size(w.data.dtype)};
  if (w.format == Format::fp8_block) {
    m.scale = w.scale.as<float>();
    m.scale_stride = w.scale.stride[0];
    m.block_rows = w.block_rows;
    m.block_cols = w.block_cols;
  }
  return m;
}

// Below about 64 thousand multiplications (some microseconds) handing work over costs more than it saves.
int64_t grain_of(int64_t work) { return std::max<int64_t>(1, 65536 / std::max<int64_t>(1, work)); }

namespace {

int threads_of(const BackendOptions& options) {
  if (options.threads < 0) throw Error(Error::invalid_argument, fmt::format("{} CPU threads asked for; give 0 (all granted cores) or more", options.threads));
  return options.threads > 0 ? options.threads : granted_cores();
}

// Strided copy of up to four dimensions, as three loops around runs of the innermost.
void copy_elements(const TensorView& dst, const TensorView& src) {
  std::array<int64_t, 4> shape{1, 1, 1, 1}, to{}, from{};
  const size_t lead = 4 - std::min<size_t>(dst.rank, 4);
  for (size_t i = lead; i < 4; ++i) {
    shape[i] = dst.shape[i - lead];
    to[i] = dst.stride[i - lead];
    from[i] = src.stride[i - lead];
  }
  const int64_t size = dtype_size(dst.dtype);
  const bool runs = to[3] == 1 && from[3] == 1;
  for (int64_t a = 0; a < shape[0]; ++a) {
    for (int64_t b = 0; b < shape[1]; ++b) {
      for (int64_t c = 0; c < shape[2]; ++c) {
        std::byte* d = dst.data + (a * to[0] + b * to[1] + c * to[2]) * size;
        const std::byte* s = src.data + (a * from[0] + b * from[1] + c * from[2]) * size;
        if (runs) std::memmove(d, s, static_cast<size_t>(shape[3] * size));
        else for (int64_t i = 0; i < shape[3]; ++i) std::memcpy(d + i * to[3] * size, s + i * from[3] * size, static_cast<size_t>(size));
      }
    }
  }
}

}  // namespace
}  // namespace cpu

CpuBackend::CpuBackend(const BackendOptions& options, const cpu::Kernels& kernels)
    : kernels_(kernels), arithmetic_(options.arithmetic), ue8m0_(options.ue8m0),
      pool_(cpu::threads_of(options), cpu::threads_of(options) <= cpu::granted_cores()), scratch_(static_cast<size_t>(pool_.threads())) {}

Buffer CpuBackend::allocate(size_t bytes) {
  // The kernel would promise more than there is and kill the process later; small requests are not worth reading /proc for.
  constexpr size_t kWorthAsking = size_t{1} << 26;
  if (bytes >= kWorthAsking) {
    const size_t left = available_bytes();
    if (bytes > left) {
      throw Error(Error::out_of_memory, fmt::format("the CPU backend needs {} bytes ({:.2f} GB) in one piece, and machine and cgroup leave {} ({:.2f} GB); "
                                                    "use more ranks, a smaller cache, or raise the memory limit",
                                                    bytes, static_cast<double>(bytes) / 1e9, left, static_cast<double>(left) / 1e9));
    }
  }
  return host_buffer(bytes);
}

void CpuBackend::copy(TensorView dst, TensorView src) {
  const bool shapes = dst.rank == src.rank && std::equal(dst.shape.begin(), dst.shape.begin() + std::min<int>(dst.rank, 4), src.shape.begin());
  cpu::expect(shapes && dst.dtype == src.dtype && dst.place == Place::host && src.place == Place::host, "copy", {{"dst", &dst}, {"src", &src}});
  if (dst.elements() > 0) cpu::copy_elements(dst, src);
}

void CpuBackend::zero(TensorView x) {
  if (x.elements() == 0) return;
  cpu::expect(x.place == Place::host && x.contiguous(), "zero", {{"x", &x}});
  std::memset(x.data, 0, static_cast<size_t>(x.bytes()));
}

size_t CpuBackend::available_bytes() const { return cpu::available_memory(); }

float* CpuBackend::scratch(int part, int64_t floats) {
  Buffer& memory = scratch_[static_cast<size_t>(part)].memory;
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  if (memory.size() < bytes) {
    memory = Buffer();
    memory = host_buffer(bytes);
  }
  return reinterpret_cast<float*>(memory.data());
}

}  // namespace dsinfer
