#include <fmt/format.h>

#include <algorithm>

#include "topology/node_text.hpp"
#include "topology/wording.hpp"

namespace dsinfer::topology {
namespace {

std::string plain(std::string_view text) { return styled(text, Style::plain); }
std::string dim(std::string_view text) { return styled(text, Style::dim); }

// "8 ports of 400 Gb/s", "1 port of unknown rate".
std::string ports_text(const Network& network) {
  if (network.ports.empty()) return network.hca_count ? count_text(static_cast<size_t>(std::max(0, *network.hca_count)), "HCA", "HCAs") : "unknown HCAs";
  const double rate = network.ports[0].rate_gbps;
  const bool equal = std::all_of(network.ports.begin(), network.ports.end(), [&](const ChosenPort& port) { return port.rate_gbps == rate; });
  const std::string of = !equal ? "of different rates" : rate > 0 ? "of " + number_text(rate) + " Gb/s" : "of unknown rate";
  return count_text(network.ports.size(), "port", "ports") + " " + of;
}

void write_rdma(Page& page, const Network& network) {
  std::vector<std::string> names;
  for (const ChosenPort& port : network.ports) names.push_back(fmt::format("{}:{}", port.hca, port.port));
  if (names.empty() && network.hcas) names = *network.hcas;
  if (!names.empty()) page.row("HCAs in PCI order: " + plain(list_text(names, 32)), 4);
  if (network.gid_index) page.row(fmt::format("GID index {}", *network.gid_index));
  if (network.transport == Transport::roce && !network.gid_index) page.row("GID index left to NCCL's own detection");
  if (network.gdr_by_default == false) page.row(styled("GPUDirect RDMA is off by default: no HCA is near enough to a GPU", Style::warning));
  if (network.rails_isolated == true) page.row("the rails have no route to each other");
}

void write_choice(Page& page, const Node& node) {
  const Network& network = node.network;
  page.section("Network", network_line(node));
  if (network.transport == Transport::ib || network.transport == Transport::roce) write_rdma(page, network);
  if (!network.plugin_fabric.empty()) page.row("a faster fabric needs a network plug-in of NCCL: " + plain(network.plugin_fabric));
  page.row("bootstrap and sockets: " + (network.socket_ifname.empty() ? dim("unknown") : plain(network.socket_ifname)));
  if (network.gb_per_s_per_gpu > 0) page.row(fmt::format("expected between nodes: {} GB/s per GPU", number_text(network.gb_per_s_per_gpu)));
  if (network.judged) page.row(dim("a rule of thumb had a part in this; see the reasons below"));
}

void write_environment(Page& page, const Network& network) {
  if (network.environment.empty()) return;
  page.section("Environment", "");
  for (const EnvironmentVariable& v : network.environment) {
    page.row(styled(clipped(v.name, 60), Style::strong) + "=" + plain(clipped(v.value, 300)) +
                 (v.users ? styled(v.reason.empty() ? "  # set by the user" : "  # " + clipped(v.reason, 300), Style::warning)
                          : v.reason.empty() ? "" : dim("  # " + clipped(v.reason, 300))),
             6);
  }
}

// Reasons with one code and one text stand together: "docker0, veth1, veth2".
void write_reasons(Page& page, const Network& network) {
  struct Group {
    const Reason* reason;
    std::vector<std::string> subjects;
  };
  std::vector<Group> groups;
  for (const Reason& reason : network.reasons) {
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
      return group.reason->code == reason.code && group.reason->text == reason.text && group.reason->dropped == reason.dropped;
    });
    if (same != groups.end()) {
      same->subjects.push_back(clipped(reason.subject, 60));
    } else {
      groups.push_back({&reason, {clipped(reason.subject, 60)}});
    }
  }
  if (groups.empty()) return;
  page.section("Reasons", "");
  constexpr size_t kMost = 40;
  for (size_t i = 0; i < std::min(kMost, groups.size()); ++i) {
    const Reason& reason = *groups[i].reason;
    page.row((reason.dropped ? dim("○ ") : "  ") + plain(list_text(groups[i].subjects)) + "  " + styled(reason.code, reason.dropped ? Style::warning : Style::plain) +
                 (reason.text.empty() ? "" : "  " + dim(clipped(reason.text, 400))),
             6);
  }
  if (groups.size() > kMost) page.row(dim(fmt::format("  … and {} more", groups.size() - kMost)));
}

}  // namespace

