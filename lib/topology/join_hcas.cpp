// Verbs devices of several sources as one list.
#include <set>

#include "topology/joining.hpp"
#include "topology/pci_order.hpp"

namespace dsinfer::topology {
namespace {

// The table of one source stays whole; another adds what it left open at the same index.
void join_gids(HcaPort& into, const HcaPort& from) {
  if (from.gid_table && !into.gid_table) {
    into.gids = from.gids;
    into.gid_table = true;
    return;
  }
  if (into.gid_table && !from.gid_table) return;
  std::map<int, Gid*> at;
  for (Gid& gid : into.gids) at.emplace(gid.index, &gid);
  std::vector<Gid> more;
  for (const Gid& gid : from.gids) {
    const auto it = at.find(gid.index);
    if (it == at.end()) {
      more.push_back(gid);
      continue;
    }
    fill(it->second->address, gid.address);
    fill(it->second->roce_version, gid.roce_version);
    fill(it->second->netdev, gid.netdev);
  }
  into.gids.insert(into.gids.end(), more.begin(), more.end());
  std::stable_sort(into.gids.begin(), into.gids.end(), [](const Gid& a, const Gid& b) { return a.index < b.index; });
}

void join_port(HcaPort& into, const HcaPort& from) {
  fill(into.state, from.state);
  fill(into.phys_state, from.phys_state);
  fill(into.link_layer, from.link_layer);
  fill(into.rate_gbps, from.rate_gbps);
  fill(into.lid, from.lid, -1);
  fill(into.sm_lid, from.sm_lid, -1);
  fill(into.active_mtu, from.active_mtu);
  join_gids(into, from);
  for (const std::string& netdev : from.netdevs) add_once(into.netdevs, netdev);
  fill(into.netdev_up, from.netdev_up);
}

// NCCL's XML sets the function digit to 0; the other source knows it.
void join_bus_id(std::string& into, const std::string& from) {
  if (into.empty() || (same_slot(into, from) && into.ends_with(".0"))) into = from.empty() ? into : from;
}

void join_hca(Hca& into, const Hca& from) {
  fill(into.name, from.name);
  join_bus_id(into.bus_id, from.bus_id);
  fill(into.node_type, from.node_type);
  fill(into.vendor_id, from.vendor_id);
  fill(into.part_id, from.part_id);
  for (auto field : {&Hca::node_guid, &Hca::sys_image_guid, &Hca::board_id, &Hca::firmware, &Hca::physical_function}) {
    fill(into.*field, from.*field);
  }
  fill(into.numa, from.numa, -1);
  fill(into.device_link, from.device_link);
  if (from.openable && (!into.openable || !*from.openable)) into.openable = from.openable;  // one that could not open it has seen the wall
  into.sysfs_missing = into.sysfs_missing || from.sysfs_missing;
  into.named_only = into.named_only && from.named_only;
  fill(into.port_count, from.port_count);
  for (const HcaPort& port : from.ports) {
    const auto same = std::find_if(into.ports.begin(), into.ports.end(), [&](const HcaPort& p) { return p.number == port.number; });
    if (same == into.ports.end())
      into.ports.push_back(port);
    else
      join_port(*same, port);
  }
}

// NCCL's XML counts the functions of a card as its ports: mlx5_1 "port 2" beside mlx5_0 on one card is port 1 of its own device.
void renumber_functions(std::vector<Hca>& hcas) {
  std::map<std::string, int> devices_at;
  for (const Hca& hca : hcas) devices_at[hca.bus_id] += !hca.bus_id.empty() && !hca.name.empty();
  for (Hca& hca : hcas) {
    if (devices_at[hca.bus_id] > 1 && hca.ports.size() == 1) hca.ports.front().number = 1;
  }
}

// udev names a device by its place; that place is the device's where a PCI listing has a function there.
void place_by_name(Node& node) {
  std::map<PciKey, const PciDevice*> functions;
  for (const PciDevice& device : node.pci) {
    if (const auto key = pci_key(device.bus_id)) functions.emplace(*key, &device);
  }
  for (Hca& hca : node.hcas) {
    const auto key = hca.bus_id.empty() ? pci_key_of_name(hca.name) : std::nullopt;
    if (const auto it = key ? functions.find(*key) : functions.end(); it != functions.end()) hca.bus_id = it->second->bus_id;
  }
}

// Lists of one source, before joining: function numbers are not ports, and a device that the source lists twice is one.
std::vector<Hca> own_list(const Node& part) {
  std::vector<Hca> out;
  std::map<std::string, size_t> place;
  for (const Hca& hca : part.hcas) {
    const auto [it, fresh] = place.emplace(hca.name.empty() ? hca.bus_id : hca.name, out.size());
    if (fresh)
      out.push_back(hca);
    else
      join_hca(out[it->second], hca);
  }
  renumber_functions(out);
  return out;
}

}  // namespace

void join_hcas(Node& node, const std::vector<Node>& parts, const std::vector<size_t>& order, std::vector<Names>& names) {
  std::vector<std::vector<Hca>> lists;
  for (const Node& part : parts) lists.push_back(own_list(part));
  std::map<std::string, size_t> by_name, by_bus;
  std::vector<std::pair<size_t, Hca>> unnamed;  // part, device
  for (const size_t i : order) {
    for (const Hca& hca : lists[i]) {
      if (hca.name.empty()) {
        unnamed.emplace_back(i, hca);
        continue;
      }
      const auto [it, fresh] = by_name.emplace(hca.name, node.hcas.size());
      if (fresh)
        node.hcas.push_back(hca);
      else
        join_hca(node.hcas[it->second], hca);
    }
  }
  place_by_name(node);
  bool places_open = false;  // some named device's function is unknown: it may be any of the unnamed
  for (size_t k = 0; k < node.hcas.size(); ++k) {
    if (node.hcas[k].bus_id.empty())
      places_open = true;
    else
      by_bus.emplace(node.hcas[k].bus_id, k);
  }
  for (const auto& [part, hca] : unnamed) {
    const auto it = by_bus.find(hca.bus_id);
    if (it != by_bus.end()) {
      const std::string name = node.hcas[it->second].name;
      join_hca(node.hcas[it->second], hca);
      names[part].emplace(hca.bus_id, name.empty() ? hca.bus_id : name);
    } else if (!places_open && !node.hcas_complete && !hca.bus_id.empty()) {
      by_bus.emplace(hca.bus_id, node.hcas.size());
      node.hcas.push_back(hca);
    }
  }
  for (Hca& hca : node.hcas) {
    std::stable_sort(hca.ports.begin(), hca.ports.end(), [](const HcaPort& a, const HcaPort& b) { return a.number < b.number; });
  }
}

}  // namespace dsinfer::topology
