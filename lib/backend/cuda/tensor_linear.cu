#include "backend/cuda/tensor_linear.cuh"

namespace dsinfer::cuda {

void tensor_linear(const LinearCall& call, int multiprocessors, cudaStream_t stream) {
  switch (call.shape.format) {
    case Format::fp8_block: tensor_linear_of<Format::fp8_block>(call, multiprocessors, stream); break;
    case Format::int4_group: tensor_linear_of<Format::int4_group>(call, multiprocessors, stream); break;
    default: tensor_linear_of<Format::bf16>(call, multiprocessors, stream); break;
  }
  check_launch("linear");
}

}  // namespace dsinfer::cuda
