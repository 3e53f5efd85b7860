/// Launches of fp8_gemm_kernel, for the functions of hopper.hpp.
#pragma once
#include "hopper.hpp"

namespace dsinfer::hopper {

/// fp8_linear and fp8_gate_up for many rows (from 65 on it is right, from about 129 the faster).
cudaError_t gemm_linear(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, bool gated, cudaStream_t stream);

/// grouped_gate_up_sorted (gated) and grouped_down of more than kMostGathered tokens, whose runs have up to kGemmRunTokens positions. x in the
/// order of positions.
cudaError_t gemm_grouped(bf16* out, Fp8Rows x, Fp8Weight w, Fp8Weight shared, const Routed& routed, int tokens, const RouteOptions& options,
                         int n, int k, bool gated, cudaStream_t stream);

}  // namespace dsinfer::hopper
