/// Row-wise stages for more rows than the device holds at once; for the functions of hopper.hpp.
#pragma once
#include "hopper.hpp"

namespace dsinfer::hopper {

/// add_norm of routed rows (`slot`, top_k from 1 to 32); the bits that few tokens get.
cudaError_t routed_norm_many(const AddNorm& a, int tokens, int dim, cudaStream_t stream);

}  // namespace dsinfer::hopper
