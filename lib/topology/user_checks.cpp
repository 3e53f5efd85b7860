// The user's own settings against the facts: they are kept, but what contradicts the machine is said.
#include <algorithm>
#include <charconv>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "topology/checks.hpp"
#include "topology/lines.hpp"
#include "topology/ports.hpp"

namespace dsinfer::topology {
namespace {

using Findings = std::vector<Finding>;

void add(Findings& out, const Node& node, Severity severity, std::string code, std::string text, std::vector<std::string> evidence,
         std::string advice) {
  out.push_back({std::move(code), severity, {node.name}, std::move(text), std::move(evidence), std::move(advice)});
}

// "mlx5_1" without "=" takes mlx5_10 too. A stem like "mlx5" is meant to take all.
std::vector<std::string> trapped(const DeviceList& list, const std::vector<std::string>& names) {
  std::vector<std::string> out;
  if (list.exact) return out;
  for (const auto& entry : list.entries) {
    if (entry.name.empty() || std::find(names.begin(), names.end(), entry.name) == names.end()) continue;
    for (const std::string& name : names) {
      if (name.size() > entry.name.size() && name.starts_with(entry.name)) out.push_back(entry.name + " also takes " + name);
    }
  }
  return out;
}

void check_hca(const Node& node, Findings& out) {
  const auto value = user_setting(node, "NCCL_IB_HCA");
  if (!value) return;
  const DeviceList list = DeviceList::parse(*value);
  const std::string line = "NCCL_IB_HCA=" + *value;
  std::vector<std::string> names, unknown, unusable, mixed;
  for (const Hca& hca : node.hcas) {
    if (!hca.name.empty() && !hca.named_only) names.push_back(hca.name);
  }
  const bool complete = node.hcas_complete || node.rdma_absent;
  for (const auto& entry : list.entries) {
    const bool found = std::any_of(names.begin(), names.end(),
                                   [&](const std::string& n) { return list.exact ? n == entry.name : n.starts_with(entry.name); });
    if (!found && (complete || (!names.empty() && !list.exact))) unknown.push_back(entry.name);
  }
  if (!unknown.empty()) {
    add(out, node, complete ? Severity::error : Severity::warning, "user-hca-unknown",
        fmt::format("NCCL_IB_HCA names devices that are not here: {}; NCCL ignores them without a word", fmt::join(unknown, ", ")), {line},
        "correct the list; if no name is right NCCL falls to sockets");
  }
  for (const Reason& reason : node.network.reasons) {
    if (!reason.dropped || list.exclude) continue;
    const std::string name = reason.subject.substr(0, reason.subject.rfind(':'));
    const bool listed = list.admits(name) && std::any_of(node.hcas.begin(), node.hcas.end(), [&](const Hca& h) { return h.name == name; });
    if (!listed || reason.code == "disabled-by-user") continue;
    (reason.code == "mixed-link-layer" ? mixed : unusable).push_back(fmt::format("{}: {} ({})", reason.subject, reason.code, reason.text));
  }
  // Ports that an exact list forced through the rules.
  std::set<LinkLayer> layers;
  for (const ChosenPort& chosen : node.network.ports) {
    for (const Hca& hca : node.hcas) {
      for (const HcaPort& port : hca.ports) {
        if (name_of(hca) != chosen.hca || port.number != chosen.port) continue;
        bool judged = false;
        const LinkLayer layer = link_layer_of_port(node, hca, port, netdevs_of_port(node, hca, port), judged);
        if (layer != LinkLayer::unknown && layers.insert(layer).second && layers.size() == 2)
          mixed.push_back(fmt::format("{}:{} is {}, others are not", chosen.hca, chosen.port, word(layer)));
        const auto gid = layer == LinkLayer::ethernet && port.gid_table ? choose_gid(node, port) : std::nullopt;
        if (gid && !gid->usable) unusable.push_back(fmt::format("{}:{}: no-usable-gid (the rule ends at GID {})", chosen.hca, chosen.port, gid->index));
      }
    }
  }
  if (!unusable.empty())
    add(out, node, Severity::warning, "user-hca-unusable", "NCCL_IB_HCA takes ports that cannot be used", unusable,
        "correct the list, or bring the ports up");
  if (!mixed.empty())
    add(out, node, Severity::error, "user-hca-mixed",
        "NCCL_IB_HCA takes InfiniBand and Ethernet ports together, which cannot talk to each other", mixed,
        "list the ports of one link layer, with exact names");
  const auto prefix = list.exclude ? std::vector<std::string>() : trapped(list, names);
  if (!prefix.empty())
    add(out, node, Severity::warning, "user-hca-prefix", "names in NCCL_IB_HCA are prefixes", prefix,
        "begin the value with \"=\": NCCL_IB_HCA==" + list.entries.front().name);
}

void check_gid_index(const Node& node, Findings& out) {
  const auto value = user_setting(node, "NCCL_IB_GID_INDEX");
  int index = -1;
  if (!value || std::from_chars(value->data(), value->data() + value->size(), index).ec != std::errc() || index < 0) return;
  if (node.network.transport == Transport::ib) {
    return add(out, node, Severity::info, "user-gid-index-no-effect", "NCCL_IB_GID_INDEX has no effect on InfiniBand",
               {"NCCL_IB_GID_INDEX=" + *value}, "unset it");
  }
  if (node.network.transport != Transport::roce) return;
  std::vector<std::string> wrong;
  for (const ChosenPort& chosen : node.network.ports) {
    for (const Hca& hca : node.hcas) {
      for (const HcaPort& port : hca.ports) {
        if (name_of(hca) != chosen.hca || port.number != chosen.port || !port.gid_table) continue;
        const auto gid = std::find_if(port.gids.begin(), port.gids.end(), [&](const Gid& g) { return g.index == index; });
        const std::string held = gid == port.gids.end() || gid->address == "::" || gid->address.empty() ? "empty" : gid->address;
        const bool version_wrong = gid != port.gids.end() && gid->roce_version == 1;
        if (held != "empty" && !version_wrong && !held.starts_with("fe80") && gid->readable) continue;
        const std::string by_rule = chosen.gid_index ? fmt::format(", the rule gives {}", *chosen.gid_index) : "";
        wrong.push_back(
            fmt::format("{}:{} GID {} is {}{}{}", chosen.hca, chosen.port, index, held, version_wrong ? " (RoCE v1)" : "", by_rule));
      }
    }
  }
  if (!wrong.empty()) {
    add(out, node, Severity::error, "user-gid-index-wrong",
        fmt::format("NCCL_IB_GID_INDEX={} is no routable RoCE v2 address on some chosen port", index), wrong,
        "unset it: NCCL 2.21 and later find the right entry of each port");
  }
}

void check_interface(const Node& node, Findings& out) {
  const auto value = user_setting(node, "NCCL_SOCKET_IFNAME");
  if (!value || value->size() < 2) return;
  const DeviceList list = DeviceList::parse(*value);
  if (list.exclude || list.entries.empty()) return;
  const std::string line = "NCCL_SOCKET_IFNAME=" + *value;
  std::vector<std::string> names, down;
  bool any = false, any_up = false;
  for (const Interface& interface : node.interfaces) {
    names.push_back(interface.name);
    if (!list.admits(interface.name)) continue;
    any = true;
    any_up = any_up || interface.up != false;
    if (interface.up == false) down.push_back(interface.name);
  }
  if (!any && node.interfaces_complete) {
    add(out, node, Severity::error, "user-socket-ifname-unknown", "NCCL_SOCKET_IFNAME names no interface of this node; NCCL stops",
        {line, fmt::format("interfaces: {}", fmt::join(names, ", "))},
        "interface names differ between nodes: set it for each, or leave it unset");
  }
  if (any && !any_up)
    add(out, node, Severity::error, "user-socket-ifname-down", fmt::format("{} is down", fmt::join(down, ", ")), {line},
        "bring it up, or name another");
  const auto prefix = trapped(list, names);
  if (!prefix.empty())
    add(out, node, Severity::warning, "user-socket-ifname-prefix", "names in NCCL_SOCKET_IFNAME are prefixes", prefix,
        "begin the value with \"=\"");
}

void check_files(const Node& node, Findings& out) {
  std::vector<std::string> from_files;
  for (const Setting& setting : node.settings) {
    const std::string line = fmt::format("{}={} ({})", setting.name, setting.value, setting.origin);
    if (setting.origin.find("nccl.conf") != std::string::npos) from_files.push_back(line);
  }
  if (!from_files.empty()) {
    add(out, node, Severity::info, "nccl-conf-applies", "a file of settings applies here beside the environment", from_files,
        "the same file must be on all nodes");
  }
}

}  // namespace

std::vector<Finding> check_user_settings(const Node& node) {
  Findings out;
  check_hca(node, out);
  check_gid_index(node, out);
  check_interface(node, out);
  check_files(node, out);
  const auto disable = user_setting(node, "NCCL_IB_DISABLE");
  const auto net = user_setting(node, "NCCL_NET");
  const bool demanded = net && !net->empty() && !same_word(*net, "Socket");
  if (node.network.fallback_reason == "peers-cannot" && (disable == "0" || demanded)) {
    add(out, node, Severity::error, "user-transport-refused", "RDMA is asked for here, but some peers have none: all must use sockets, or the job hangs",
        {demanded ? "NCCL_NET=" + *net : "NCCL_IB_DISABLE=0"}, "set NCCL_NET=Socket everywhere, or repair the peers");
  }
  return out;
}

}  // namespace dsinfer::topology
