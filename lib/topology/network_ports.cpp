// Transport and HCA ports of one node.
#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "topology/importers.hpp"
#include "topology/pci_order.hpp"
#include "topology/lines.hpp"
#include "topology/ports.hpp"
#include "topology/tree.hpp"

namespace dsinfer::topology {
namespace {

std::optional<int> number_setting(const Node& node, std::string_view name) {
  const auto text = user_setting(node, name);
  int value = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), value).ec != std::errc()) return std::nullopt;
  return value;
}

std::string refused_by(const Node& node) {
  if (number_setting(node, "NCCL_IB_DISABLE").value_or(0) != 0) return "NCCL_IB_DISABLE=1";
  if (same_word(user_setting(node, "NCCL_NET").value_or(""), "Socket")) return "NCCL_NET=Socket";
  return "";
}

std::vector<Candidate> candidates_of(Node& node) {
  std::vector<Candidate> out;
  const std::string value = user_setting(node, "NCCL_IB_HCA").value_or("");
  const DeviceList list = DeviceList::parse(value);
  const std::string refused = refused_by(node);
  for (const Hca& hca : node.hcas) {
    std::vector<HcaPort> ports = hca.ports;
    if (ports.empty()) ports.emplace_back();  // every device has a port 1, where nobody counts them
    for (const HcaPort& port : ports) {
      Candidate candidate;
      candidate.hca = &hca;
      candidate.port = port;
      candidate.netdevs = netdevs_of_port(node, hca, port);
      candidate.port.link_layer = link_layer_of_port(node, hca, port, candidate.netdevs, node.network.judged);
      candidate.explicitly = !list.exclude && std::any_of(list.entries.begin(), list.entries.end(), [&](const auto& entry) {
        return entry.name == hca.name && (entry.port < 0 || entry.port == port.number);
      });
      if (!refused.empty())
        candidate.dropped = "disabled-by-user", candidate.text = refused;
      else if (!hca.name.empty() && !list.admits(hca.name, port.number)) {
        candidate.dropped = "not-in-user-list", candidate.text = "NCCL_IB_HCA=" + value;
      }
      out.push_back(std::move(candidate));
    }
  }
  return out;
}

// HCAs whose ports are of both kinds, with their netdevs.
void find_mixed(const Node& node, const std::vector<Candidate>& candidates, Network& network) {
  std::map<const Hca*, std::set<LinkLayer>> layers;
  std::map<const Hca*, std::vector<std::string>> netdevs;
  for (const Candidate& candidate : candidates) {
    if (candidate.port.link_layer != LinkLayer::unknown) layers[candidate.hca].insert(candidate.port.link_layer);
    for (const std::string& netdev : candidate.netdevs) {
      auto& list = netdevs[candidate.hca];
      if (std::find(list.begin(), list.end(), netdev) == list.end()) list.push_back(netdev);
      const Interface* interface = find_interface(node, netdev);
      if (candidate.netdevs.size() < 2) continue;
      const bool infiniband = netdev.starts_with("ib") || (interface && interface->type == "infiniband");
      layers[candidate.hca].insert(infiniband ? LinkLayer::infiniband : LinkLayer::ethernet);
    }
  }
  for (const auto& [hca, kinds] : layers) {
    if (kinds.contains(LinkLayer::infiniband) && kinds.contains(LinkLayer::ethernet)) network.mixed_ports[name_of(*hca)] = netdevs[hca];
  }
}

// PCI order, so that the n-th port of every node of one kind is the same port. A matrix lists in an order of its own; other tools by name.
void sort_by_place(const Node& node, std::vector<Candidate*>& ports) {
  std::map<std::string, size_t> listed;
  for (const Path& path : node.paths) {
    listed.emplace(path.a, listed.size());
    listed.emplace(path.b, listed.size());
  }
  const auto place = [](const Candidate* c) { return c->hca->bus_id.empty() ? pci_key_of_name(c->hca->name) : pci_key(c->hca->bus_id); };
  const bool all_listed = std::all_of(ports.begin(), ports.end(), [&](const Candidate* c) { return listed.contains(name_of(*c->hca)); });
  std::stable_sort(ports.begin(), ports.end(), [&](const Candidate* a, const Candidate* b) {
    const auto x = place(a), y = place(b);
    if (x.has_value() != y.has_value()) return x.has_value();
    if (x && *x != *y) return *x < *y;
    const std::string &p = name_of(*a->hca), &q = name_of(*b->hca);
    if (p == q) return a->port.number < b->port.number;
    if (!x && all_listed) return listed.at(p) < listed.at(q);
    return natural_less(p, q);
  });
}

