// A library that answers as NVML does, for machines described in FAKE_NVML:
//   "nvswitch4"  4 × H100 on NVSwitches whose 18 links come by field value   "pcie2"  2 × L40S without NVLink, peer access refused
//   "pairs4"     4 × A100 PCIe, two bridges of 12 links                      "hidden2" 2 × H100 in a virtual machine: remote ids hidden
//   "one-lost"   2 cards, the second cannot be opened                        "none"    no card
//   "mismatch", "unloaded"  nvmlInit fails
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "topology/nvml.hpp"

using namespace dsinfer::topology::nvml;

namespace {

std::string machine() {
  const char* wanted = std::getenv("FAKE_NVML");
  return wanted ? wanted : "none";
}
int opened = 0;

int cards() {
  if (machine() == "nvswitch4" || machine() == "pairs4") return 4;
  return machine() == "none" ? 0 : 2;
}
int index_of(Device device) { return static_cast<int>(reinterpret_cast<size_t>(device)) - 1; }
void put_bus(PciInfo* pci, const char* text) {
  std::memset(pci, 0, sizeof *pci);
  std::snprintf(pci->bus_id, sizeof pci->bus_id, "%s", text);
}
std::string bus(int card) {
  char text[32];
  std::snprintf(text, sizeof text, "00000000:%02X:00.0", 0x19 + 0x20 * card);
  return text;
}
bool hopper() { return machine() == "nvswitch4" || machine() == "hidden2"; }

}  // namespace

extern "C" {

int fake_nvml_opened() { return opened; }  // calls of init less those of shutdown

Return nvmlInit_v2() {
  if (machine() == "mismatch") return kVersionMismatch;
  if (machine() == "unloaded") return kDriverNotLoaded;
  ++opened;
  return kSuccess;
}
Return nvmlShutdown() {
  --opened;
  return kSuccess;
}
const char* nvmlErrorString(Return code) {
  return code == kVersionMismatch ? "Driver/library version mismatch" : code == kDriverNotLoaded ? "Driver Not Loaded" : code == kGpuIsLost ? "GPU is lost" : "Not Supported";
}
Return nvmlSystemGetDriverVersion(char* text, unsigned size) { return std::snprintf(text, size, "570.133.20") > 0 ? kSuccess : kNotSupported; }
Return nvmlSystemGetCudaDriverVersion_v2(int* version) { return *version = 12080, kSuccess; }
Return nvmlDeviceGetCount_v2(unsigned* count) { return *count = static_cast<unsigned>(cards()), kSuccess; }
Return nvmlDeviceGetHandleByIndex_v2(unsigned index, Device* device) {
  if (machine() == "one-lost" && index == 1) return kGpuIsLost;
  *device = reinterpret_cast<Device>(static_cast<size_t>(index) + 1);
  return kSuccess;
}
Return nvmlDeviceGetPciInfo_v3(Device device, PciInfo* pci) { return put_bus(pci, bus(index_of(device)).c_str()), kSuccess; }
Return nvmlDeviceGetName(Device, char* text, unsigned size) {
  std::snprintf(text, size, "%s", hopper() ? "NVIDIA H100 80GB HBM3" : machine() == "pairs4" ? "NVIDIA A100 80GB PCIe" : "NVIDIA L40S");
  return kSuccess;
}
Return nvmlDeviceGetUUID(Device device, char* text, unsigned size) { return std::snprintf(text, size, "GPU-fake-%d", index_of(device)), kSuccess; }
Return nvmlDeviceGetMemoryInfo(Device, Memory* memory) { return *memory = {85520809984ull, 0, 0}, kSuccess; }
Return nvmlDeviceGetCudaComputeCapability(Device, int* major, int* minor) {
  *major = hopper() ? 9 : 8;
  *minor = machine() == "pcie2" ? 9 : 0;
  return kSuccess;
}
Return nvmlDeviceGetMigMode(Device, unsigned* current, unsigned* pending) {
  if (machine() == "pcie2") return kNotSupported;
  return *current = *pending = 0, kSuccess;
}
Return nvmlDeviceGetNvLinkState(Device, unsigned link, int* state) {
  if (hopper() || machine() == "pcie2") return kNotSupported;
  if (link >= 12) return kInvalidArgument;
  return *state = 1, kSuccess;
}
Return nvmlDeviceGetNvLinkRemotePciInfo_v2(Device device, unsigned link, PciInfo* pci) {
  const int card = index_of(device);
  if (machine() == "pairs4") return put_bus(pci, bus(card ^ 1).c_str()), kSuccess;
  if (machine() == "hidden2") return put_bus(pci, "FFFFFFFF:FFFF:FF.0"), kSuccess;
  char text[32];
  std::snprintf(text, sizeof text, "00000000:%02X:00.0", 0x05 + link % 4);
  return put_bus(pci, text), kSuccess;
}
Return nvmlDeviceGetNvLinkRemoteDeviceType(Device, unsigned, int* type) { return *type = hopper() ? 2 : 0, kSuccess; }
Return nvmlDeviceGetFieldValues(Device device, int count, FieldValue* values) {
  for (int i = 0; i < count; ++i) {
    FieldValue& value = values[i];
    value.result = kSuccess;
    value.value_type = 1;
    if (value.field == kFieldSpeedCommon && machine() != "pcie2") value.value.as_uint = hopper() ? 26562 : 25000;
    else if (value.field == kFieldLinkState && hopper() && value.scope < 18) value.value.as_uint = !(index_of(device) == 3 && value.scope == 17);  // one link down
    else value.result = kNotSupported;
  }
  return kSuccess;
}
Return nvmlDeviceGetP2PStatus(Device, Device, int, int* status) { return *status = machine() == "pcie2" ? 2 : 0, kSuccess; }
Return nvmlDeviceGetTopologyCommonAncestor(Device a, Device b, int* level) {
  return *level = index_of(a) / 2 == index_of(b) / 2 ? 40 : 50, kSuccess;
}
Return nvmlDeviceGetMaxPcieLinkGeneration(Device, unsigned* generation) { return *generation = hopper() ? 5 : 4, kSuccess; }
Return nvmlDeviceGetMaxPcieLinkWidth(Device, unsigned* width) { return *width = 16, kSuccess; }
Return nvmlDeviceGetGpuFabricInfoV(Device, FabricInfo2* info) {
  if (machine() != "nvswitch4" || info->version != (sizeof *info | 2u << 24)) return kNotSupported;
  info->state = 3;
  info->status = kSuccess;
  return kSuccess;
}

}  // extern "C"
