#include "topology/picture.hpp"

#include <algorithm>
#include <charconv>
#include <map>

#include "topology/distance.hpp"
#include "topology/node_text.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMostDropped = 8;  // in one lane; 64 virtual functions need not all be drawn

using Devices = std::map<std::string, const PciDevice*>;

struct Place {
  int numa = -1;
  std::string bridge, near;
};

bool below_switches(PathKind kind) { return kind == PathKind::pix || kind == PathKind::pxb; }

int numa_of_root(const std::string& root) {
  int numa = -1;
  if (root.rfind("numa", 0) == 0) std::from_chars(root.data() + 4, root.data() + root.size(), numa);
  return numa;
}

// The bridge furthest up, and the NUMA node of the first on the way that knows one.
Place place_of(const Devices& devices, const std::string& bus_id, int numa) {
  Place place{numa, "", ""};
  constexpr int kMostLevels = 32;
  auto at = devices.find(bus_id);
  for (int level = 0; at != devices.end() && level < kMostLevels; ++level) {
    const PciDevice& device = *at->second;
    if (place.numa < 0) place.numa = device.numa >= 0 ? device.numa : numa_of_root(device.root);
    if (device.parent.empty()) break;
    place.bridge = device.parent;
    at = devices.find(device.parent);
  }
  return place;
}

class Layout {
 public:
  explicit Layout(const Node& node) : node_(node), distances_(node) {
    for (const PciDevice& device : node.pci) devices_.emplace(device.bus_id, &device);
    for (const NumaNode& numa : node.host.numa) column(numa.id);
  }

  void add(const Gpu& gpu) {
    Place place = place_of(devices_, gpu.bus_id, gpu.numa);
    if (place.bridge.empty()) place.near = near_nic(gpu);
    lane(place).gpus.push_back(&gpu);
    places_[gpu.label] = place;
  }
  void add(PictureNic nic) {
    Place place = place_of(devices_, nic.nic.bus_id, nic.nic.numa);
    if (place.bridge.empty()) place = beside_gpu(nic, place);
    Lane& where = lane(place);
    const auto shown = std::count_if(where.nics.begin(), where.nics.end(), [](const PictureNic& n) { return !n.chosen && !n.bootstrap; });
    if (!nic.chosen && !nic.bootstrap && static_cast<size_t>(shown) >= kMostDropped) {
      ++where.nics_left_out;
    } else {
      where.nics.push_back(std::move(nic));
    }
  }
  std::vector<NumaColumn> columns() const {
    std::vector<NumaColumn> out;
    for (const auto& [numa, column] : columns_) {
      if (numa >= 0) out.push_back(column);
    }
    if (const auto unknown = columns_.find(-1); unknown != columns_.end()) out.push_back(unknown->second);
    return out;
  }

 private:
  NumaColumn& column(int numa) {
    NumaColumn& column = columns_[numa];
    column.numa = numa;
    return column;
  }
  Lane& lane(const Place& place) {
    NumaColumn& in = column(place.numa);
    const auto same = std::find_if(in.lanes.begin(), in.lanes.end(), [&](const Lane& lane) { return lane.bridge == place.bridge && lane.near == place.near; });
    if (same != in.lanes.end()) return *same;
    const auto bridge = devices_.find(place.bridge);
    in.lanes.push_back({place.bridge, place.near, {}, {}, 0, bridge == devices_.end() ? 0 : bridge->second->gb_per_s});
    return in.lanes.back();
  }
  // Without a PCI tree a matrix may say which NIC shares a switch with the GPU …
  std::string near_nic(const Gpu& gpu) const {
    if (!node_.network.gpu_nic_affinity) return "";
    const auto nearest = node_.network.gpu_nic_affinity->find(gpu.label);
    if (nearest == node_.network.gpu_nic_affinity->end() || nearest->second.empty()) return "";
    return below_switches(distances_.between(gpu.label, nearest->second[0])) ? nearest->second[0] : "";
  }
  // … and which GPU a NIC is near to.
  Place beside_gpu(const PictureNic& nic, Place place) const {
    for (const auto& [label, gpu] : places_) {
      const PathKind kind = distances_.between(label, nic.title);
      if (below_switches(kind)) return gpu;
      if (place.numa < 0 && (kind == PathKind::phb || kind == PathKind::node)) place.numa = gpu.numa;
    }
    return place;
  }

  const Node& node_;
  const Distances distances_;
  Devices devices_;
  std::map<int, NumaColumn> columns_;
  std::map<std::string, Place> places_;  // of GPUs, by label
};

PictureNic picture_of(const Node& node, const Nic& nic) {
  PictureNic out{nic, nic.name.empty() ? nic.bus_id : nic.name, "", false, false, false};
  const Network& network = node.network;
  out.bootstrap = !network.socket_ifname.empty() && std::find(nic.netdevs.begin(), nic.netdevs.end(), network.socket_ifname) != nic.netdevs.end();
  if (nic.kind == "interface") {
    const auto interface = std::find_if(node.interfaces.begin(), node.interfaces.end(), [&](const Interface& i) { return i.name == nic.name; });
    out.down = interface != node.interfaces.end() && interface->up == false;
  }
  for (const Hca& hca : node.hcas) {
    if (nic.kind != "hca" || hca.name != nic.name || hca.bus_id != nic.bus_id) continue;
    out.down = !hca.ports.empty();
    for (size_t i = 0; i < std::max<size_t>(1, hca.ports.size()); ++i) {
      const int number = i < hca.ports.size() ? hca.ports[i].number : 1;
      out.chosen = out.chosen || is_chosen(network, hca, number);
      if (const Reason* reason = drop_reason(network, out.title, number)) out.dropped = reason->code;
      if (i < hca.ports.size() && hca.ports[i].state != PortState::down) out.down = false;
    }
  }
  if (out.chosen) out.dropped = "";
  return out;
}