ChosenPort chosen_port(const Node& node, const Candidate& candidate, size_t rail) {
  ChosenPort chosen;
  chosen.hca = name_of(*candidate.hca);
  chosen.port = candidate.port.number;
  chosen.rail = static_cast<int>(rail);
  chosen.rate_gbps = candidate.port.rate_gbps;
  if (candidate.port.link_layer == LinkLayer::infiniband) return chosen;
  for (const std::string& netdev : candidate.netdevs) {
    const Interface* interface = find_interface(node, netdev);
    if (chosen.netdev.empty()) chosen.netdev = netdev;
    if (interface && chosen.subnet.empty()) chosen.subnet = subnet_of(*interface);
  }
  if (const auto gid = choose_gid(node, candidate.port); gid && gid->usable) chosen.gid_index = gid->index;
  return chosen;
}

// What a person wrote down of the rails: their networks, and whether packets pass between them.
void apply_rail_facts(const Node& node, Network& network) {
  size_t rails = 0, apart = 0;
  for (const RailFact& fact : rail_facts(node)) {
    const bool rail = fact.role.starts_with("rail");
    rails += rail;
    apart += rail && fact.routed == false;
    for (ChosenPort& port : network.ports) {
      if (port.hca == fact.hca && port.subnet.empty()) port.subnet = fact.subnet;
    }
  }
  if (rails > 1 && apart == rails) network.rails_isolated = true;
}

constexpr size_t kMostPorts = 32;  // of NCCL's devices, and of entries in NCCL_IB_HCA

void take_ports(Node& node, std::vector<Candidate*> ports) {
  Network& network = node.network;
  sort_by_place(node, ports);
  for (size_t i = kMostPorts; i < ports.size(); ++i) {
    network.reasons.push_back({ports[i]->subject(), "beyond-32-ports", "NCCL keeps 32 ports; these come first in PCI order", true});
    network.hcas_excluded.push_back(name_of(*ports[i]->hca));
  }
  ports.resize(std::min(ports.size(), kMostPorts));
  std::vector<std::string> names;
  std::set<const Hca*> hcas;
  bool infiniband = false, ethernet = false, unnamed = false;
  for (const Candidate* candidate : ports) {
    network.ports.push_back(chosen_port(node, *candidate, network.ports.size()));
    infiniband = infiniband || candidate->port.link_layer == LinkLayer::infiniband;
    ethernet = ethernet || candidate->port.link_layer == LinkLayer::ethernet;
    unnamed = unnamed || candidate->hca->name.empty();
    if (hcas.insert(candidate->hca).second) names.push_back(candidate->hca->name);
    if (candidate->port.state == PortState::unknown)
      network.reasons.push_back({candidate->subject(), "state-unknown", "no source shows the state of this port", false});
  }
  network.transport = infiniband ? Transport::ib : ethernet ? Transport::roce : Transport::unknown;
  network.link_layer = infiniband ? LinkLayer::infiniband : ethernet ? LinkLayer::ethernet : LinkLayer::unknown;
  network.hca_count = static_cast<int>(hcas.size());
  if (!unnamed) network.hcas = std::move(names);
}

// Step of each drop reason, for ties, and what it means for the node as a whole.
std::pair<int, std::string> fallback_of(const Candidate& candidate, const Node& node) {
  static const std::map<std::string, std::pair<int, std::string>> table = {{"disabled-by-user", {0, "disabled-by-user"}},
                                                                           {"not-in-user-list", {0, "disabled-by-user"}},
                                                                           {"sysfs-missing", {1, "rdma-device-not-openable"}},
                                                                           {"device-not-openable", {1, "rdma-device-not-openable"}},
                                                                           {"provider-library-missing", {1, "provider-library-missing"}},
                                                                           {"no-ports", {-1, "no-rdma-device"}},
                                                                           {"not-rc-capable", {2, "verbs-device-without-rc"}},
                                                                           {"software-rdma", {3, "software-rdma-device"}},
                                                                           {"iwarp", {4, "verbs-device-without-rc"}},
                                                                           {"port-down", {5, "all-ports-down"}},
                                                                           {"no-subnet-manager", {5, "all-ports-down"}},
                                                                           {"no-usable-gid", {6, "no-usable-gid"}}};
  const auto it = table.find(candidate.dropped);
  if (it == table.end()) return {0, "no-rdma-device"};
  const PciDevice* function = find_pci(node, candidate.hca->bus_id);
  const bool efa = candidate.hca->vendor_id == 0x1d0f || (function && is_efa(function->vendor, function->device));
  return candidate.dropped == "not-rc-capable" && efa ? std::pair<int, std::string>{2, "efa-needs-plugin"} : it->second;
}

