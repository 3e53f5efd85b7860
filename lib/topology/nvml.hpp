/// What we use of NVML, NVIDIA's management library (part of the driver), by its documented binary interface: no header of theirs is needed
/// and every function may be missing in an old driver. Source: NVML API reference, structures of versions 11 to 13.
#pragma once
#include <string>

#include "topology/shared_library.hpp"

namespace dsinfer::topology::nvml {

using Device = void*;
using Return = int;
enum : Return {
  kSuccess = 0, kInvalidArgument = 2, kNotSupported = 3, kNoPermission = 4, kDriverNotLoaded = 9, kFunctionNotFound = 13,
  kGpuIsLost = 15, kVersionMismatch = 18
};

struct PciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device;
  unsigned device_id;     ///< device in the upper 16 bits, vendor in the lower
  unsigned subsystem_id;
  char bus_id[32];
};
struct Memory {
  unsigned long long total, free, used;
};
struct FieldValue {
  unsigned field, scope;
  long long timestamp, latency_us;
  int value_type;         ///< 0 double, 1 unsigned int, 2 unsigned long, 3 unsigned long long, 4 signed long long, 5 signed int
  Return result;
  union {
    double as_double;
    unsigned as_uint;
    unsigned long long as_ull;
  } value;
};
struct FabricInfo {
  unsigned char cluster[16];
  Return status;
  unsigned clique;
  unsigned char state;    ///< 0 not supported, 1 not started, 2 in progress, 3 completed
};
struct FabricInfo2 {
  unsigned version;       ///< size | 2 << 24
  unsigned char cluster[16];
  Return status;
  unsigned clique;
  unsigned char state;
  unsigned health;
};
static_assert(sizeof(PciInfo) == 68 && sizeof(FieldValue) == 40 && sizeof(FabricInfo) == 28 && sizeof(FabricInfo2) == 36);

constexpr unsigned kFieldSpeedCommon = 90;  ///< MB/s of one link, one way
constexpr unsigned kFieldLinkSpeed = 164;   ///< the same for the link in `scope`
constexpr unsigned kFieldLinkState = 165;   ///< of the link in `scope`: 1 = active
constexpr unsigned kMostLinks = 36;         ///< 18 on Hopper and Blackwell; asking ends at the first that the card refuses

/// The functions; null where this driver lacks one.
struct Api {
  SharedLibrary library;
  Return (*init)() = nullptr;
  Return (*shutdown)() = nullptr;
  const char* (*error_string)(Return) = nullptr;
  Return (*driver_version)(char*, unsigned) = nullptr;
  Return (*cuda_version)(int*) = nullptr;
  Return (*count)(unsigned*) = nullptr;
  Return (*device)(unsigned, Device*) = nullptr;
  Return (*pci_info)(Device, PciInfo*) = nullptr;
  Return (*name)(Device, char*, unsigned) = nullptr;
  Return (*uuid)(Device, char*, unsigned) = nullptr;
  Return (*memory)(Device, Memory*) = nullptr;
  Return (*compute_capability)(Device, int*, int*) = nullptr;
  Return (*mig_mode)(Device, unsigned*, unsigned*) = nullptr;
  Return (*link_state)(Device, unsigned, int*) = nullptr;
  Return (*link_remote)(Device, unsigned, PciInfo*) = nullptr;
  Return (*link_remote_type)(Device, unsigned, int*) = nullptr;  ///< 0 GPU, 1 NPU (POWER's CPU), 2 switch, 255 unknown
  Return (*fields)(Device, int, FieldValue*) = nullptr;
  Return (*p2p_status)(Device, Device, int, int*) = nullptr;     ///< 0 read, 1 write
  Return (*common_ancestor)(Device, Device, int*) = nullptr;     ///< 0 one board, 10 one switch, 20 several, 30 host bridge, 40 NUMA node, 50 system
  Return (*pcie_generation)(Device, unsigned*) = nullptr;
  Return (*pcie_width)(Device, unsigned*) = nullptr;
  Return (*fabric_info)(Device, FabricInfo*) = nullptr;
  Return (*fabric_info2)(Device, FabricInfo2*) = nullptr;

  explicit Api(const std::string& file) : library(file) {
    library.find(init, "nvmlInit_v2");
    library.find(shutdown, "nvmlShutdown");
    library.find(error_string, "nvmlErrorString");
    library.find(driver_version, "nvmlSystemGetDriverVersion");
    library.find(cuda_version, "nvmlSystemGetCudaDriverVersion_v2");
    if (!cuda_version) library.find(cuda_version, "nvmlSystemGetCudaDriverVersion");
    library.find(count, "nvmlDeviceGetCount_v2");
    library.find(device, "nvmlDeviceGetHandleByIndex_v2");
    library.find(pci_info, "nvmlDeviceGetPciInfo_v3");
    library.find(name, "nvmlDeviceGetName");
    library.find(uuid, "nvmlDeviceGetUUID");
    library.find(memory, "nvmlDeviceGetMemoryInfo");
    library.find(compute_capability, "nvmlDeviceGetCudaComputeCapability");
    library.find(mig_mode, "nvmlDeviceGetMigMode");
    library.find(link_state, "nvmlDeviceGetNvLinkState");
    library.find(link_remote, "nvmlDeviceGetNvLinkRemotePciInfo_v2");
    library.find(link_remote_type, "nvmlDeviceGetNvLinkRemoteDeviceType");
    library.find(fields, "nvmlDeviceGetFieldValues");
    library.find(p2p_status, "nvmlDeviceGetP2PStatus");
    library.find(common_ancestor, "nvmlDeviceGetTopologyCommonAncestor");
    library.find(pcie_generation, "nvmlDeviceGetMaxPcieLinkGeneration");
    library.find(pcie_width, "nvmlDeviceGetMaxPcieLinkWidth");
    library.find(fabric_info, "nvmlDeviceGetGpuFabricInfo");
    library.find(fabric_info2, "nvmlDeviceGetGpuFabricInfoV");
  }
};

}  // namespace dsinfer::topology::nvml
