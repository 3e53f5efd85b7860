/// What stands around the layers: the head's product, and rows between f32 and bf16. The rules of hopper.hpp hold.
#pragma once
#include "hopper.hpp"

namespace dsinfer::hopper {

/// out [rows, dim] bf16 = x, rows of x `stride` elements apart. dim a multiple of 4, x 16-byte aligned.
cudaError_t to_bf16(bf16* out, const float* x, int64_t stride, int64_t rows, int64_t dim, cudaStream_t stream);

/// out[t,:] = Σ_k weight[t,k] · y[slot[t,k]] in the order of k, then + y[shared_first + t]; as add_norm adds them. slot < 0: left out. dim
/// a multiple of 8.
cudaError_t combine(bf16* out, const bf16* y, const int* slot, const float* weight, int64_t shared_first, int64_t rows, int top_k,
                    int64_t dim, cudaStream_t stream);

/// out[m,n] = x[m,:] · w[n,:], out [M, N] f32. x [M, K], w [N, K] bf16, 16-byte aligned; K a multiple of 64 and at least 256, N even. M up
/// to 128. The weights are read once. A row's bits do not depend on the other rows, nor on M up to 32, nor from 33.
cudaError_t bf16_linear(float* out, const bf16* x, const bf16* w, int m, int64_t n, int k, cudaStream_t stream);

}  // namespace dsinfer::hopper
