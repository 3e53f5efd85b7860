#include "core/component.hpp"

#include <cuda_runtime_api.h>

#include "backend/backend.hpp"
#include "dsinfer/version.hpp"

namespace dsinfer {
namespace {

std::unique_ptr<Backend> make_cuda_backend(int device, const BackendOptions&) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    throw Error(Error::not_found, std::string("device cuda: no GPU can be used here (") + (status == cudaSuccess ? "the driver shows none" : cudaGetErrorString(status)) +
                                      "); install NVIDIA's driver, or choose device \"cpu\"");
  }
  if (device >= count) throw Error(Error::not_found, "device cuda:" + std::to_string(device) + ": the driver shows " + std::to_string(count) + " GPUs, numbered from 0");
  throw Error(Error::unsupported, "device cuda: this version of libdsinfer_cuda has no operations yet; choose device \"cpu\"");
}

}  // namespace
}  // namespace dsinfer

extern "C" DSINFER_INTERNAL const dsinfer::CudaComponent dsinfer_component_cuda;
extern "C" DSINFER_INTERNAL const dsinfer::CudaComponent dsinfer_component_cuda = {DSINFER_VERSION, dsinfer::make_cuda_backend};
