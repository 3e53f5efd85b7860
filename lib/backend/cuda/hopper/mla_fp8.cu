/// The attention kernel over the FP8 latent cache, beside mla.cu's.
#include "mla_block.cuh"

namespace dsinfer::hopper {

cudaError_t start_mla_fp8(const MlaDecode& a, const MlaMaps& maps, int cluster, cudaStream_t stream) {
  return start_mla<false>(a, maps, cluster, stream);
}

}  // namespace dsinfer::hopper
