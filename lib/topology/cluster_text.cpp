// The cluster on a terminal: a tree for each kind of node, then what was found between them.
#include <fmt/format.h>

#include <algorithm>

#include "topology/node_classes.hpp"
#include "topology/node_text.hpp"
#include "topology/wording.hpp"

namespace dsinfer {
namespace {

using namespace topology;

std::string name_at(const Cluster& cluster, int node) {
  if (node < 0 || static_cast<size_t>(node) >= cluster.nodes.size()) return fmt::format("node {}", node);
  return clipped(cluster.nodes[static_cast<size_t>(node)].name, 40);
}

void write_reach(Page& page, const Cluster& cluster) {
  if (cluster.reach.empty()) return;
  const auto good = static_cast<size_t>(std::count_if(cluster.reach.begin(), cluster.reach.end(), [](const Reach& reach) { return reach.ok; }));
  double slowest = 0;
  for (const Reach& reach : cluster.reach) slowest = reach.ok ? std::max(slowest, reach.round_trip_us) : slowest;
  std::string line = styled(fmt::format("{} of {} ways proven", good, cluster.reach.size()), good == cluster.reach.size() ? Style::good : Style::bad);
  if (slowest > 0) line += fmt::format(" · slowest round trip {} µs", number_text(slowest));
  page.section("Reach", line);
  constexpr size_t kMost = 20;
  size_t shown = 0;
  for (const Reach& reach : cluster.reach) {
    if (reach.ok || shown++ >= kMost) continue;
    page.row(styled(name_at(cluster, reach.from) + " → " + name_at(cluster, reach.to), Style::bad) + "  " + styled(clipped(reach.over, 120), Style::plain) +
                 "  " + styled(clipped(reach.error, 200), Style::dim),
             6);
  }
  if (shown > kMost) page.row(styled(fmt::format("… and {} more", shown - kMost), Style::dim));
}

void write_cluster(Page& page, const Cluster& cluster) {
  std::string about = count_text(cluster.nodes.size(), "node", "nodes");
  if (!cluster.node_of_rank.empty()) about += ", " + count_text(cluster.node_of_rank.size(), "rank", "ranks");
  page.heading(styled("Cluster", Style::strong) + "  " + about);
  write_reach(page, cluster);
  write_findings(page, cluster.findings, true);
  if (cluster.findings.empty()) page.section("Findings", "none between the nodes");
}

}  // namespace

std::string Cluster::text(bool color) const {
  std::string out;
  for (const NodeClass& kind : node_classes(*this)) {
    Page page(color);
    const Node& node = nodes[static_cast<size_t>(kind.members[0])];
    write_hardware(page, node);
    write_network(page, node);
    out += page.text();
    if (kind.members.size() > 1) {
      const std::vector<int> others(kind.members.begin() + 1, kind.members.end());
      Page note(color);
      note.heading(styled(names_of(*this, others), Style::strong) + (others.size() == 1 ? "  is like " : "  are like ") + styled(node.name, Style::plain));
      out += note.text();
    }
    out += "\n";
  }
  if (nodes.size() > 1 || !findings.empty() || !reach.empty() || nodes.empty()) {
    Page page(color);
    write_cluster(page, *this);
    out += page.text() + "\n";
  }
  out.pop_back();
  return out;
}

}  // namespace dsinfer
