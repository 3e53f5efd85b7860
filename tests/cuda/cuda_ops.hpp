/// The fixture of the tests that hold the CUDA backend to the CPU's.
#pragma once
#include <algorithm>

#include "ops.hpp"

namespace dsinfer {

class CudaOps : public Ops {
 protected:
  // The same operation on both; what `run` returns of each.
  using Run = std::function<std::vector<float>(Backend&)>;
  void expect_alike(const Run& run, double l2, double peak, const BackendOptions& options = {}) {
    const auto ours = GetParam().make(options);
    CpuBackend reference(options);
    expect_close(run(*ours), run(reference), l2, peak);
  }
  // Tensors on any backend, of this fixture's random numbers. They live until the test ends.
  TensorView put(Backend& b, const void* data, std::initializer_list<int64_t> dims, DType dtype) {
    TensorView host(const_cast<void*>(data), dtype, dims);
    held.push_back(b.allocate(static_cast<size_t>(std::max<int64_t>(host.bytes(), 1))));
    const TensorView v = held.back().view(dtype, dims);
    b.copy(v, host);
    return v;
  }
  TensorView put(Backend& b, const std::vector<float>& v, std::initializer_list<int64_t> dims) { return put(b, v.data(), dims, DType::f32); }
  TensorView put(Backend& b, const std::vector<int32_t>& v, std::initializer_list<int64_t> dims) { return put(b, v.data(), dims, DType::i32); }
  TensorView room(Backend& b, std::initializer_list<int64_t> dims) {
    std::vector<float> poison(static_cast<size_t>(TensorView(nullptr, DType::f32, dims).elements()), std::nanf(""));
    return put(b, poison, dims);
  }
  static std::vector<float> take(Backend& b, const TensorView& v) {
    std::vector<float> out(static_cast<size_t>(v.elements()));
    TensorView host = v;
    host.data = reinterpret_cast<std::byte*>(out.data());
    host.place = Place::host;
    b.copy(host, v);
    return out;
  }
  // Random codes (no NaN) with scales of a checkpoint's size.
  Weight fp8(Backend& b, const std::vector<uint8_t>& codes, const std::vector<float>& scales, int64_t n, int64_t k) {
    Weight w;
    w.format = Format::fp8_block;
    w.data = put(b, codes.data(), {n, k}, DType::e4m3);
    w.scale = put(b, scales, {(n + 127) / 128, (k + 127) / 128});
    return w;
  }
  std::vector<uint8_t> codes(int64_t count) {
    std::vector<uint8_t> c(static_cast<size_t>(count));
    for (uint8_t& x : c) do x = static_cast<uint8_t>(random()); while ((x & 0x7f) == 0x7f);
    return c;
  }
  std::vector<float> scales(int64_t n, int64_t k) {
    std::vector<float> s;
    for (int64_t i = 0; i < (n + 127) / 128 * ((k + 127) / 128); ++i) s.push_back(1e-4f * (1.0f + static_cast<float>(random() % 1000) * 1e-3f));
    return s;
  }
};

}  // namespace dsinfer
