#include "backend/cuda/linear.cuh"

namespace dsinfer::cuda {

void linear_float(const LinearCall& call, int multiprocessors, cudaStream_t stream);   // linear_float.cu
void tensor_linear(const LinearCall& call, int multiprocessors, cudaStream_t stream);  // tensor_linear.cu

bool on_matrix_unit(const LinearShape& s) {
  const bool blocked = s.format == Format::fp8_block || s.format == Format::int4_group;
  return (blocked || s.format == Format::bf16) && s.aligned && s.k > 0 && s.k % 128 == 0 && (!blocked || s.block_cols % 128 == 0);
}

void linear(const LinearCall& call, int multiprocessors, cudaStream_t stream) {
  if (on_matrix_unit(call.shape) && call.x_aligned) return tensor_linear(call, multiprocessors, stream);
  switch (call.shape.format) {
    case Format::fp8_block: linear_of<Format::fp8_block>(call, multiprocessors, stream); break;
    case Format::int4_group: linear_of<Format::int4_group>(call, multiprocessors, stream); break;
    default: linear_float(call, multiprocessors, stream); break;
  }
  check_launch("linear");
}

}  // namespace dsinfer::cuda
