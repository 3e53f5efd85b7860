#include "backend/cuda/linear.cuh"

namespace dsinfer::cuda {

void linear_float(const LinearCall& call, int multiprocessors, cudaStream_t stream);  // linear_float.cu

void linear(const LinearCall& call, int multiprocessors, cudaStream_t stream) {
  switch (call.shape.format) {
    case Format::fp8_block: linear_of<Format::fp8_block>(call, multiprocessors, stream); break;
    case Format::int4_group: linear_of<Format::int4_group>(call, multiprocessors, stream); break;
    default: linear_float(call, multiprocessors, stream); break;
  }
  check_launch("linear");
}

}  // namespace dsinfer::cuda
