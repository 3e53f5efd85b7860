// The card of one node: NVSwitch, GPUs, PCIe switches, NICs, the network, from top to bottom; NUMA nodes from left to right.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "topology/node_text.hpp"
#include "topology/svg.hpp"
#include "topology/wording.hpp"

namespace dsinfer::topology {
namespace {

constexpr double kBox = 98, kGap = 8, kPad = 12;                       // width of a device, between devices, around a group
constexpr double kTitle = 46, kNumaTitle = 20, kGpuHeight = 48, kNicHeight = 48, kBar = 20, kWire = 26;
constexpr double kLeast = 380;                                         // a card has room for its title

size_t nic_columns(const Lane& lane) { return std::min(lane.nics.size() + (lane.nics_left_out ? 1 : 0), std::max<size_t>(4, 2 * lane.gpus.size())); }
size_t nic_rows(const Lane& lane) {
  const size_t columns = nic_columns(lane), boxes = lane.nics.size() + (lane.nics_left_out ? 1 : 0);
  return columns ? (boxes + columns - 1) / columns : 0;
}
double lane_width(const Lane& lane) {
  const size_t boxes = std::max({lane.gpus.size(), nic_columns(lane), size_t{1}});
  return static_cast<double>(boxes) * (kBox + kGap) - kGap;
}
double column_width(const NumaColumn& column) {
  double width = kPad;
  for (const Lane& lane : column.lanes) width += lane_width(lane) + kPad;
  return std::max(width, 160.0);
}
// A switch is drawn where something shares it.
bool has_switch(const Lane& lane) { return !(lane.bridge.empty() && lane.near.empty()) && lane.gpus.size() + lane.nics.size() > 1; }

struct Rows {
  bool gpus = false, switches = false, fabric = false;
  size_t nics = 0;
  double peers = 0;  ///< height of the NVLink arcs
};

Rows rows_of(const Picture& picture) {
  Rows rows;
  rows.fabric = picture.node->network.transport != Transport::unknown;
  for (const NumaColumn& column : picture.columns) {
    for (const Lane& lane : column.lanes) {
      rows.gpus = rows.gpus || !lane.gpus.empty();
      rows.switches = rows.switches || has_switch(lane);
      rows.nics = std::max(rows.nics, nic_rows(lane));
      for (const PictureNic& nic : lane.nics) rows.fabric = rows.fabric || nic.chosen || nic.bootstrap;
    }
  }
  if (!picture.peers.empty()) rows.peers = picture.peers.size() > 2 ? 66 : 34;
  return rows;
}

// Heights at which the rows of a card begin.
struct Levels {
  double nvswitch = 0, gpus = 0, switches = 0, nics = 0, fabric = 0, end = 0, numa = 0, numa_end = 0;
};

Levels levels_of(const Picture& picture) {
  const Rows rows = rows_of(picture);
  Levels at;
  double y = kTitle;
  if (picture.nvswitch) at.nvswitch = y, y += kBar + kWire - kPad;
  at.numa = y;
  y += kNumaTitle + kPad / 2 + rows.peers;
  if (picture.nvswitch) y += 4;
  at.gpus = y;
  if (rows.gpus) y += kGpuHeight + kWire;
  at.switches = y;
  if (rows.switches) y += kBar + kWire;
  at.nics = y;
  if (rows.nics) y += static_cast<double>(rows.nics) * (kNicHeight + kGap) - kGap;
  if (!rows.nics && !rows.gpus) y += 24;
  if (!rows.nics && rows.gpus && !rows.switches) y -= kWire;
  at.numa_end = y + kPad;
  y = at.numa_end;
  at.fabric = y + kWire - kPad;
  if (rows.fabric) y = at.fabric + kBar;
  at.end = y + kPad;
  return at;
}

std::string subtitle(const Node& node) {
  std::vector<std::string> parts;
  if (node.gpus.empty()) parts.push_back(node.gpus_complete ? "no GPU" : "GPUs unknown");
  std::map<std::string, int> models;
  for (const Gpu& gpu : node.gpus) ++models[gpu.name.empty() ? "GPU" : short_model(gpu.name)];
  for (const auto& [model, count] : models) parts.push_back(fmt::format("{} × {}", count, model));
  if (!node.gpus.empty()) parts.push_back(node.nvlink == true ? "NVLink" : node.nvlink == false ? "no NVLink" : "NVLink unknown");
  if (!node.host.cpu_model.empty()) parts.push_back(fmt::format("{} × {}", std::max(1, node.host.packages), node.host.cpu_model));
  if (node.host.memory_bytes > 0) parts.push_back(bytes_text(node.host.memory_bytes));
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : " · ") + part;
  return out;
}

std::string fabric_title(const Network& network) {
  std::string speed;
  if (!network.ports.empty() && network.ports[0].rate_gbps > 0) speed = fmt::format(" · {} × {} Gb/s", network.ports.size(), number_text(network.ports[0].rate_gbps));
  if (network.gb_per_s_per_gpu > 0) speed += fmt::format(" · {} GB/s per GPU", number_text(network.gb_per_s_per_gpu));
  switch (network.transport) {
    case Transport::ib: return "InfiniBand" + speed;
    case Transport::roce: return "RoCE" + speed;
    case Transport::socket: return "sockets" + (network.fallback_reason.empty() ? speed : ": " + network.fallback_reason + speed);
    case Transport::unknown: break;
  }
  return "network: transport unknown";
}

std::string speed_label(double gb_per_s) { return gb_per_s > 0 ? number_text(gb_per_s) + " GB/s" : ""; }

class Card {
 public:
  Card(Svg& svg, const Picture& picture, double x, double y, Size size) : svg_(svg), picture_(picture), node_(*picture.node), x_(x), y_(y), size_(size), at_(levels_of(picture)) {}