// Neither side of a link is sure to tell of it: the larger of what both say.
std::vector<PeerLinks> peers_of(const Node& node) {
  std::map<std::string, size_t> by_bus_id;
  for (size_t i = 0; i < node.gpus.size(); ++i) by_bus_id[node.gpus[i].bus_id] = i;
  by_bus_id.erase("");
  std::map<std::pair<size_t, size_t>, PeerLinks> pairs;
  const auto add = [&](size_t a, size_t b, int count, double gb_per_s) {
    if (a == b) return;
    PeerLinks& pair = pairs[std::minmax(a, b)];
    pair.a = std::min(a, b), pair.b = std::max(a, b);
    pair.count = std::max(pair.count, count), pair.gb_per_s = std::max(pair.gb_per_s, gb_per_s);
  };
  for (size_t i = 0; i < node.gpus.size(); ++i) {
    for (const NvLink& link : node.gpus[i].nvlinks) {
      const auto other = by_bus_id.find(link.remote_bus_id);
      if (link.remote == NvLink::Remote::gpu && other != by_bus_id.end()) add(i, other->second, link.count, link.gb_per_s);
    }
  }
  const auto gpu_at = [&](const std::string& label) {
    return static_cast<size_t>(std::find_if(node.gpus.begin(), node.gpus.end(), [&](const Gpu& gpu) { return gpu.label == label; }) - node.gpus.begin());
  };
  for (const Path& path : node.paths) {
    const size_t a = path.kind == PathKind::nvlink ? gpu_at(path.a) : node.gpus.size(), b = a < node.gpus.size() ? gpu_at(path.b) : a;
    if (a < node.gpus.size() && b < node.gpus.size()) add(a, b, path.nvlinks, 0);
  }
  std::vector<PeerLinks> out;
  for (const auto& [key, pair] : pairs) out.push_back(pair);
  return out;
}

}  // namespace

Picture picture_of(const Node& node) {
  Picture picture;
  picture.node = &node;
  Layout layout(node);
  for (const Gpu& gpu : node.gpus) {
    layout.add(gpu);
    int links = 0;
    double gb_per_s = 0;
    for (const NvLink& link : gpu.nvlinks) {
      if (link.remote == NvLink::Remote::nvswitch) links += link.count, gb_per_s += link.gb_per_s, picture.nvswitch = true;
    }
    picture.nvswitch_links = std::max(picture.nvswitch_links, links), picture.nvswitch_gb_per_s = std::max(picture.nvswitch_gb_per_s, gb_per_s);
  }
  bool bootstrap_shown = node.network.socket_ifname.empty();
  // A PCI function without a name may well be an HCA whose place nobody told: that one is drawn already.
  const bool placed = std::none_of(node.hcas.begin(), node.hcas.end(), [](const Hca& hca) { return hca.bus_id.empty(); });
  for (const Nic& nic : nics_of(node)) {
    if (nic.kind == "pci" && !placed) continue;
    PictureNic shown = picture_of(node, nic);
    bootstrap_shown = bootstrap_shown || shown.bootstrap;
    layout.add(std::move(shown));
  }
  if (!bootstrap_shown) {  // a bond, a VLAN, a bridge
    Nic nic;
    nic.name = node.network.socket_ifname, nic.kind = "interface", nic.netdevs = {nic.name};
    for (const Interface& interface : node.interfaces) {
      if (interface.name == nic.name) nic.rate_gbps = static_cast<double>(interface.speed_mbps) / 1000;
    }
    layout.add(picture_of(node, nic));
  }
  picture.columns = layout.columns();
  for (NumaColumn& column : picture.columns) {
    for (Lane& lane : column.lanes) {  // those that lead to the network last: in several rows nothing then stands between them and it
      std::stable_partition(lane.nics.begin(), lane.nics.end(), [](const PictureNic& nic) { return !nic.chosen && !nic.bootstrap; });
    }
  }
  picture.peers = peers_of(node);
  // All pairs with as many links each: a matrix does not say so, but that is a switch. A mesh of four has no more than the drawing can show.
  const size_t n = node.gpus.size(), all = n * (n - 1) / 2;
  const bool full = n > 4 && picture.peers.size() == all &&
                    std::all_of(picture.peers.begin(), picture.peers.end(), [&](const PeerLinks& p) { return p.count == picture.peers[0].count; });
  if (full && !picture.nvswitch) picture.nvswitch = true, picture.nvswitch_links = picture.peers[0].count;
  if (picture.nvswitch) picture.peers.clear();
  return picture;
}

std::string short_model(const std::string& name) {
  constexpr std::string_view kMakers[] = {"NVIDIA ", "Tesla ", "GeForce "};
  std::string_view rest = name;
  const auto leads = [&](std::string_view maker) { return rest.starts_with(maker); };
  while (true) {  // a loop: a file's name may repeat them without end
    const auto maker = std::find_if(std::begin(kMakers), std::end(kMakers), leads);
    if (maker == std::end(kMakers)) return std::string(rest);
    rest.remove_prefix(maker->size());
  }
}

}  // namespace dsinfer::topology