const Reason* drop_reason(const Network& network, const std::string& hca, int port) {
  const std::string with_port = fmt::format("{}:{}", hca, port);
  for (const Reason& reason : network.reasons) {
    if (reason.dropped && (reason.subject == with_port || reason.subject == hca)) return &reason;
  }
  return nullptr;
}

bool is_chosen(const Network& network, const Hca& hca, int port) {
  const std::string& name = hca.name.empty() ? hca.bus_id : hca.name;
  if (!network.ports.empty()) {
    return std::any_of(network.ports.begin(), network.ports.end(), [&](const ChosenPort& p) { return p.hca == name && p.port == port; });
  }
  return network.hcas && std::find(network.hcas->begin(), network.hcas->end(), name) != network.hcas->end();
}

std::string network_line(const Node& node) {
  const Network& network = node.network;
  switch (network.transport) {
    case Transport::ib: return styled("InfiniBand", Style::good) + " over " + ports_text(network);
    case Transport::roce: return styled("RoCE", Style::good) + " over " + ports_text(network);
    case Transport::socket:
      return styled("sockets", Style::warning) + (network.socket_ifname.empty() ? "" : " over " + styled(network.socket_ifname, Style::plain)) +
             (network.fallback_reason.empty() ? "" : ", because " + styled(network.fallback_reason, Style::plain));
    case Transport::unknown: break;
  }
  return dim("unknown: no source tells which HCAs there are");
}

void write_findings(Page& page, const std::vector<Finding>& findings, bool name_nodes) {
  if (findings.empty()) return;
  page.section("Findings", "");
  constexpr size_t kMost = 60, kMostEvidence = 6;
  for (size_t i = 0; i < std::min(kMost, findings.size()); ++i) {
    const Finding& finding = findings[i];
    const Style style = finding.severity == Severity::error ? Style::bad : finding.severity == Severity::warning ? Style::warning : Style::strong;
    std::vector<std::string> nodes;
    for (const std::string& node : finding.nodes) nodes.push_back(clipped(node, 40));
    page.row(styled(fmt::format("{:<9}", word(finding.severity)), style) + styled(finding.code, Style::strong) +
                 (name_nodes && !nodes.empty() ? dim(" (" + list_text(nodes, 6) + ")") : "") + "  " + styled(clipped(finding.text, 800), Style::plain),
             9);
    for (size_t k = 0; k < std::min(kMostEvidence, finding.evidence.size()); ++k) page.row("         " + dim(clipped(finding.evidence[k], 300)), 11);
    if (finding.evidence.size() > kMostEvidence) page.row(dim(fmt::format("         … and {} more lines", finding.evidence.size() - kMostEvidence)));
    if (!finding.advice.empty()) page.row("         → " + styled(clipped(finding.advice, 800), Style::plain), 11);
  }
  if (findings.size() > kMost) page.row(dim(fmt::format("… and {} more", findings.size() - kMost)));
}

void write_network(Page& page, const Node& node) {
  write_choice(page, node);
  write_environment(page, node.network);
  write_reasons(page, node.network);
  write_findings(page, node.findings, false);
  if (!node.sources.empty()) {
    std::vector<std::string> sources;
    for (const std::string& source : node.sources) sources.push_back(clipped(source, 100));
    page.section("Sources", dim(list_text(sources, 24)));
  }
}

}  // namespace dsinfer::topology
