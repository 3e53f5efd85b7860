#include "topology/probes.hpp"
#include "topology/verbs.hpp"
#ifdef DSINFER_VERBS
#include <arpa/inet.h>
#include <endian.h>
#include <fmt/format.h>
#include <net/if.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace dsinfer::topology {
namespace {

std::string guid_text(__be64 guid) {
  const uint64_t value = be64toh(guid);
  return fmt::format("{:04x}:{:04x}:{:04x}:{:04x}", value >> 48, value >> 32 & 0xffff, value >> 16 & 0xffff, value & 0xffff);
}

Hca::NodeType node_type_of(const ibv_device& device) {
  switch (static_cast<int>(device.node_type)) {
    case 1: return Hca::NodeType::ca;
    case 4: return Hca::NodeType::rnic;
    case 5: case 6: return Hca::NodeType::usnic;
    case 7: return Hca::NodeType::unspecified;
    default: return Hca::NodeType::unknown;
  }
}

double lane_gbps(uint32_t speed) {
  switch (speed) {
    case 1: return 2.5;
    case 2: return 5;
    case 4: case 8: return 10;
    case 16: return 14;
    case 32: return 25;
    case 64: return 50;
    case 128: return 100;
    case 256: return 200;
    default: return 0;
  }
}
int lanes(uint8_t width) { return width == 1 ? 1 : width == 2 ? 4 : width == 4 ? 8 : width == 8 ? 12 : width == 16 ? 2 : 0; }

PortState state_of(int state) {
  constexpr PortState kStates[] = {PortState::down, PortState::down, PortState::init, PortState::armed, PortState::active, PortState::active};
  return state >= 0 && state < 6 ? kStates[state] : PortState::unknown;
}
const char* phys_state_text(uint8_t state) {
  constexpr const char* kStates[] = {"", "Sleep", "Polling", "Disabled", "PortConfigurationTraining", "LinkUp", "LinkErrorRecovery"};
  return state < 7 ? kStates[state] : "";
}
// Before link layers were told (kernels up to 2.6.36) everything was InfiniBand; an unspecified one of a vendor without RC stays so.
LinkLayer link_layer_of(uint8_t layer, const Hca& hca) {
  if (layer == 1) return LinkLayer::infiniband;
  if (layer == 2) return LinkLayer::ethernet;
  return hca.node_type == Hca::NodeType::ca ? LinkLayer::unknown : LinkLayer::unspecified;
}

std::string address_text(const ibv_gid& gid) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  return inet_ntop(AF_INET6, gid.raw, text.data(), text.size()) ? text.data() : "";
}

std::string netdev_of(unsigned index) {
  std::array<char, IF_NAMESIZE> name{};
  return index > 0 && if_indextoname(index, name.data()) ? clean_text(name.data()) : "";
}

bool zero(const ibv_gid& gid) {
  return std::all_of(std::begin(gid.raw), std::end(gid.raw), [](uint8_t byte) { return byte == 0; });
}

// One call for the whole device; it leaves empty entries out. False where library or kernel cannot.
bool read_gid_table(const VerbsApi& api, ibv_context* context, Hca& hca, size_t entries) {
  if (!api.query_gid_table) return false;
  std::vector<ibv_gid_entry> table(entries);
  const ssize_t got = api.query_gid_table(context, table.data(), table.size(), 0, sizeof(ibv_gid_entry));
  if (got < 0) return false;
  table.resize(std::min(table.size(), static_cast<size_t>(got)));
  for (const ibv_gid_entry& entry : table) {
    for (HcaPort& port : hca.ports) {
      if (port.number != static_cast<int>(entry.port_num) || zero(entry.gid)) continue;
      const int version = port.link_layer == LinkLayer::infiniband ? 0 : entry.gid_type == IBV_GID_TYPE_ROCE_V2 ? 2 : 1;
      port.gids.push_back({static_cast<int>(entry.gid_index), address_text(entry.gid), version, netdev_of(entry.ndev_ifindex), true});
    }
  }
  for (HcaPort& port : hca.ports) port.gid_table = true;
  return true;
}

void read_gids_one_by_one(const VerbsApi& api, ibv_context* context, HcaPort& port, int entries) {
  if (!api.query_gid) return;
  const auto number = static_cast<uint8_t>(port.number);
  for (int i = 0; i < entries; ++i) {
    ibv_gid gid{};
    if (api.query_gid(context, number, i, &gid) != 0 || zero(gid)) continue;
    int type = -1;
    if (!api.query_gid_type || api.query_gid_type(context, number, static_cast<unsigned>(i), &type) != 0) type = -1;
    const int version = port.link_layer == LinkLayer::infiniband || type < 0 ? 0 : type + 1;
    port.gids.push_back({i, address_text(gid), version, "", true});
  }
  port.gid_table = true;
}

