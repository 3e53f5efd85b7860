/// The parts of read_sysfs(), by noun. Each reads what is there and says nothing of what is not.
#pragma once
#include <string>
#include <vector>

#include "topology/names.hpp"
#include "topology/tree.hpp"

namespace dsinfer::topology {

/// Bus id of the innermost PCI function on the way to `path` (a netdev, a verbs device, a virtio device on it); "" if there is none.
DSINFER_INTERNAL std::string pci_function_of(const Tree& tree, const std::string& path);

/// Leaves out PCI functions that have no say in topology (memory controllers, USB …).
DSINFER_INTERNAL void keep_what_matters(Node& node);

DSINFER_INTERNAL std::vector<PciDevice> read_pci(const Tree& tree);                             ///< sysfs_pci.cpp
DSINFER_INTERNAL std::vector<Hca> read_verbs_devices(const Tree& tree);                         ///< sysfs_rdma.cpp
DSINFER_INTERNAL void read_character_devices(const Tree& tree, Host& host);                     ///< sysfs_rdma.cpp: /dev/infiniband
DSINFER_INTERNAL std::vector<Interface> read_interfaces(const Tree& tree);                      ///< sysfs_net.cpp
DSINFER_INTERNAL void read_processors(const Tree& tree, Host& host);                            ///< sysfs_cpu.cpp: packages, cores, NUMA, memory
DSINFER_INTERNAL void read_host(const Tree& tree, Host& host);                                  ///< sysfs_host.cpp: names, system, virtual or not
DSINFER_INTERNAL void read_nvidia(const Tree& tree, Node& node);                                ///< sysfs_nvidia.cpp: driver, GPUs, peer memory
DSINFER_INTERNAL std::string read_iommu(const Tree& tree, const std::vector<PciDevice>& pci);   ///< sysfs_nvidia.cpp: Host::iommu

}  // namespace dsinfer::topology
