#include "backend/cuda/linear.cuh"

namespace dsinfer::cuda {

void linear_float(const LinearCall& call, int multiprocessors, cudaStream_t stream) {
  switch (call.shape.format) {
    case Format::f32: return linear_of<Format::f32>(call, multiprocessors, stream);
    case Format::bf16: return linear_of<Format::bf16>(call, multiprocessors, stream);
    default: return linear_of<Format::f16>(call, multiprocessors, stream);
  }
}

}  // namespace dsinfer::cuda
