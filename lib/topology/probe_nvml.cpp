#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "topology/nvml.hpp"
#include "topology/probes.hpp"

namespace dsinfer::topology {
namespace {

using nvml::Api;
using nvml::Device;

/// Calls `function` if the driver has it.
template <class Function, class... Arguments>
bool ok(Function* function, Arguments... arguments) {
  return function && function(arguments...) == nvml::kSuccess;
}

template <size_t n>
std::string text_of(const std::array<char, n>& buffer) {
  return clean_text(std::string_view(buffer.data(), strnlen(buffer.data(), n)));
}

std::string bus_id_of(const nvml::PciInfo& pci) { return topology::bus_id_of(std::string_view(pci.bus_id, strnlen(pci.bus_id, sizeof pci.bus_id))); }

std::string words(const Api& api, nvml::Return code) {
  const char* text = api.error_string ? api.error_string(code) : nullptr;
  return text ? clean_text(text) : fmt::format("NVML error {}", code);
}

// A field of the device, of one link where `link` is given; nothing where the driver does not know it.
std::optional<double> field(const Api& api, Device device, unsigned id, unsigned link = 0) {
  nvml::FieldValue value{};
  value.field = id;
  value.scope = link;
  if (!ok(api.fields, device, 1, &value) || value.result != nvml::kSuccess) return std::nullopt;
  switch (value.value_type) {
    case 0: return value.value.as_double;
    case 1: case 5: return value.value.as_uint;
    default: return static_cast<double>(value.value.as_ull);
  }
}

// nullopt: the card has no such link.
std::optional<bool> link_is_up(const Api& api, Device device, unsigned link, int compute_major) {
  if (compute_major >= 9) {
    if (const auto state = field(api, device, nvml::kFieldLinkState, link)) return *state == 1;
  }
  int state = 0;
  if (!ok(api.link_state, device, link, &state)) return std::nullopt;
  return state == 1;
}

NvLink::Remote remote_kind(const Api& api, Device device, unsigned link, const std::string& remote, const std::map<std::string, int>& gpus) {
  if (gpus.count(remote)) return NvLink::Remote::gpu;
  int type = 255;
  if (ok(api.link_remote_type, device, link, &type)) {
    if (type == 0) return NvLink::Remote::gpu;
    if (type == 1) return NvLink::Remote::cpu;
  }
  return NvLink::Remote::nvswitch;  // also where virtual machines hide the bus id: all such links lead to one switch
}

void read_links(const Api& api, Device device, Gpu& gpu, const std::map<std::string, int>& gpus) {
  const double common = field(api, device, nvml::kFieldSpeedCommon).value_or(0);
  for (unsigned link = 0; link < nvml::kMostLinks; ++link) {
    const auto up = link_is_up(api, device, link, gpu.compute_major);
    if (!up) break;
    if (!*up) continue;
    nvml::PciInfo pci{};
    std::string remote = ok(api.link_remote, device, link, &pci) ? bus_id_of(pci) : "";
    if (remote.rfind("ffff", 0) == 0) remote.clear();
    const NvLink::Remote kind = remote_kind(api, device, link, remote, gpus);
    const auto same = [&](const NvLink& l) { return l.remote == kind && l.remote_bus_id == remote; };
    auto at = std::find_if(gpu.nvlinks.begin(), gpu.nvlinks.end(), same);
    if (at == gpu.nvlinks.end()) at = gpu.nvlinks.insert(at, NvLink{kind, remote, 0, 0});
    ++at->count;
    at->gb_per_s += field(api, device, nvml::kFieldLinkSpeed, link).value_or(common) / 1000;
  }
}

std::string fabric_state(const Api& api, Device device) {
  nvml::Return status = nvml::kSuccess;
  unsigned state = 0;
  nvml::FabricInfo2 second{};
  second.version = sizeof second | 2u << 24;
  nvml::FabricInfo first{};
  if (ok(api.fabric_info2, device, &second)) {
    status = second.status, state = second.state;
  } else if (ok(api.fabric_info, device, &first)) {
    status = first.status, state = first.state;
  }
  if (state == 1) return "not-started";
  if (state == 2) return "in-progress";
  if (state == 3) return status == nvml::kSuccess ? "completed" : "failed: " + words(api, status);
  return "";
}

double pcie_speed(const Api& api, Device device) {
  static constexpr const char* kRates[] = {"", "2.5", "5", "8", "16", "32", "64"};
  unsigned generation = 0, width = 0;
  if (!ok(api.pcie_generation, device, &generation) || !ok(api.pcie_width, device, &width)) return 0;
  return generation >= 1 && generation <= 6 && width > 0 ? pcie_gb_per_s(kRates[generation], static_cast<int>(width)) : 0;
}

Gpu read_gpu(const Api& api, Device device, int index) {
  Gpu gpu;
  gpu.index = index;
  gpu.label = fmt::format("GPU{}", index);  // NVML counts in PCI order, as nvidia-smi does
  nvml::PciInfo pci{};
  if (ok(api.pci_info, device, &pci)) gpu.bus_id = bus_id_of(pci);
  std::array<char, 96> text{};
  if (ok(api.name, device, text.data(), unsigned{text.size()})) gpu.name = text_of(text);
  text = {};
  if (ok(api.uuid, device, text.data(), unsigned{text.size()})) gpu.uuid = text_of(text);
  nvml::Memory memory{};
  if (ok(api.memory, device, &memory)) gpu.memory_bytes = static_cast<int64_t>(std::min<unsigned long long>(memory.total, INT64_MAX));
  int major = 0, minor = 0;
  if (ok(api.compute_capability, device, &major, &minor)) gpu.compute_major = major, gpu.compute_minor = minor;
  unsigned current = 0, pending = 0;
  if (ok(api.mig_mode, device, &current, &pending)) gpu.mig = current == 1;
  gpu.pcie_gb_per_s = pcie_speed(api, device);
  gpu.fabric_state = fabric_state(api, device);
  return gpu;
}

int links_between(const Gpu& a, const Gpu& b) {
  int direct = 0, a_switched = 0, b_switched = 0;
  for (const NvLink& link : a.nvlinks) {
    if (link.remote == NvLink::Remote::gpu && link.remote_bus_id == b.bus_id && !b.bus_id.empty()) direct += link.count;
    if (link.remote == NvLink::Remote::nvswitch) a_switched += link.count;
  }
  for (const NvLink& link : b.nvlinks) {
    if (link.remote == NvLink::Remote::nvswitch) b_switched += link.count;
  }
  return direct > 0 ? direct : std::min(a_switched, b_switched);
}

PathKind path_between(const Api& api, Device a, Device b) {
  int level = -1;
  if (!ok(api.common_ancestor, a, b, &level)) return PathKind::unknown;
  switch (level) {
    case 0: case 10: return PathKind::pix;
    case 20: return PathKind::pxb;
    case 30: return PathKind::phb;
    case 40: return PathKind::node;
    case 50: return PathKind::sys;
    default: return PathKind::unknown;
  }
}

const char* p2p_words(int status) {
  static constexpr const char* kWords[] = {"OK", "chipset not supported", "GPU not supported", "topology not supported", "disabled by regkey",
                                           "not supported"};
  return status >= 0 && status < 6 ? kWords[status] : "unknown";
}

// Distances as `nvidia-smi topo -m` prints them, and pairs that may not read or write each other's memory.
void read_pairs(const Api& api, const std::vector<Device>& devices, Node& node) {
  std::vector<std::string> refused;
  bool nvlink_refused = false;
  for (size_t i = 0; i < devices.size(); ++i) {
    for (size_t k = i + 1; k < devices.size(); ++k) {
      const Gpu &a = node.gpus[i], &b = node.gpus[k];
      Path path{a.label, b.label, PathKind::unknown, links_between(a, b)};
      path.kind = path.nvlinks > 0 ? PathKind::nvlink : path_between(api, devices[i], devices[k]);
      if (path.kind != PathKind::unknown) node.paths.push_back(path);
      int read = 0, write = 0;
      if (!ok(api.p2p_status, devices[i], devices[k], 0, &read) || !ok(api.p2p_status, devices[i], devices[k], 1, &write)) continue;
      if (read == 0 && write == 0) continue;
      nvlink_refused = nvlink_refused || path.nvlinks > 0;
      refused.push_back(fmt::format("{} - {} ({}): read {}, write {} (NVML)", a.label, b.label,
                                    path.nvlinks > 0 ? fmt::format("NV{}", path.nvlinks) : std::string(word(path.kind)), p2p_words(read), p2p_words(write)));
    }
  }
  if (refused.empty()) return;
  const std::string text = fmt::format("{} of the {} pairs of GPUs may not access each other's memory", refused.size(), devices.size() * (devices.size() - 1) / 2);
  if (refused.size() > 8) refused.resize(8);
  node.findings.push_back({"p2p-refused", nvlink_refused ? Severity::error : Severity::info, {}, text, refused,
                           nvlink_refused ? "check that the fabric manager runs and that no driver setting disables peer access; NCCL stops at such a pair"
                                          : "nothing: NCCL goes through host memory between these GPUs"});
}

std::string remedy(nvml::Return code) {
  switch (code) {
    case nvml::kVersionMismatch: return "the driver was updated while loaded: reload the nvidia modules or restart the machine; in a container, take the host's library";
    case nvml::kDriverNotLoaded: return "load the nvidia module (modprobe nvidia) if this machine has GPUs; else nothing";
    case nvml::kNoPermission: return "give the process /dev/nvidiactl and /dev/nvidia*, in containers by the NVIDIA runtime (--gpus all)";
    case nvml::kGpuIsLost: return "a GPU fell off the bus: see dmesg for Xid 79, reset or restart the machine";
    default: return "run nvidia-smi, which asks the same library, and see dmesg for the nvidia module";
  }
}

void failed(Node& node, const std::string& what, const std::string& evidence, const std::string& advice, Severity severity = Severity::warning) {
  node.findings.push_back({"nvml-failed", severity, {}, what, {evidence}, advice});
}

void read_devices(const Api& api, Node& node) {
  unsigned count = 0;
  if (const auto code = api.count ? api.count(&count) : nvml::kFunctionNotFound; code != nvml::kSuccess) {
    return failed(node, "NVML does not say how many GPUs there are", "nvmlDeviceGetCount_v2: " + words(api, code), remedy(code));
  }
  node.gpus_complete = true;
  std::vector<Device> devices;
  for (unsigned i = 0; i < std::min(count, 1024u); ++i) {
    Device device = nullptr;
    const auto code = api.device ? api.device(i, &device) : nvml::kFunctionNotFound;
    if (code == nvml::kSuccess) {
      devices.push_back(device);
      node.gpus.push_back(read_gpu(api, device, static_cast<int>(i)));
      continue;
    }
    node.gpus_complete = false;
    failed(node, fmt::format("GPU {} is there but cannot be used", i), fmt::format("nvmlDeviceGetHandleByIndex_v2({}): {}", i, words(api, code)), remedy(code));
  }
  std::map<std::string, int> gpus;
  for (const Gpu& gpu : node.gpus) {
    if (!gpu.bus_id.empty()) gpus.emplace(gpu.bus_id, gpu.index);
  }
  for (size_t i = 0; i < devices.size(); ++i) read_links(api, devices[i], node.gpus[i], gpus);
  read_pairs(api, devices, node);
}

}  // namespace

Node probe_nvml(const std::string& library) {
  Node node;
  const Api api(library);
  if (!api.library) {
    if (!api.library.error().empty()) failed(node, library + " cannot be opened", clean_text(api.library.error()), "install the driver's libraries of one version");
    return node;
  }
  if (!api.init) return node;
  if (const auto code = api.init(); code != nvml::kSuccess) {
    // The library without a driver is usual in images that run with and without GPUs.
    failed(node, "NVML does not start: " + words(api, code), "nvmlInit_v2 of " + clean_text(api.library.path()), remedy(code),
           code == nvml::kDriverNotLoaded ? Severity::info : Severity::warning);
    return node;
  }
  node.sources.push_back("live: NVML");
  std::array<char, 96> text{};
  if (ok(api.driver_version, text.data(), unsigned{text.size()})) node.host.driver_version = text_of(text);
  int cuda = 0;
  if (ok(api.cuda_version, &cuda) && cuda > 0) node.host.cuda_driver_version = fmt::format("{}.{}", cuda / 1000, cuda % 1000 / 10);
  read_devices(api, node);
  if (api.shutdown) api.shutdown();
  return node;
}

}  // namespace dsinfer::topology