  void draw(const std::string& title) {
    svg_.rect(x_, y_, size_.width, size_.height, kCardPaint, 8);
    svg_.text(x_ + kPad, y_ + 20, title, 15, size_.width - 2 * kPad, Svg::Align::left, true);
    svg_.text(x_ + kPad, y_ + 36, subtitle(node_), 10.5, size_.width - 2 * kPad, Svg::Align::left, false, "#495057");
    if (picture_.columns.empty()) svg_.text(x_ + size_.width / 2, at(at_.gpus) + 8, "no device is known", 11, size_.width, Svg::Align::middle, false, "#868e96");
    double inner = kPad;
    for (const NumaColumn& column : picture_.columns) inner += column_width(column) + kPad;
    const double left = x_ + kPad + std::max(0.0, (size_.width - kPad - inner) / 2);
    double x = left;
    for (const NumaColumn& column : picture_.columns) {
      draw_column(column, x, column_width(column));
      x += column_width(column) + kPad;
    }
    if (picture_.nvswitch) draw_nvswitch();
    x = left;
    for (const NumaColumn& column : picture_.columns) {  // over the links
      draw_numa_title(numa_title(column.numa), x + 8, column_width(column) - 16);
      x += column_width(column) + kPad;
    }
    draw_peers();
    if (rows_of(picture_).fabric) draw_fabric();
  }

 private:
  double at(double level) const { return y_ + level; }

  void draw_column(const NumaColumn& column, double x, double width) {
    svg_.rect(x, at(at_.numa), width, at_.numa_end - at_.numa, kNumaPaint, 6);
    double lanes = kPad;
    for (const Lane& lane : column.lanes) lanes += lane_width(lane) + kPad;
    double left = x + kPad + (width - lanes) / 2;
    if (column.lanes.empty()) svg_.text(x + width / 2, at(at_.gpus) + 16, "no GPU, no NIC here", 10, width - 16, Svg::Align::middle, false, "#868e96");
    for (const Lane& lane : column.lanes) {
      draw_lane(lane, left, lane_width(lane));
      left += lane_width(lane) + kPad;
    }
  }

  void draw_numa_title(const std::string& title, double x, double room) {
    const std::string shown = clipped(title, static_cast<size_t>(room / 6));
    if (shown.empty()) return;
    svg_.rect(x - 3, at(at_.numa) + 5, static_cast<double>(width_of(shown)) * 6 + 4, 13, {kNumaPaint.fill, "none"}, 2);
    svg_.text(x, at(at_.numa) + 15, shown, 10, room + 12, Svg::Align::left, false, "#495057");
  }

  std::string numa_title(int id) const {
    if (id < 0) return node_.host.numa.empty() ? "" : "NUMA node unknown";
    std::string title = fmt::format("NUMA {}", id);
    for (const NumaNode& numa : node_.host.numa) {
      if (numa.id != id) continue;
      if (numa.memory_bytes > 0) title += " · " + bytes_text(numa.memory_bytes);
      if (!numa.cpus.empty()) title += " · CPUs " + numa.cpus;
    }
    return title;
  }

