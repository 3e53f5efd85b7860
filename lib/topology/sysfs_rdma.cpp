// Verbs devices of a sysfs tree: what libibverbs would say, and which character devices a process could open.
#include <algorithm>
#include <charconv>

#include "topology/sysfs.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMaxHcas = 1024, kMaxPorts = 256;
constexpr size_t kMaxGids = 4096;    // of an Ethernet port: tables hold up to 256 on today's cards
constexpr size_t kInfinibandGids = 32;  // only entries 0 and 1 matter there; cards with many virtual functions list thousands

const std::string kClass = "sys/class/infiniband";

std::string text(const Tree& tree, const std::string& path) { return clean_text(tree.line(path).value_or("")); }

Hca::NodeType node_type(const Tree& tree, const std::string& path) {
  const std::string line = text(tree, path);
  switch (line.empty() ? '0' : line[0]) {  // "1: CA"; words changed between kernels, numbers did not
    case '1': return Hca::NodeType::ca;
    case '4': return Hca::NodeType::rnic;
    case '5':
    case '6': return Hca::NodeType::usnic;
    case '7': return Hca::NodeType::unspecified;
    default: return Hca::NodeType::unknown;
  }
}

std::string guid(const Tree& tree, const std::string& path) {
  const std::string line = text(tree, path);
  return line.find_first_not_of("0:") == line.npos ? "" : line;
}

bool is_zero_gid(const std::string& address) { return address.empty() || address == "::" || address == "fe80::"; }

std::optional<int> index_of(const std::string& name) {
  int index = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  return error == std::errc() && end == name.data() + name.size() && index >= 0 ? std::optional(index) : std::nullopt;
}

void add_netdev(HcaPort& port, const std::string& name) {
  if (!name.empty() && std::find(port.netdevs.begin(), port.netdevs.end(), name) == port.netdevs.end()) port.netdevs.push_back(name);
}

void read_gids(const Tree& tree, const std::string& base, HcaPort& port) {
  const bool infiniband = port.link_layer == LinkLayer::infiniband;
  const bool attributes = tree.exists(base + "/gid_attrs");
  size_t count = 0;
  port.gid_table = false;
  for (const std::string& name : tree.list(base + "/gids")) {
    const auto index = index_of(name);
    if (!index) continue;
    if (++count > (infiniband ? kInfinibandGids : kMaxGids)) return;
    Gid gid;
    gid.index = *index;
    gid.address = address_of(text(tree, base + "/gids/" + name));
    if (is_zero_gid(gid.address)) continue;
    const auto type = attributes ? tree.line(base + "/gid_attrs/types/" + name) : std::nullopt;
    if (type && !infiniband) gid.roce_version = type->find("v2") != type->npos ? 2 : type->find("v1") != type->npos ? 1 : 0;
    if (!attributes && port.link_layer == LinkLayer::ethernet) gid.roce_version = 1;  // kernels before 4.5 know RoCE v1 only
    if (attributes && !type) gid.readable = false;  // EINVAL: the entry is of another network namespace
    gid.netdev = attributes ? text(tree, base + "/gid_attrs/ndevs/" + name) : "";
    add_netdev(port, gid.netdev);
    port.gids.push_back(std::move(gid));
  }
  port.gid_table = count > 0;
}

int local_id(const Tree& tree, const std::string& path) {
  const auto number = tree.number(path);
  return number && *number > 0 && *number <= 0xffff ? static_cast<int>(*number) : 0;
}

HcaPort read_port(const Tree& tree, const std::string& base, int number) {
  HcaPort port;
  port.number = number;
  port.state = port_state_of(text(tree, base + "/state")).value_or(PortState::unknown);
  port.phys_state = phys_state_of(text(tree, base + "/phys_state"));
  port.link_layer = link_layer_of(text(tree, base + "/link_layer")).value_or(LinkLayer::unknown);
  port.rate_gbps = rate_of(text(tree, base + "/rate"));
  if (tree.exists(base + "/lid")) port.lid = local_id(tree, base + "/lid");
  if (tree.exists(base + "/sm_lid")) port.sm_lid = local_id(tree, base + "/sm_lid");
  read_gids(tree, base, port);
  return port;
}

