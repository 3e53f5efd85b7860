/// How the core finds libdsinfer_mpi and libdsinfer_cuda: each exports one table of factories.
#pragma once
#include <memory>

#include "dsinfer/world.hpp"

namespace dsinfer {

class Comm;
class Backend;
struct BackendOptions;

/// Exported by libdsinfer_mpi as `extern "C" const dsinfer::MpiComponent dsinfer_component_mpi`.
struct MpiComponent {
  const char* version;  ///< must equal the core's
  std::unique_ptr<World> (*world)(const int* fortran_handle);  ///< null: MPI_COMM_WORLD
  std::unique_ptr<Comm> (*comm)(World& world);                 ///< over a World that `world` made or a split of it
};

/// Exported by libdsinfer_cuda as `extern "C" const dsinfer::CudaComponent dsinfer_component_cuda`.
struct CudaComponent {
  const char* version;
  /// Throws not_found, naming what is missing and the remedy, where there is no driver or no such device.
  std::unique_ptr<Backend> (*backend)(int device, const BackendOptions& options);
};

/// Finds the table: linked in statically, else opened as libdsinfer_mpi.so.N beside this library or on the loader's path.
/// Throws not_found naming the library, where it was looked for, and what to install.
DSINFER_INTERNAL const MpiComponent& mpi_component();
DSINFER_INTERNAL const CudaComponent& cuda_component();

}  // namespace dsinfer