  void draw_lane(const Lane& lane, double x, double width) {
    const bool bar = has_switch(lane);
    const double gpus_width = static_cast<double>(lane.gpus.size()) * (kBox + kGap) - kGap, below = bar ? at(at_.switches) : at(at_.nics);
    for (size_t i = 0; i < lane.gpus.size(); ++i) {
      const double left = x + (width - gpus_width) / 2 + static_cast<double>(i) * (kBox + kGap);
      const Gpu& gpu = *lane.gpus[i];
      if (bar) wire(left + kBox / 2, at(at_.gpus) + kGpuHeight, below, speed_label(gpu.pcie_gb_per_s), "#e67700", false);
      draw_gpu(gpu, left);
    }
    if (bar) draw_switch(lane, x, width);
    const size_t columns = nic_columns(lane);
    for (size_t i = 0; i < lane.nics.size() + (lane.nics_left_out ? 1 : 0); ++i) {
      const size_t in_row = std::min(columns, lane.nics.size() + (lane.nics_left_out ? 1 : 0) - i / columns * columns);
      const double row_width = static_cast<double>(in_row) * (kBox + kGap) - kGap;
      const double left = x + (width - row_width) / 2 + static_cast<double>(i % columns) * (kBox + kGap);
      const double top = at(at_.nics) + static_cast<double>(i / columns) * (kNicHeight + kGap);
      if (i == lane.nics.size()) {
        svg_.text(left + kBox / 2, top + kNicHeight / 2, fmt::format("+ {} more", lane.nics_left_out), 10, kBox, Svg::Align::middle, false, "#868e96");
        continue;
      }
      const PictureNic& nic = lane.nics[i];
      if (bar && i < columns) wire(left + kBox / 2, at(at_.switches) + kBar, top, pcie_label(nic), "#e67700", !nic.dropped.empty());
      if (nic.chosen || nic.bootstrap) to_fabric(nic, left + kBox / 2, top + kNicHeight);
      draw_nic(nic, left, top);
    }
  }

  std::string pcie_label(const PictureNic& nic) const {
    for (const PciDevice& device : node_.pci) {
      if (device.bus_id == nic.nic.bus_id && !device.bus_id.empty()) return speed_label(device.gb_per_s);
    }
    return "";
  }

  void wire(double x, double from, double to, const std::string& label, const char* color, bool dashed) {
    svg_.line(x, from, x, to, dashed ? "#adb5bd" : color, 1.5, dashed);
    if (!label.empty()) svg_.label(x, (from + to) / 2 + 3, label);
  }

  void draw_gpu(const Gpu& gpu, double x) {
    const double y = at(at_.gpus);
    gpu_at_[&gpu] = x + kBox / 2;
    svg_.open(fmt::format("{} {} {}", gpu.label, gpu.bus_id, gpu.name));
    svg_.rect(x, y, kBox, kGpuHeight, kGpuPaint);
    const bool bare = gpu.name.empty() && gpu.compute_major == 0 && (gpu.bus_id.empty() || gpu.bus_id == gpu.label);
    svg_.text(x + kBox / 2, y + (bare ? 28 : 15), gpu.label, 11.5, kBox - 6, Svg::Align::middle, true);
    const std::string compute = gpu.compute_major > 0 ? fmt::format("compute {}.{}", gpu.compute_major, gpu.compute_minor) : "";
    svg_.text(x + kBox / 2, y + 28, gpu.name.empty() ? compute : short_model(gpu.name), 9, kBox - 4, Svg::Align::middle);
    if (gpu.label != gpu.bus_id) svg_.text(x + kBox / 2, y + 41, gpu.bus_id, 9, kBox - 4, Svg::Align::middle, false, "#495057");
    svg_.close();
  }

  void draw_switch(const Lane& lane, double x, double width) {
    svg_.open("PCIe " + lane.bridge);
    svg_.rect(x, at(at_.switches), width, kBar, kSwitchPaint);
    svg_.text(x + width / 2, at(at_.switches) + 14, width > 150 && !lane.bridge.empty() ? "PCIe " + lane.bridge : "PCIe", 10, width - 6, Svg::Align::middle);
    svg_.close();
  }

  void draw_nic(const PictureNic& nic, double x, double y) {
    const bool grey = !nic.dropped.empty() || nic.down;
    const Paint paint = nic.chosen ? kChosenPaint : nic.bootstrap ? kBootstrapPaint : grey ? kDroppedPaint : kNicPaint;
    const char* ink = grey && !nic.chosen && !nic.bootstrap ? "#6c757d" : "#212529";
    std::string what = nic.nic.rate_gbps > 0 ? number_text(nic.nic.rate_gbps) + " Gb/s" : nic.down ? "down" : nic.nic.kind == "pci" ? "PCI function" : "rate unknown";
    if (nic.nic.link_layer == LinkLayer::infiniband) what += " IB";
    if (nic.nic.link_layer == LinkLayer::ethernet) what += " Eth";
    const std::string third = !nic.dropped.empty() ? nic.dropped : nic.bootstrap && !nic.chosen ? "bootstrap" : nic.nic.kind == "hca" ? list_text(nic.nic.netdevs, 2) : "";
    svg_.open(fmt::format("{} {} {} {}", nic.title, nic.nic.bus_id, list_text(nic.nic.netdevs), nic.dropped));
    svg_.rect(x, y, kBox, kNicHeight, paint);
    svg_.text(x + kBox / 2, y + 15, nic.title, 11, kBox - 6, Svg::Align::middle, true, ink);
    svg_.text(x + kBox / 2, y + 28, what, 9, kBox - 4, Svg::Align::middle, false, ink);
    svg_.text(x + kBox / 2, y + 41, third, 9, kBox - 4, Svg::Align::middle, false, nic.dropped.empty() ? ink : "#a61e4d");
    svg_.close();
  }

