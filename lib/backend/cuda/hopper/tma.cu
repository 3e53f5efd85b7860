#include "tma.cuh"

#include <cudaTypedefs.h>

namespace dsinfer::hopper {

namespace {
PFN_cuTensorMapEncodeTiled_v12000 driver_encoder() {
  static const PFN_cuTensorMapEncodeTiled_v12000 encoder = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return status == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found)
                                                                          : nullptr;
  }();
  return encoder;
}
}  // namespace

cudaError_t encode(CUtensorMap& map, const RowsMap& rows) {
  const auto encoder = driver_encoder();
  if (!encoder) return cudaErrorNotSupported;
  const cuuint64_t dims[2] = {cuuint64_t(rows.width), cuuint64_t(rows.rows)}, strides[1] = {cuuint64_t(rows.stride_bytes)};
  const cuuint32_t box[2] = {cuuint32_t(128 / rows.element_bytes), cuuint32_t(rows.box_rows)}, steps[2] = {1, 1};
  const CUresult result = encoder(&map, rows.element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2,
                                  const_cast<void*>(rows.data), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace dsinfer::hopper
