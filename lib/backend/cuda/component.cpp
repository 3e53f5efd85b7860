#include "core/component.hpp"

#include "backend/cuda/cuda_backend.hpp"
#include "dsinfer/version.hpp"

namespace dsinfer {
namespace {

std::unique_ptr<Backend> make_cuda_backend(int device, const BackendOptions& options) { return std::make_unique<CudaBackend>(device, options); }

}  // namespace
}  // namespace dsinfer

extern "C" DSINFER_INTERNAL const dsinfer::CudaComponent dsinfer_component_cuda;
extern "C" DSINFER_INTERNAL const dsinfer::CudaComponent dsinfer_component_cuda = {DSINFER_VERSION, dsinfer::make_cuda_backend};
