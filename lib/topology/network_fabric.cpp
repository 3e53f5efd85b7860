// Fabrics that need a network plug-in outside NCCL, told by their devices; and how many network functions there are.
#include <arpa/inet.h>

#include <algorithm>
#include <set>

#include "topology/pci_order.hpp"
#include "topology/lines.hpp"
#include "topology/ports.hpp"

namespace dsinfer::topology {
namespace {

constexpr uint32_t kAmazon = 0x1d0f, kGoogle = 0x1ae0;

// Devices listed; where the listing breaks off after EFA devices only, the character devices beside it count.
int count_efa(const Node& node) {
  std::set<std::string> efa;
  bool others = false;
  for (const Hca& hca : node.hcas) {
    const PciDevice* function = find_pci(node, hca.bus_id);
    const bool is = hca.vendor_id == kAmazon || (function && is_efa(function->vendor, function->device));
    if (is) efa.insert(name_of(hca));
    others = others || !is;
  }
  const auto functions =
      static_cast<size_t>(std::count_if(node.pci.begin(), node.pci.end(), [](const PciDevice& d) { return is_efa(d.vendor, d.device); }));
  size_t count = std::max(efa.size(), functions);
  if (count > 0 && !others && !node.hcas_complete && node.host.uverbs) count = std::max(count, node.host.uverbs->size());
  return static_cast<int>(count);
}

// Google's MAC addresses are 42:01 and the IPv4 address.
bool google_mac(const Interface& interface) {
  if (!interface.mac.starts_with("42:01:")) return false;
  return std::any_of(interface.addresses.begin(), interface.addresses.end(), [&](const Address& address) {
    unsigned char bytes[4];
    if (inet_pton(AF_INET, address.ip.c_str(), bytes) != 1) return false;
    static constexpr char digits[] = "0123456789abcdef";
    std::string mac = "42:01";
    for (const unsigned char byte : bytes) mac += std::string(":") + digits[byte >> 4] + digits[byte & 15];
    return mac == interface.mac;
  });
}

bool sets(const Node& node, std::string_view prefix) {
  return std::any_of(node.settings.begin(), node.settings.end(), [&](const Setting& s) { return s.name.starts_with(prefix); });
}

// A3 High has four data NICs (TCPX), A3 Mega eight of them, which are functions f0 of multi-function cards (TCPXO).
std::string google_fabric(const Node& node) {
  const std::string plugin = lower_case(node.host.net_plugin);
  if (sets(node, "NCCL_FASTRAK_") || plugin.find("fastrak") != plugin.npos || plugin.find("tcpxo") != plugin.npos) return "tcpxo";
  if (sets(node, "NCCL_GPUDIRECTTCPX_") || plugin.find("tcpx") != plugin.npos) return "tcpx";
  if (!node.hcas.empty()) return "";  // A3 Ultra and later: RoCE
  const bool no_gpus = node.gpus_complete && node.gpus.empty();
  size_t nics = 0, functions = 0;
  bool google = false, mega_name = false;
  for (const Interface& interface : node.interfaces) {
    if (!google_mac(interface)) continue;
    google = true;
    ++nics;
    mega_name = mega_name || (interface.name.starts_with("enp") && interface.name.ends_with("s0f0"));
  }
  for (const PciDevice& device : node.pci) functions += device.vendor == kGoogle && is_nic_class(device.class_code);
  if ((!google && functions == 0) || no_gpus) return "";
  nics = std::max(nics, functions);
  if (mega_name || nics > 5) return "tcpxo";
  return nics == 5 ? "tcpx" : "";
}

}  // namespace

void choose_fabric(Node& node) {
  Network& network = node.network;
  if (node.pci_complete) {
    network.nic_count =
        static_cast<int>(std::count_if(node.pci.begin(), node.pci.end(), [](const PciDevice& d) { return is_nic_class(d.class_code); }));
  }
  const int efa = count_efa(node);
  const auto& providers = node.host.fabric_providers;
  const bool provider = std::find(providers.begin(), providers.end(), "efa") != providers.end();
  if (efa > 0) network.efa_count = efa;
  network.plugin_fabric = efa > 0 || provider ? "efa" : google_fabric(node);
  if (provider && efa == 0 && node.hcas.empty() &&
      network.transport == Transport::unknown) {  // libfabric shows EFA, nobody lists verbs devices
    network.transport = Transport::socket;
    network.hcas.emplace();
    network.hca_count = 0;
  }
  if (network.plugin_fabric == "efa" && network.transport == Transport::socket && network.fallback_reason != "disabled-by-user") {
    network.fallback_reason = "efa-needs-plugin";
  }
}

}  // namespace dsinfer::topology
