/// The order of devices on the PCI bus: the one order of HCAs that is equal on nodes of one kind, whatever their names.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "topology/names.hpp"

namespace dsinfer::topology {

using PciKey = std::array<uint32_t, 4>;  ///< domain, bus, device, function

/// Of "0000:19:00.0"; nullopt if it is no bus id.
DSINFER_INTERNAL std::optional<PciKey> pci_key(std::string_view bus_id);
/// Of a name that udev made from the place: rocep4s0f0, ibP2p1s0, enp27s0f0np0. Numbers in such names are decimal.
DSINFER_INTERNAL std::optional<PciKey> pci_key_of_name(std::string_view name);
/// By bus id; what is none comes last.
DSINFER_INTERNAL bool pci_before(std::string_view a, std::string_view b);
/// Equal but for the function.
DSINFER_INTERNAL bool same_slot(std::string_view a, std::string_view b);

}  // namespace dsinfer::topology
