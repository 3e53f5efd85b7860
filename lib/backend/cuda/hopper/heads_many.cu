#include "heads_many.hpp"

#include "heads_many.cuh"

namespace dsinfer::hopper {

cudaError_t absorb_many(bf16* q, const bf16* q_b, const bf16* w_uk, const float* rope, const int* positions, int tokens, int heads,
                        cudaStream_t stream) {
  if (tokens < 1 || tokens > 128) return cudaErrorInvalidValue;
  AbsorbArgs a{};
  a.q = q, a.q_b = q_b, a.rope = rope, a.positions = positions, a.tokens = tokens, a.heads = heads;
  cudaError_t status = encode(a.w, {w_uk, int64_t(heads) * 512, 128, 256, 2, AbsorbShape::kRows});
  if (status == cudaSuccess) status = encode(a.x, {q_b, tokens, int64_t(heads) * 192, int64_t(heads) * 384, 2, tokens});
  if (status != cudaSuccess) return status;
  return start(absorb_many_kernel, dim3(unsigned(heads)), AbsorbShape::kThreads, AbsorbShape::kSharedBytes, stream, true, a);
}

cudaError_t expand_many(uint8_t* o, float* o_scale, const bf16* u, const bf16* w_uv, int tokens, int heads, bool ue8m0,
                        cudaStream_t stream) {
  if (tokens < 1 || tokens > 128) return cudaErrorInvalidValue;
  ExpandArgs a{};
  a.o = o, a.o_scale = o_scale, a.tokens = tokens, a.heads = heads, a.ue8m0 = ue8m0;
  cudaError_t status = encode(a.w, {w_uv, int64_t(heads) * 128, 512, 1024, 2, 128});
  if (status == cudaSuccess) status = encode(a.u, {u, tokens, int64_t(heads) * 512, int64_t(heads) * 1024, 2, tokens});
  if (status != cudaSuccess) return status;
  return start(expand_many_kernel, dim3(unsigned(heads)), ExpandShape::kThreads, ExpandShape::kSharedBytes, stream, true, a);
}

}  // namespace dsinfer::hopper