  void draw_nvswitch() {
    const std::string links = picture_.nvswitch_links > 0 ? fmt::format(" · {} NVLinks", picture_.nvswitch_links) : "";
    const std::string speed = picture_.nvswitch_gb_per_s > 0 ? fmt::format(" · {} GB/s", number_text(picture_.nvswitch_gb_per_s)) : "";
    const double top = at(at_.nvswitch);
    for (const auto& [gpu, x] : gpu_at_) svg_.line(x, top + kBar, x, at(at_.gpus), "#2b8a3e", 3);
    svg_.rect(x_ + kPad, top, size_.width - 2 * kPad, kBar, kNvSwitchPaint);
    svg_.text(x_ + size_.width / 2, top + 14, "NVSwitch" + links + speed + (links.empty() && speed.empty() ? "" : " for each GPU"), 10.5, size_.width - 40, Svg::Align::middle);
  }

  void draw_peers() {
    for (const PeerLinks& peer : picture_.peers) {
      const auto a = gpu_at_.find(&node_.gpus[peer.a]), b = gpu_at_.find(&node_.gpus[peer.b]);
      if (a == gpu_at_.end() || b == gpu_at_.end()) continue;
      const double span = std::abs(a->second - b->second), most = rows_of(picture_).peers - 8;
      const double height = std::min(most, 12 + span / std::max(1.0, size_.width) * most * 1.6);
      svg_.open(fmt::format("{} and {}: {} NVLinks {}", node_.gpus[peer.a].label, node_.gpus[peer.b].label, peer.count, speed_label(peer.gb_per_s)));
      svg_.arc(a->second, b->second, at(at_.gpus), height, "#2b8a3e", std::min(5.0, 1.0 + 0.4 * peer.count));
      svg_.close();
    }
    if (picture_.peers.size() > 6) return;  // labels would cover each other; the tooltips tell
    for (const PeerLinks& peer : picture_.peers) {
      const auto a = gpu_at_.find(&node_.gpus[peer.a]), b = gpu_at_.find(&node_.gpus[peer.b]);
      if (a == gpu_at_.end() || b == gpu_at_.end()) continue;
      const double span = std::abs(a->second - b->second), most = rows_of(picture_).peers - 8;
      const double height = std::min(most, 12 + span / std::max(1.0, size_.width) * most * 1.6);
      const std::string speed = peer.gb_per_s > 0 ? " " + speed_label(peer.gb_per_s) : "";
      svg_.label((a->second + b->second) / 2, at(at_.gpus) - height + 4, fmt::format("{}×NVLink{}", peer.count, speed));
    }
  }

  // Drawn before the boxes of the rows below, which then cover it.
  void to_fabric(const PictureNic& nic, double x, double y) {
    const Paint paint = nic.chosen ? kChosenPaint : kBootstrapPaint;
    svg_.line(x, y, x, at(at_.fabric), paint.stroke, nic.chosen ? 2.5 : 1.5, !nic.chosen);
    if (nic.nic.rate_gbps > 0) rates_.emplace_back(x, speed_label(nic.nic.rate_gbps / 8));
  }

  void draw_fabric() {
    for (const auto& [x, rate] : rates_) svg_.label(x, at(at_.fabric) - 6, rate, "#ffffff");
    svg_.rect(x_ + kPad, at(at_.fabric), size_.width - 2 * kPad, kBar, kFabricPaint);
    svg_.text(x_ + size_.width / 2, at(at_.fabric) + 14, fabric_title(node_.network), 10.5, size_.width - 40, Svg::Align::middle);
  }

  Svg& svg_;
  const Picture& picture_;
  const Node& node_;
  double x_, y_;
  Size size_;
  Levels at_;
  std::map<const Gpu*, double> gpu_at_;
  std::vector<std::pair<double, std::string>> rates_;  // where on the network's bar
};

}  // namespace

Size card_size(const Picture& picture) {
  double width = kPad;
  for (const NumaColumn& column : picture.columns) width += column_width(column) + kPad;
  return {std::max(width, kLeast), levels_of(picture).end};
}

void draw_card(Svg& svg, const Picture& picture, const std::string& title, double x, double y, Size size) { Card(svg, picture, x, y, size).draw(title); }

}  // namespace dsinfer::topology
