// Any facts: joining and choosing never throw, and choosing twice changes nothing. Bytes are the JSON form of a cluster, or else they drive
// a generator of small machines made of words that the rules know.
#include <cstdint>
#include <string>
#include <string_view>

#include "dsinfer/cluster.hpp"
#include "dsinfer/error.hpp"
#include "topology/join.hpp"

namespace {

using namespace dsinfer;

/// Takes bytes one after the other; zeros when there are no more.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  int below(int limit) { return at_ < size_ ? data_[at_++] % limit : 0; }
  bool flag() { return below(2) == 1; }
  std::optional<bool> maybe() {
    const int value = below(3);
    return value == 0 ? std::nullopt : std::optional(value == 1);
  }
  template <size_t n>
  std::string word(const char* const (&words)[n]) {
    return words[below(static_cast<int>(n))];
  }
  bool empty() const { return at_ >= size_; }

 private:
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

const char* const kHcas[] = {"",         "mlx5_0", "mlx5_1",  "mlx5_10", "mlx5_bond_0", "rocep4s0f0",        "ibp26s0",
                             "mlx5_ib0", "rxe0",   "erdma_0", "usnic_0", "rdmap16s27",  "rocep99999999999s0"};
const char* const kBuses[] = {"", "0000:04:00.0", "0000:04:00.1", "0000:19:00.0", "10000:00:00.0", "ffff:ff:01.0", "no bus id"};
const char* const kNetdevs[] = {"", "lo", "eth0", "eth1", "ib0", "bond0", "docker0", "veth1", "br-0123456789ab", "enp4s0f0"};
const char* const kAddresses[] = {"",        "10.0.0.1", "10.0.0.2",        "10.1.0.1", "169.254.1.1", "127.0.0.1",
                                  "fe80::1", "fd00::1",  "::ffff:10.0.0.1", "::",       "no address"};
const char* const kSettings[] = {"NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "NCCL_IB_GID_INDEX",   "NCCL_IB_DISABLE", "NCCL_NET",
                                 "NCCL_ALGO",   "NCCL_IB_ADDR_RANGE", "NCCL_IB_ADDR_FAMILY", "rail:mlx5_0"};
const char* const kValues[] = {"",
                               "=",
                               "^",
                               "^=",
                               "=mlx5_0,mlx5_1:2",
                               "mlx5_1",
                               "^mlx5_0",
                               "eth0",
                               "=lo",
                               "3",
                               "-1",
                               "99999999999999999999",
                               "1",
                               "Socket",
                               "10.0.0.0/8",
                               "fd00::/300",
                               "AF_INET6",
                               "rail0|10.0.0.0/24|no",
                               "||"};
const char* const kRoots[] = {"", "numa0", "numa1", "pci0000:00", "pci0000:80"};

Hca make_hca(Bytes& bytes) {
  Hca hca;
  hca.name = bytes.word(kHcas);
  hca.bus_id = bytes.word(kBuses);
  hca.node_type = static_cast<Hca::NodeType>(bytes.below(5));
  const uint32_t vendors[] = {0, 0x02c9, 0x1d0f, 0x1137, 0x1ded, 0xffffff};
  hca.vendor_id = vendors[bytes.below(6)];
  hca.physical_function = bytes.word(kBuses);
  hca.device_link = bytes.maybe();
  hca.openable = bytes.maybe();
  hca.sysfs_missing = bytes.below(8) == 7;
  if (bytes.below(8) == 7) hca.port_count = bytes.below(3);
  for (int p = bytes.below(3); p > 0; --p) {
    HcaPort port;
    port.number = bytes.below(4);
    port.state = static_cast<PortState>(bytes.below(5));
    port.link_layer = static_cast<LinkLayer>(bytes.below(4));
    port.rate_gbps = bytes.below(5) * 100;
    port.lid = bytes.below(4) - 1;
    port.gid_table = bytes.flag();
    port.netdev_up = bytes.maybe();
    port.netdevs.push_back(bytes.word(kNetdevs));
    for (int g = bytes.below(5); g > 0; --g) {
      Gid gid;
      gid.index = bytes.below(3) == 2 ? 0x7fffffff : bytes.below(12) - 1;
      gid.address = bytes.word(kAddresses);
      gid.roce_version = bytes.below(3);
      gid.readable = bytes.flag();
      port.gids.push_back(gid);
    }
    hca.ports.push_back(port);
  }
  return hca;
}

Interface make_interface(Bytes& bytes) {
  Interface interface;
  interface.name = bytes.word(kNetdevs);
  interface.up = bytes.maybe();
  interface.master = bytes.word(kNetdevs);
  interface.lower.push_back(bytes.word(kNetdevs));
  interface.bus_id = bytes.word(kBuses);
  interface.speed_mbps = bytes.below(4) * 25000;
  for (int a = bytes.below(3); a > 0; --a) interface.addresses.push_back({bytes.word(kAddresses), bytes.below(140) - 2});
  interface.default_route = bytes.flag();
  interface.bootstrap = bytes.below(8) == 7;
  interface.out_of_band = bytes.below(8) == 7;
  return interface;
}

Node make_node(Bytes& bytes) {
  Node node;
  node.name = bytes.flag() ? "a" : "b";
  for (int i = bytes.below(4); i > 0; --i) node.hcas.push_back(make_hca(bytes));
  for (int i = bytes.below(4); i > 0; --i) node.interfaces.push_back(make_interface(bytes));
  for (int i = bytes.below(4); i > 0; --i) {
    Gpu gpu;
    gpu.index = bytes.below(4) - 1;
    gpu.bus_id = bytes.word(kBuses);
    gpu.label = gpu.index >= 0 ? "GPU" + std::to_string(gpu.index) : gpu.bus_id;
    if (bytes.flag()) gpu.nvlinks.push_back({static_cast<NvLink::Remote>(bytes.below(4)), bytes.word(kBuses), bytes.below(20) - 1, 0});
    node.gpus.push_back(gpu);
  }
  for (int i = bytes.below(6); i > 0; --i) {
    PciDevice device;
    device.bus_id = bytes.word(kBuses);
    device.parent = bytes.word(kBuses);
    device.root = bytes.word(kRoots);
    const uint32_t classes[] = {0, 0x020000, 0x020700, 0x030200, 0x060400};
    device.class_code = classes[bytes.below(5)];
    device.numa = bytes.below(3) - 1;
    node.pci.push_back(device);
  }
  for (int i = bytes.below(6); i > 0; --i) {
    const std::string gpu = "GPU" + std::to_string(bytes.below(4));
    node.paths.push_back({gpu, bytes.flag() ? bytes.word(kHcas) : "GPU" + std::to_string(bytes.below(4)),
                          static_cast<PathKind>(bytes.below(9)), bytes.below(20) - 1});
  }
  for (int i = bytes.below(4); i > 0; --i) {
    const std::string name = bytes.word(kSettings);
    node.settings.push_back({name, bytes.word(kValues), bytes.flag() ? "environment" : "nccl.conf"});
  }
  node.gpus_complete = bytes.flag();
  node.hcas_complete = bytes.flag();
  node.rdma_absent = bytes.below(8) == 7;
  node.pci_complete = bytes.flag();
  if (bytes.flag()) node.host.uverbs.emplace(static_cast<size_t>(bytes.below(3)), "uverbs0");
  return node;
}

Cluster make_cluster(const uint8_t* data, size_t size) {
  if (size > 0 && data[0] == '{') {
    try {
      return Cluster::from_json({reinterpret_cast<const char*>(data), size});
    } catch (const Error&) { return {}; }
  }
  Bytes bytes(data, size);
  Cluster cluster;
  for (int i = bytes.below(4); i > 0; --i) {
    std::vector<Node> parts;
    do parts.push_back(make_node(bytes));
    while (bytes.flag() && !bytes.empty());
    cluster.nodes.push_back(topology::join(std::move(parts), "n" + std::to_string(i)));
  }
  if (bytes.flag())
    cluster.reach.push_back({bytes.below(4) - 1, bytes.below(4), bytes.flag() ? "socket eth0" : "rdma mlx5_0:1", bytes.flag(), 0, ""});
  return cluster;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Cluster cluster = make_cluster(data, size);
  choose_network(cluster);
  const Cluster once = cluster;
  choose_network(cluster);
  if (!(cluster == once)) __builtin_trap();
  return 0;
}
