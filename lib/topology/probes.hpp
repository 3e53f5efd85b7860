/// Live sources. Each gives a Node with what it knows and never throws for something absent; join() brings them together.
#pragma once
#include <string>

#include "topology/names.hpp"

namespace dsinfer::topology {

DSINFER_INTERNAL Node probe_nvml(const std::string& library);    ///< GPUs, NVLink, peer matrix, driver; library opened at run time
DSINFER_INTERNAL Node probe_verbs(const std::string& library);   ///< verbs devices, ports, GIDs; whether each can be opened
DSINFER_INTERNAL Node probe_netlink();                           ///< interfaces, addresses, routes of this network namespace
DSINFER_INTERNAL Node probe_process(const ProbeOptions& options);///< limits, control group, environment, nccl.conf files, NCCL library and plug-ins
/// The NCCL that the loader would take, its version and SHA-256, and the network plug-in beside it. Nothing is loaded: files are read.
DSINFER_INTERNAL void find_nccl(const std::string& library, Node& node);
/// Where the loader would find a library: what is loaded already, LD_LIBRARY_PATH, its cache, the system's folders; "" if nowhere.
DSINFER_INTERNAL std::string loader_path(const std::string& library);

/// A container's sysfs shows all GPUs of the machine, NVML those that it was given: the others are left out of `tree`, and said.
DSINFER_INTERNAL void keep_given_gpus(const Node& nvml, Node& tree);

}  // namespace dsinfer::topology
