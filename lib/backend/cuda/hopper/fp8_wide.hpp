/// Linears of many decode tokens, behind fp8_linear and fp8_gate_up.
#pragma once
#include "hopper.hpp"

namespace dsinfer::hopper {

/// Whether wide_linear takes it: K a multiple of 256, N of 64; gated K and N of 128, and enough of N for the multiprocessors.
bool wide_fits(int n, int k, bool gated);
/// As fp8_linear, gated as fp8_gate_up, for M from 1 to 128. A row's bits depend on its own values alone, and on whether M is over 64.
cudaError_t wide_linear(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, bool gated, cudaStream_t stream);

}  // namespace dsinfer::hopper
