// The cluster for Graphviz: `dot -Tsvg`. One box a node, in it what is joined by what, with GB/s on the edges.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "topology/node_classes.hpp"
#include "topology/picture.hpp"
#include "topology/wording.hpp"

namespace dsinfer {
namespace {

using namespace topology;

constexpr size_t kMostNodes = 16;  // more are drawn as the kinds that they are

// A string of the DOT language: quotes and backslashes escaped, "\n" for a new line.
std::string quoted(const std::vector<std::string>& lines) {
  std::string out = "\"";
  bool first = true;
  for (const std::string& line : lines) {
    if (line.empty()) continue;
    if (!first) out += "\\n";
    first = false;
    for (const char c : clipped(line, 80)) {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  return out + "\"";
}

std::string speed(double gb_per_s) { return gb_per_s > 0 ? number_text(gb_per_s) + " GB/s" : ""; }

class Graph {
 public:
  void node(const std::string& title, const Node& node) {
    picture_ = picture_of(node);
    prefix_ = fmt::format("n{}_", count_++);
    out_ += fmt::format("  subgraph cluster_{} {{\n    label={} style=rounded color=\"#868e96\"\n", count_, quoted({title}));
    gpus();
    for (const NumaColumn& column : picture_.columns) numa(column);
    peers();
    out_ += "  }\n";
    const Transport transport = node.network.transport;
    transports_.insert(transport == Transport::ib ? "InfiniBand" : transport == Transport::roce ? "RoCE" : transport == Transport::socket ? "sockets" : "transport unknown");
  }
  std::string text() const {
    std::vector<std::string> lines = {"network"};
    lines.insert(lines.end(), transports_.begin(), transports_.end());
    const std::string network = joined_ ? fmt::format("  network [label={} shape=ellipse fillcolor=\"#a5d8ff\"]\n", quoted(lines)) : "";
    return "graph cluster {\n  graph [fontname=\"sans-serif\" rankdir=TB compound=true]\n  node [fontname=\"sans-serif\" fontsize=10 shape=box style=\"filled,rounded\" "
           "fillcolor=white]\n  edge [fontname=\"sans-serif\" fontsize=8]\n" +
           out_ + network + edges_ + "}\n";
  }

 private:
  void box(const std::string& id, const std::vector<std::string>& lines, const std::string& style) {
    out_ += fmt::format("    {}{} [label={} {}]\n", prefix_, id, quoted(lines), style);
  }
  void edge(const std::string& a, const std::string& b, const std::string& label, const std::string& style) {
    out_ += fmt::format("    {0}{1} -- {0}{2} [label={3} {4}]\n", prefix_, a, b, quoted({label}), style);
  }
  std::string gpu_id(const Gpu* gpu) const { return fmt::format("gpu{}", gpu - picture_.node->gpus.data()); }

  void gpus() {
    if (picture_.nvswitch) box("nvswitch", {"NVSwitch"}, "fillcolor=\"#8ce99a\"");
    for (const Gpu& gpu : picture_.node->gpus) {
      box(gpu_id(&gpu), {gpu.label, short_model(gpu.name), gpu.bus_id == gpu.label ? "" : gpu.bus_id}, "fillcolor=\"#d3f9d8\"");
      if (!picture_.nvswitch) continue;
      const std::string links = picture_.nvswitch_links > 0 ? fmt::format("{}×", picture_.nvswitch_links) : "";
      edge("nvswitch", gpu_id(&gpu), links + "NVLink " + speed(picture_.nvswitch_gb_per_s), "color=\"#2b8a3e\" penwidth=2");
    }
  }

  void numa(const NumaColumn& column) {
    const std::string cpu = column.numa < 0 ? "cpu" : fmt::format("cpu{}", column.numa);
    box(cpu, {column.numa < 0 ? "CPU" : fmt::format("CPU, NUMA {}", column.numa)}, "fillcolor=\"#e9ecef\"");
    for (const Lane& lane : column.lanes) {
      std::string above = cpu;
      if (!(lane.bridge.empty() && lane.near.empty()) && lane.gpus.size() + lane.nics.size() > 1) {
        above = fmt::format("pcie{}", switches_++);
        box(above, {"PCIe", lane.bridge}, "fillcolor=\"#fff3bf\"");
        edge(cpu, above, speed(lane.gb_per_s), "color=\"#e67700\"");
      }
      for (const Gpu* gpu : lane.gpus) edge(above, gpu_id(gpu), speed(gpu->pcie_gb_per_s), "color=\"#e67700\"");
      for (const PictureNic& nic : lane.nics) this->nic(nic, above);
      if (lane.nics_left_out) {
        const std::string id = fmt::format("more{}", nics_++);
        box(id, {fmt::format("{} more NICs", lane.nics_left_out)}, "style=dashed");
        edge(above, id, "", "style=dashed");
      }
    }
  }

  void nic(const PictureNic& nic, const std::string& above) {
    const std::string id = fmt::format("nic{}", nics_++);
    const std::string rate = nic.nic.rate_gbps > 0 ? number_text(nic.nic.rate_gbps) + " Gb/s " : nic.down ? "down " : "";
    const bool grey = !nic.chosen && !nic.bootstrap && (nic.down || !nic.dropped.empty());
    box(id, {nic.title, rate + std::string(word(nic.nic.link_layer)), nic.dropped},
        nic.chosen ? "fillcolor=\"#d0ebff\" color=\"#1864ab\" penwidth=2" : nic.bootstrap ? "fillcolor=\"#e5dbff\"" : grey ? "fillcolor=\"#f1f3f5\" fontcolor=\"#6c757d\" style=\"filled,dashed\"" : "");
    double pcie = 0;
    for (const PciDevice& device : picture_.node->pci) {
      if (!device.bus_id.empty() && device.bus_id == nic.nic.bus_id) pcie = device.gb_per_s;
    }
    edge(above, id, speed(pcie), grey ? "style=dashed color=\"#adb5bd\"" : "color=\"#e67700\"");
    if (nic.chosen || nic.bootstrap) {
      edges_ += fmt::format("  {}{} -- network [label={} {}]\n", prefix_, id, quoted({speed(nic.nic.rate_gbps / 8)}),
                            nic.chosen ? "color=\"#1864ab\" penwidth=2" : "color=\"#5f3dc4\" style=dashed");
      joined_ = true;
    }
  }

  void peers() {
    for (const PeerLinks& peer : picture_.peers) {
      const std::string a = fmt::format("gpu{}", peer.a), b = fmt::format("gpu{}", peer.b);
      edge(a, b, fmt::format("{}×NVLink {}", peer.count, speed(peer.gb_per_s)), "color=\"#2b8a3e\" penwidth=2 constraint=false");
    }
  }

  std::string out_, edges_, prefix_;
  Picture picture_;
  std::set<std::string> transports_;
  int count_ = 0, switches_ = 0, nics_ = 0;
  bool joined_ = false;  ///< something leads to the network
};

}  // namespace

std::string Cluster::dot() const {
  Graph graph;
  if (nodes.size() <= kMostNodes) {
    for (const Node& node : nodes) graph.node(node.name.empty() ? "(no name)" : node.name, node);
    return graph.text();
  }
  for (const NodeClass& kind : node_classes(*this)) {
    const std::string count = kind.members.size() > 1 ? fmt::format("{} × ", kind.members.size()) : "";
    graph.node(count + names_of(*this, kind.members), nodes[static_cast<size_t>(kind.members[0])]);
  }
  return graph.text();
}

}  // namespace dsinfer