HcaPort read_port(const VerbsApi& api, ibv_context* context, const Hca& hca, int number, int& gids) {
  HcaPort port;
  port.number = number;
  ibv_port_attr attributes;
  if (api.query_port(context, static_cast<uint8_t>(number), &attributes) != 0) return port;
  port.state = state_of(attributes.state);
  port.phys_state = phys_state_text(attributes.phys_state);
  port.link_layer = link_layer_of(attributes.link_layer, hca);
  port.rate_gbps = lane_gbps(attributes.active_speed) * lanes(attributes.active_width);  // XDR does not fit the field: unknown here, sysfs has it
  port.lid = attributes.lid;
  port.sm_lid = attributes.sm_lid;
  port.active_mtu = attributes.active_mtu >= 1 && attributes.active_mtu <= 5 ? 128 << attributes.active_mtu : 0;
  gids = std::clamp(attributes.gid_tbl_len, 0, 4096);
  return port;
}

void read_device(const VerbsApi& api, ibv_context* context, Hca& hca) {
  ibv_device_attr attributes{};
  if (!api.query_device || api.query_device(context, &attributes) != 0) return;
  hca.vendor_id = attributes.vendor_id;
  hca.part_id = attributes.vendor_part_id;
  hca.firmware = clean_text(std::string_view(attributes.fw_ver, strnlen(attributes.fw_ver, sizeof attributes.fw_ver)));
  hca.sys_image_guid = guid_text(attributes.sys_image_guid);
  hca.port_count = attributes.phys_port_cnt;
  std::vector<int> entries;
  for (int number = 1; number <= attributes.phys_port_cnt; ++number) {
    int gids = 0;
    hca.ports.push_back(read_port(api, context, hca, number, gids));
    entries.push_back(gids);
  }
  size_t all = 0;
  for (const int gids : entries) all += static_cast<size_t>(gids);
  if (all == 0 || read_gid_table(api, context, hca, all)) return;
  for (size_t i = 0; i < hca.ports.size(); ++i) read_gids_one_by_one(api, context, hca.ports[i], entries[i]);
}

}  // namespace

Node probe_verbs(const std::string& library) {
  Node node;
  const VerbsApi api(library);
  if (!api.library || !api.can_list()) {
    if (!api.library.error().empty()) {
      node.findings.push_back({"verbs-failed", Severity::warning, {}, library + " cannot be opened", {clean_text(api.library.error())},
                               "install rdma-core's libraries of one version"});
    }
    return node;
  }
  node.host.verbs_library = clean_text(api.library.path());
  int count = 0;
  errno = 0;
  ibv_device** devices = api.get_device_list(&count);
  const int code = errno;
  if (!devices && code != ENOSYS && code != ENODEV && code != ENOENT) {
    node.findings.push_back({"verbs-failed", Severity::warning, {}, "libibverbs does not list its devices",
                             {fmt::format("ibv_get_device_list: {}", std::strerror(code))}, "see /dev/infiniband and dmesg"});
    return node;
  }
  node.sources.push_back("live: libibverbs");
  node.hcas_complete = true;  // ENOSYS: this kernel has no RDMA
  for (int i = 0; devices && i < count; ++i) {
    Hca hca;
    const char* name = api.device_name(devices[i]);
    hca.name = clean_text(name ? name : "");
    hca.node_type = node_type_of(*devices[i]);
    if (api.device_guid) hca.node_guid = guid_text(api.device_guid(devices[i]));
    errno = 0;
    ibv_context* context = api.open_device(devices[i]);
    hca.openable = context != nullptr;
    if (context) {
      read_device(api, context, hca);
      api.close_device(context);
    } else {
      node.findings.push_back({"device-not-openable", Severity::warning, {}, "libibverbs lists " + hca.name + " but cannot open it",
                               {fmt::format("ibv_open_device({}): {}", hca.name, std::strerror(errno))},
                               "give the process its /dev/infiniband/uverbs device (containers: --device /dev/infiniband, or a device plugin)"});
    }
    node.hcas.push_back(std::move(hca));
  }
  if (devices) api.free_device_list(devices);
  return node;
}

}  // namespace dsinfer::topology
#else
namespace dsinfer::topology {

Node probe_verbs(const std::string&) { return {}; }  // built without verbs.h: sysfs tells of HCAs

}  // namespace dsinfer::topology
#endif