// Interfaces of the same PCI function belong to the port whose number is their dev_port + 1 (dev_id on old mlx4, where dev_port stays 0),
// and to ports of their own kind of link. Representors of virtual functions stand beside the real interface and are left out.
void add_netdevs(const Tree& tree, const std::string& device, Hca& hca) {
  for (const std::string& name : tree.list(device + "/net")) {
    const std::string base = device + "/net/" + name, port_name = text(tree, base + "/phys_port_name");
    if (port_name.find("vf") != port_name.npos || port_name.find("sf") != port_name.npos) continue;
    const long long number = std::max(tree.number(base + "/dev_port").value_or(0), tree.number(base + "/dev_id").value_or(0)) + 1;
    const auto type = tree.number(base + "/type");
    for (HcaPort& port : hca.ports) {
      const bool fits = !type || port.link_layer == LinkLayer::unknown || (*type == 32) == (port.link_layer == LinkLayer::infiniband);
      if (fits && (hca.ports.size() == 1 || port.number == number)) add_netdev(port, clean_text(name));
    }
  }
}

void read_identity(const Tree& tree, const std::string& base, Hca& hca) {
  hca.node_type = node_type(tree, base + "/node_type");
  hca.node_guid = guid(tree, base + "/node_guid");
  hca.sys_image_guid = guid(tree, base + "/sys_image_guid");
  hca.board_id = text(tree, base + "/board_id");
  hca.firmware = text(tree, base + "/fw_ver");
  if (const auto vendor = tree.number(base + "/device/vendor"); vendor && *vendor > 0 && *vendor <= 0xffff) {
    hca.vendor_id = *vendor == 0x15b3 ? 0x02c9 : static_cast<uint32_t>(*vendor);  // verbs has the OUI for Mellanox
    const auto part = tree.number(base + "/device/device");
    if (part && *part > 0 && *part <= 0xffff) hca.part_id = static_cast<uint32_t>(*part);
  }
  if (const std::string type = text(tree, base + "/hca_type"); type.starts_with("MT")) {
    const auto part = index_of(type.substr(2));
    if (part && *part > 0) hca.part_id = static_cast<uint32_t>(*part);
    hca.vendor_id = 0x02c9;
  }
  if (tree.exists(base + "/parent")) {  // only Soft-RoCE has this file: the interface that it sits on
    hca.vendor_id = 0xffffff;
    hca.part_id = 0;
  }
}

Hca read_device(const Tree& tree, const std::string& name) {
  Hca hca;
  hca.name = clean_text(name);
  const std::string base = kClass + "/" + name, device = base + "/device";
  if (!tree.exists(base)) {
    hca.sysfs_missing = true;
    hca.bus_id = pci_function_of(tree, base);
    return hca;
  }
  read_identity(tree, base, hca);
  hca.bus_id = tree.exists(device) ? pci_function_of(tree, device) : "";
  if (hca.bus_id.empty()) hca.bus_id = pci_function_of(tree, base);
  if (tree.exists(device)) hca.device_link = true;
  else if (tree.resolve(base).value_or("").find("/virtual/") != std::string::npos) hca.device_link = false;
  if (const auto numa = tree.number(device + "/numa_node"); numa && *numa >= 0 && *numa <= 65535) hca.numa = static_cast<int>(*numa);
  if (tree.exists(device + "/physfn")) hca.physical_function = pci_function_of(tree, device + "/physfn");
  for (const std::string& number : tree.list(base + "/ports")) {
    const auto index = index_of(number);
    if (index && *index > 0 && hca.ports.size() < kMaxPorts) hca.ports.push_back(read_port(tree, base + "/ports/" + number, *index));
  }
  if (tree.exists(base + "/ports") && !tree.unreadable(base + "/ports")) hca.port_count = static_cast<int>(hca.ports.size());
  add_netdevs(tree, device, hca);
  return hca;
}

}  // namespace

std::vector<Hca> read_verbs_devices(const Tree& tree) {
  std::vector<Hca> hcas;
  for (const std::string& name : tree.list(kClass)) {
    if (hcas.size() < kMaxHcas) hcas.push_back(read_device(tree, name));
  }
  const bool linked = std::any_of(hcas.begin(), hcas.end(), [](const Hca& h) { return h.device_link == true; });
  for (Hca& hca : hcas) {  // where nobody has the link, the tree was copied without: that tells nothing
    if (linked && !hca.device_link && !hca.sysfs_missing) hca.device_link = false;
  }
  return hcas;
}

void read_character_devices(const Tree& tree, Host& host) {
  if (!tree.exists("dev/infiniband") && !tree.exists("dev/null")) return;  // /dev was not captured
  host.uverbs.emplace();
  host.rdma_cm = tree.exists("dev/infiniband/rdma_cm");
  for (const std::string& name : tree.list("dev/infiniband")) {
    if (name.starts_with("uverbs") && host.uverbs->size() < kMaxHcas) host.uverbs->push_back(clean_text(name));
  }
}

}  // namespace dsinfer::topology
