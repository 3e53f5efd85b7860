/// Launches of heads_many.cuh, behind absorb_query and expand_values.
#pragma once
#include "hopper.hpp"

namespace dsinfer::hopper {

/// Up to 128 tokens; the same sums as for few, in another order.
cudaError_t absorb_many(bf16* q, const bf16* q_b, const bf16* w_uk, const float* rope, const int* positions, int tokens, int heads,
                        cudaStream_t stream);
cudaError_t expand_many(uint8_t* o, float* o_scale, const bf16* u, const bf16* w_uv, int tokens, int heads, bool ue8m0,
                        cudaStream_t stream);

}  // namespace dsinfer::hopper
