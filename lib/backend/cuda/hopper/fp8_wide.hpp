/// Linears of many decode tokens, behind fp8_linear.
#pragma once
#include "hopper.hpp"

namespace dsinfer::hopper {

/// N a multiple of 64; K of 512, from 1536 to 20480.
bool wide_fits(int n, int k);
/// As fp8_linear, for M from 1 to 128. A row's bits depend neither on the other rows nor on M.
cudaError_t wide_linear(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, cudaStream_t stream);

}  // namespace dsinfer::hopper
