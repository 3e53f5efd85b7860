/// The head's product against double precision.
#include "backend/cuda/hopper/edges.hpp"
#include "device_data.cuh"

namespace dsinfer {
namespace {

using namespace test;

__global__ void reference_kernel(double* y, const bf16* x, const bf16* w, int m, int n, int k) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= m * n) return;
  double sum = 0;
  for (int j = 0; j < k; ++j) sum += double(float(x[size_t(i / n) * k + j])) * double(float(w[size_t(i % n) * k + j]));
  y[i] = sum;
}

TEST(HopperHead, IsThatOfDoublePrecision) {
  if (!has_hopper()) GTEST_SKIP() << "no GPU: skipped";
  for (const int k : {256, 320, 7168})
    for (const int n : {2, 130, 1000, 20000})
      for (const int m : {1, 3, 8, 9, 16, 17, 32, 33, 64, 100, 128}) {
        if (n == 20000 && (k != 7168 || m % 4 != 0)) continue;
        Device<bf16> x(size_t(m) * k), w(size_t(n) * k);
        fill(x, 1, 1), fill(w, 2, 0.02f);
        Device<float> out(size_t(m) * n);
        Device<double> wanted(size_t(m) * n);
        ASSERT_CUDA(hopper::bf16_linear(out, x, w, m, n, k, nullptr));
        reference_kernel<<<(m * n + 255) / 256, 256>>>(wanted, x, w, m, n, k);
        ASSERT_CUDA(cudaDeviceSynchronize());
        EXPECT_LT(relative_error(out.host(), wanted.host()), 1e-5) << m << " × " << n << " × " << k;
      }
}

TEST(HopperHead, ARowHasTheSameBitsInEveryBatch) {
  if (!has_hopper()) GTEST_SKIP() << "no GPU: skipped";
  const int n = 5000, k = 7168;
  Device<bf16> x(size_t(128) * k), w(size_t(n) * k);
  fill(x, 3, 1), fill(w, 4, 0.02f);
  std::vector<float> few, many;
  for (const int m : {1, 8, 16, 32, 33, 128}) {
    Device<float> out(size_t(m) * n);
    ASSERT_CUDA(hopper::bf16_linear(out, x, w, m, n, k, nullptr));
    ASSERT_CUDA(cudaDeviceSynchronize());
    std::vector<float> first = out.host();
    first.resize(size_t(n));
    std::vector<float>& bits = m <= 32 ? few : many;
    if (bits.empty()) bits = first;
    EXPECT_EQ(first, bits) << m;
  }
}

TEST(HopperHead, RefusesWhatItCannotDo) {
  EXPECT_EQ(hopper::bf16_linear(nullptr, nullptr, nullptr, 129, 64, 256, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(hopper::bf16_linear(nullptr, nullptr, nullptr, 1, 64, 200, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(hopper::bf16_linear(nullptr, nullptr, nullptr, 0, 64, 256, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace dsinfer
