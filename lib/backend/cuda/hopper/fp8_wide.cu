/// fp8_wide_kernel as a linear.
#include "fp8_wide.cuh"

#include "fp8_wide.hpp"

namespace dsinfer::hopper {

bool wide_fits(int n, int k) { return n % 64 == 0 && k % 512 == 0 && k >= 1536 && k / 128 <= WideShape::kMaxBlocks; }

cudaError_t wide_linear(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, cudaStream_t stream) {
  using S = WideShape;
  if (!wide_fits(n, k) || m < 1 || m > S::kColumns) return cudaErrorInvalidValue;
  WideArgs a{};
  a.out = out, a.w_scale = w.scale, a.tokens = m, a.n = n, a.k = k;
  cudaError_t status = encode(a.w, {w.data, n, k, k, 1, 64});
  if (status == cudaSuccess) status = encode(a.x, {x.data, m, k, k, 1, m});
  if (status == cudaSuccess) status = encode_scales(a.x_scale, x.scale, m, k / 128, m);
  if (status != cudaSuccess) return status;
  const int tiles = n / 64, resident = multiprocessors();
  return start(fp8_wide_kernel, dim3(unsigned(tiles < resident ? tiles : resident)), S::kThreads, S::kShared, stream, true, a);
}

}  // namespace dsinfer::hopper
