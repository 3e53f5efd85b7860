/// Words for the enums of cluster.hpp, and the one spelling of bus ids, GUIDs and addresses that all sources are brought to.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "dsinfer/cluster.hpp"

namespace dsinfer::topology {

/// "ib", "roce", "socket"; "" for unknown. Likewise below: the words are those of the JSON form.
DSINFER_INTERNAL std::string_view word(Transport value);
DSINFER_INTERNAL std::string_view word(LinkLayer value);      ///< "InfiniBand", "Ethernet", "Unspecified", ""
DSINFER_INTERNAL std::string_view word(PortState value);      ///< "DOWN", "INIT", "ARMED", "ACTIVE", ""
DSINFER_INTERNAL std::string_view word(PathKind value);       ///< "X", "NVL", "C2C", "PIX", "PXB", "PHB", "NODE", "SYS", ""
DSINFER_INTERNAL std::string_view word(Severity value);       ///< "info", "warning", "error"
DSINFER_INTERNAL std::string_view word(Hca::NodeType value);  ///< "CA", "RNIC", "usNIC", "unspecified", ""
DSINFER_INTERNAL std::string_view word(NvLink::Remote value); ///< "gpu", "nvswitch", "cpu", ""

/// The reverse, whatever the case; nullopt for other words ("" gives the unknown value).
DSINFER_INTERNAL std::optional<Transport> transport_of(std::string_view word);
DSINFER_INTERNAL std::optional<LinkLayer> link_layer_of(std::string_view word);
/// Also "4: ACTIVE", "PORT_ACTIVE (4)", "Initializing".
DSINFER_INTERNAL std::optional<PortState> port_state_of(std::string_view word);
DSINFER_INTERNAL std::optional<PathKind> path_kind_of(std::string_view word);
DSINFER_INTERNAL std::optional<Severity> severity_of(std::string_view word);
DSINFER_INTERNAL std::optional<Hca::NodeType> node_type_of(std::string_view word);
DSINFER_INTERNAL std::optional<NvLink::Remote> remote_of(std::string_view word);

/// "00000000:8B:00.0", "8b:00.0" → "0000:8b:00.0"; domains above ffff keep their digits; "" if it is no bus id.
DSINFER_INTERNAL std::string bus_id_of(std::string_view text);
/// "5: LinkUp", "LINK_UP (5)", "LinkUp" → "LinkUp"; "3: Disabled" → "Disabled".
DSINFER_INTERNAL std::string phys_state_of(std::string_view text);
/// "400 Gb/sec (4X NDR)", "400", "2.5 Gb/sec" → 400, 400, 2.5; 0 if there is no number.
DSINFER_INTERNAL double rate_of(std::string_view text);
/// Any text form of an IPv6 address or GID, IPv4 too → as inet_ntop prints it; "" if it is none.
DSINFER_INTERNAL std::string address_of(std::string_view text);
/// PCIe "16.0 GT/s PCIe" × width → GB/s one way after line coding; unknown speed 0 → 0, unknown width → 16.
DSINFER_INTERNAL double pcie_gb_per_s(std::string_view speed, int width);

DSINFER_INTERNAL bool is_gpu_class(uint32_t class_code, uint32_t vendor);  ///< 0x0302xx; 0x0300xx of NVIDIA
DSINFER_INTERNAL bool is_nic_class(uint32_t class_code);                   ///< 0x02xxxx
DSINFER_INTERNAL bool is_efa(uint32_t pci_vendor, uint32_t pci_device);    ///< 0x1d0f, 0xefaN

/// Bytes that are no UTF-8 become U+FFFD, control characters other than tab and newline go.
DSINFER_INTERNAL std::string clean_text(std::string_view text);

}  // namespace dsinfer::topology