std::string majority(const std::vector<Candidate>& candidates, const Node& node) {
  std::map<std::string, std::pair<int, int>> votes;  // reason → ports, latest step
  for (const Candidate& candidate : candidates) {
    const auto [step, reason] = fallback_of(candidate, node);
    if (step < 0) continue;
    auto& vote = votes[reason];
    vote = {vote.first + 1, std::max(vote.second, step)};
  }
  const auto best = std::max_element(votes.begin(), votes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return best == votes.end() ? "no-rdma-device" : best->first;
}

void fall_back(Node& node, const std::vector<Candidate>& candidates) {
  Network& network = node.network;
  if (candidates.empty() && !node.hcas_complete && !node.rdma_absent && refused_by(node).empty()) return;  // nobody looked
  network.transport = Transport::socket;
  network.hcas.emplace();
  network.hca_count = 0;
  if (!refused_by(node).empty())
    network.fallback_reason = "disabled-by-user";
  else
    network.fallback_reason = candidates.empty() ? "no-rdma-device" : majority(candidates, node);
  std::vector<std::string> detail;
  for (const Candidate& candidate : candidates) detail.push_back(candidate.subject() + " " + candidate.text);
  if (detail.size() > 8) {
    const size_t more = detail.size() - 8;
    detail.resize(8);
    detail.push_back(fmt::format("{} more", more));
  }
  network.reasons.push_back({"transport", network.fallback_reason,
                             fmt::format("socket: {}", detail.empty() ? "no verbs device" : fmt::format("{}", fmt::join(detail, ", "))),
                             false});
}

// One number for the process: the user's, or the one on which all chosen ports agree.
void choose_gid_index(const Node& node, const std::vector<Candidate>& candidates, Network& network) {
  if (network.transport == Transport::roce) {
    const auto forced = number_setting(node, "NCCL_IB_GID_INDEX");
    if (forced && *forced >= 0) {
      network.gid_index = forced;
      return;
    }
    for (const ChosenPort& port : network.ports) {
      if (!port.gid_index || *port.gid_index != network.ports.front().gid_index) return;
    }
    if (!network.ports.empty()) network.gid_index = network.ports.front().gid_index;
    return;
  }
  std::set<int> indexes;
  for (const Candidate& candidate : candidates) {
    if (candidate.dropped.empty() || candidate.port.link_layer != LinkLayer::ethernet) continue;
    if (const auto gid = choose_gid(node, candidate.port); gid && gid->usable) indexes.insert(gid->index);
  }
  if (network.transport == Transport::socket && indexes.size() == 1) network.gid_index_if_forced = *indexes.begin();
}

}  // namespace

void choose_ports(Node& node) {
  Network& network = node.network;
  std::vector<Candidate> candidates = candidates_of(node);
  const bool user_list = !user_setting(node, "NCCL_IB_HCA").value_or("").empty();
  find_mixed(node, candidates, network);
  drop_ports(node, candidates, user_list, network);

  std::vector<Candidate*> left;
  std::set<std::string> used, seen;
  for (Candidate& candidate : candidates) {
    if (candidate.dropped.empty())
      left.push_back(&candidate), used.insert(name_of(*candidate.hca));
    else
      network.reasons.push_back({candidate.subject(), candidate.dropped, candidate.text, true});
  }
  for (const Hca& hca : node.hcas) {
    if (!seen.insert(name_of(hca)).second) continue;
    if (!hca.name.empty()) network.hcas_seen.push_back(hca.name);
    if (!used.contains(name_of(hca))) network.hcas_excluded.push_back(name_of(hca));
  }
  std::sort(network.hcas_seen.begin(), network.hcas_seen.end(), natural_less);
  std::sort(network.hcas_excluded.begin(), network.hcas_excluded.end(), natural_less);
  if (left.empty())
    fall_back(node, candidates);
  else
    take_ports(node, left);
  apply_rail_facts(node, network);
  choose_gid_index(node, candidates, network);
  network.qps_per_connection = number_setting(node, "NCCL_IB_QPS_PER_CONNECTION");
  network.ib_tc = number_setting(node, "NCCL_IB_TC");
  network.ib_sl = number_setting(node, "NCCL_IB_SL");
  network.ib_timeout = number_setting(node, "NCCL_IB_TIMEOUT");
}

}  // namespace dsinfer::topology
