/// Device memory with seeded contents, and comparison with a double-precision result, for tests of kernels.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#define ASSERT_CUDA(call) ASSERT_EQ(cudaSuccess, (call)) << cudaGetErrorString(cudaGetLastError())

namespace dsinfer::test {

inline bool has_hopper() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return false;
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  return major == 9;
}

/// Owns `size` elements; every byte 0xff (NaN in every float format) until filled, so that what a kernel leaves out shows.
template <class T>
class Device {
 public:
  explicit Device(size_t size) : size_(size) {
    if (cudaMalloc(&data_, bytes() + 16) != cudaSuccess) data_ = nullptr;
    poison();
  }
  explicit Device(const std::vector<T>& values) : Device(values.size()) {
    cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice);
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() { cudaFree(data_); }
  operator T*() const { return data_; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }
  void poison() { cudaMemset(data_, 0xff, bytes()); }
  std::vector<T> host() const {
    std::vector<T> values(size_);
    cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

__host__ __device__ inline uint32_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return uint32_t((x ^ (x >> 31)) >> 16);
}
__host__ __device__ inline float uniform(uint64_t seed, uint64_t i) {
  return float(mix(seed * 0x100000001b3ull + i) >> 8) * (1.0f / 16777216.0f);
}
/// About Gaussian, sigma 1: the sum of four uniforms.
__host__ __device__ inline float gaussian(uint64_t seed, uint64_t i) {
  float s = 0;
  for (int k = 0; k < 4; ++k) s += uniform(seed, i * 4 + uint64_t(k));
  return (s - 2.0f) * 1.7320508f;
}

template <class T>
__global__ void fill_kernel(T* p, size_t n, uint64_t seed, float sigma, float mean) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
    p[i] = T(gaussian(seed, i) * sigma + mean);
}
template <class T>
void fill(Device<T>& d, uint64_t seed, float sigma, float mean = 0) {
  fill_kernel<<<1024, 256>>>(static_cast<T*>(d), d.size(), seed, sigma, mean);
}
static __global__ void scales_kernel(float* p, size_t n, uint64_t seed, float middle) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
    p[i] = middle * (0.5f + uniform(seed, i));
}
inline void fill_scales(Device<float>& d, uint64_t seed, float middle) { scales_kernel<<<256, 256>>>(d, d.size(), seed, middle); }

using E4m3 = __nv_fp8_e4m3;
using bf16 = __nv_bfloat16;

/// ‖a − b‖ / ‖b‖; infinite where a has a value that is not finite.
template <class A, class B>
double relative_error(const std::vector<A>& a, const std::vector<B>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double x = double(float(a[i])), y = double(b[i]);
    if (!std::isfinite(x)) return INFINITY;
    difference += (x - y) * (x - y), norm += y * y;
  }
  return std::sqrt(difference / norm);
}

/// y[m,n] of a W8A8 block linear in double precision. A thread an output.
static __global__ void linear_reference_kernel(double* y, const uint8_t* x, const float* sx, const uint8_t* w, const float* sw,
                                               const int* rows, int m, int n, int k) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= m * n) return;
  const int row = rows ? rows[i / n] : i / n, column = i % n, blocks = k / 128;
  double sum = 0;
  for (int b = 0; b < blocks; ++b) {
    double dot = 0;
    for (int j = b * 128; j < b * 128 + 128; ++j)
      dot += double(float(reinterpret_cast<const E4m3*>(x)[size_t(row) * k + j])) *
             double(float(reinterpret_cast<const E4m3*>(w)[size_t(column) * k + j]));
    sum += dot * double(sx[size_t(row) * blocks + b]) * double(sw[size_t(column / 128) * blocks + b]);
  }
  y[i] = sum;
}

}  // namespace dsinfer::test
