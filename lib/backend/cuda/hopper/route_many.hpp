/// The gate and the list of runs for more tokens than one block can sort; for the functions of hopper.hpp.
#pragma once
#include "hopper.hpp"

namespace dsinfer::hopper {

cudaError_t gate_logits_many(float* partial, const bf16* x, const bf16* w, int tokens, int experts, int hidden, cudaStream_t stream);
cudaError_t route_many(const Routed& out, const float* partial, const float* bias, const int* forced, int tokens,
                       const RouteOptions& options, cudaStream_t stream);

}  // namespace dsinfer::hopper
