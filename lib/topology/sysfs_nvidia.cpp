// What the NVIDIA driver shows in files (where NVML cannot be asked), peer memory, and the IOMMU between GPUs and NICs.
#include <algorithm>
#include <cctype>

#include "topology/sysfs.hpp"

namespace dsinfer::topology {
namespace {

std::string text(const Tree& tree, const std::string& path) { return clean_text(tree.line(path).value_or("")); }

// "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (…)": the first word of digits and dots.
std::string driver_version(const Tree& tree) {
  const std::string line = text(tree, "proc/driver/nvidia/version");
  for (size_t at = 0; at < line.size();) {
    const size_t end = std::min(line.find_first_of(" \t", at), line.size());
    const std::string word = line.substr(at, end - at);
    if (word.find('.') != word.npos && std::isdigit(static_cast<unsigned char>(word[0])) && word.find_first_not_of("0123456789.") == word.npos) return word;
    at = end + 1;
  }
  return text(tree, "sys/module/nvidia/version");
}

std::string field(const std::string& information, std::string_view key) {
  const size_t at = information.find(key);
  if (at == information.npos || (at > 0 && information[at - 1] != '\n')) return "";
  const size_t begin = information.find_first_not_of(" \t:", at + key.size());
  if (begin == information.npos || information.find('\n', at) < begin) return "";
  std::string value = information.substr(begin, std::min(information.find('\n', begin), information.size()) - begin);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.back()))) value.pop_back();
  return clean_text(value);
}

// /proc/driver/nvidia/gpus/<bus id>/information: "Model: …", "GPU UUID: …".
void read_gpus(const Tree& tree, Node& node) {
  for (const std::string& name : tree.list("proc/driver/nvidia/gpus")) {
    const std::string id = bus_id_of(name);
    if (id.empty() || node.gpus.size() >= 1024) continue;
    auto gpu = std::find_if(node.gpus.begin(), node.gpus.end(), [&](const Gpu& g) { return g.bus_id == id; });
    if (gpu == node.gpus.end()) {
      node.gpus.push_back({});
      gpu = std::prev(node.gpus.end());
      gpu->label = gpu->bus_id = id;
    }
    const std::string information = tree.read("proc/driver/nvidia/gpus/" + name + "/information").value_or("");
    gpu->name = field(information, "Model");
    gpu->uuid = field(information, "GPU UUID");
    if (gpu->uuid.find('?') != gpu->uuid.npos) gpu->uuid.clear();  // "GPU-????????-…" before the GPU was first used
  }
}

std::optional<bool> peer_memory(const Tree& tree) {
  for (const char* path : {"sys/kernel/mm/memory_peers/nv_mem/version", "sys/kernel/mm/memory_peers/nv_mem_nc/version",
                           "sys/module/nvidia_peermem/version"}) {
    if (tree.exists(path)) return true;
  }
  return tree.exists("sys/module") ? std::optional(false) : std::nullopt;  // of a partial capture it cannot be told
}

}  // namespace

void read_nvidia(const Tree& tree, Node& node) {
  node.host.driver_version = driver_version(tree);
  node.host.peer_memory = peer_memory(tree);
  read_gpus(tree, node);
}

std::string read_iommu(const Tree& tree, const std::vector<PciDevice>& pci) {
  const std::string groups = "sys/kernel/iommu_groups";
  if (!tree.exists(groups)) return "";
  const std::vector<std::string> all = tree.list(groups);
  if (all.empty()) return "off";
  bool identity = false;
  for (const PciDevice& device : pci) {  // only GPUs and NICs matter; others may be translated for good reasons
    if (!is_gpu_class(device.class_code, device.vendor) && !is_nic_class(device.class_code)) continue;
    const std::string type = text(tree, "sys/bus/pci/devices/" + device.bus_id + "/iommu_group/type");
    if (type.starts_with("DMA")) return "translated";
    identity = identity || type == "identity";
  }
  if (identity) return "passthrough";
  const std::string command_line = " " + text(tree, "proc/cmdline") + " ";
  for (const char* sign : {" iommu=pt ", " iommu.passthrough=1 "}) {
    if (command_line.find(sign) != command_line.npos) return "passthrough";
  }
  size_t seen = 0;
  for (const std::string& group : all) {
    const std::string type = text(tree, groups + "/" + group + "/type");
    if (type.starts_with("DMA")) return "translated";
    if (type == "identity") identity = true;
    if (++seen == 64) break;  // enough: groups are set up alike
  }
  return identity ? "passthrough" : "";
}

}  // namespace dsinfer::topology
