/// Cluster: the machine's facts. What each node has (GPUs, NVLink, PCI, HCAs, interfaces, limits, versions), which network NCCL and its
/// relatives shall use there and why, and what does not fit between the nodes. Values: copy, store as JSON, replay on any laptop.
/// Bandwidths are GB/s (10^9 bytes) in one direction; rates of ports are Gb/s as their tools print them; unknown is std::nullopt, "" or
/// the value that the field names. Discovery needs no privileges, no GPU and no verbs: what is absent is absent, never an error.
#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dsinfer/export.hpp"
#include "dsinfer/world.hpp"

namespace dsinfer {

enum class Transport { unknown, ib, roce, socket };
enum class LinkLayer { unknown, infiniband, ethernet, unspecified };
enum class PortState { unknown, down, init, armed, active };
/// How two devices reach each other, near to far; the words are those of `nvidia-smi topo -m` (NVLink without its count).
enum class PathKind { unknown, self, nvlink, c2c, pix, pxb, phb, node, sys };
enum class Severity { info, warning, error };

/// Something worth knowing about one node or between nodes.
struct Finding {
  std::string code;                   ///< "hca-names-differ"; codes are stable
  Severity severity = Severity::info;
  std::vector<std::string> nodes;     ///< names of the nodes that it is about
  std::string text;                   ///< what was found, in a sentence
  std::vector<std::string> evidence;  ///< values or lines that show it, with their source
  std::string advice;                 ///< what to do
  bool operator==(const Finding&) const = default;
};

/// NVLinks of one GPU that lead to one place.
struct NvLink {
  enum class Remote { unknown, gpu, nvswitch, cpu };
  Remote remote = Remote::unknown;
  std::string remote_bus_id;  ///< "" where it is not visible (virtual machines) or not said
  int count = 0;              ///< links that are up
  double gb_per_s = 0;        ///< of all of them together; 0 = unknown
  bool operator==(const NvLink&) const = default;
};

struct Gpu {
  std::string label;         ///< unique on the node: "GPU0" where a driver or matrix numbers it, else its bus id
  int index = -1;            ///< the driver's number
  std::string bus_id;        ///< "0000:19:00.0", lower case, domain of four or more digits; "" unknown
  std::string name, uuid;    ///< "NVIDIA H100 80GB HBM3"
  int64_t memory_bytes = 0;  ///< 0 unknown
  int compute_major = 0, compute_minor = 0;
  int numa = -1;
  std::optional<bool> mig, gdr, dma_buf;
  double pcie_gb_per_s = 0;  ///< highest of slot and card
  std::vector<NvLink> nvlinks;
  std::string fabric_state;  ///< NVSwitch fabric: "", "not-started", "in-progress", "completed", "failed: …"
  bool operator==(const Gpu&) const = default;
};

struct Gid {
  int index = 0;
  std::string address;   ///< as inet_ntop prints it: "fe80::1", "::ffff:10.0.0.1"; "::" = empty
  int roce_version = 0;  ///< 1, 2; 0 unknown
  std::string netdev;
  bool readable = true;  ///< false: its type cannot be read in this network namespace
  bool operator==(const Gid&) const = default;
};

struct HcaPort {
  int number = 1;
  PortState state = PortState::unknown;
  std::string phys_state;  ///< "LinkUp", "Disabled", "Polling"
  LinkLayer link_layer = LinkLayer::unknown;
  double rate_gbps = 0;    ///< 0 unknown; meaningless while the port is down
  int lid = -1, sm_lid = -1, active_mtu = 0;
  bool gid_table = false;  ///< `gids` is the table: indexes that it leaves out are empty. Otherwise what is there is entry 0 at most
  std::vector<Gid> gids;
  std::vector<std::string> netdevs;
  std::optional<bool> netdev_up;
  bool operator==(const HcaPort&) const = default;
};

/// A verbs device.
struct Hca {
  enum class NodeType { unknown, ca, rnic, usnic, unspecified };
  std::string name;         ///< "mlx5_0"; "" where only its PCI function is known
  std::string bus_id;       ///< "" unknown
  NodeType node_type = NodeType::unknown;
  uint32_t vendor_id = 0;   ///< as verbs gives it: 0x02c9 Mellanox/NVIDIA, 0x1d0f AWS, 0xffffff software; 0 unknown
  uint32_t part_id = 0;     ///< vendor_part_id: 4129 = ConnectX-7; 0 unknown
  std::string node_guid, sys_image_guid, board_id, firmware;
  int numa = -1;
  std::string physical_function;     ///< bus id of the PF if this is a virtual function
  std::optional<bool> device_link;   ///< its sysfs folder has a PCI device behind it
  std::optional<bool> openable;      ///< libibverbs could open it
  bool sysfs_missing = false;        ///< listed, but its sysfs folder is gone
  bool named_only = false;           ///< known from a user's list alone
  std::vector<HcaPort> ports;
  std::optional<int> port_count;     ///< phys_port_cnt; 0 = a device without ports
  bool operator==(const Hca&) const = default;
};

struct Address {
  std::string ip;       ///< "10.0.0.6", "fe80::1"
  int prefix_len = -1;  ///< -1 unknown
  bool operator==(const Address&) const = default;
};

/// A network interface. The order in Node::interfaces is the kernel's.
struct Interface {
  std::string name;
  std::string kind;          ///< "physical", "loopback", "bond", "vlan", "bridge", "veth", "macvlan", "tunnel", …; "" unknown
  std::string type;          ///< "ethernet", "infiniband", "loopback"; "" unknown
  std::optional<bool> up;    ///< administratively up and running
  int mtu = 0;               ///< 0 unknown
  int64_t speed_mbps = 0;    ///< 0 unknown
  std::string mac, bus_id;
  std::string master;        ///< bond or bridge that this is a member of
  std::vector<std::string> lower;  ///< members of a bond or bridge, parent of a VLAN
  std::vector<Address> addresses;
  bool default_route = false;
  bool bootstrap = false;    ///< a log shows it as the bootstrap interface
  bool out_of_band = false;  ///< said to be for management only
  bool operator==(const Interface&) const = default;
};

struct PciDevice {
  std::string bus_id;
  uint32_t class_code = 0;           ///< 24 bits, 0x020700 = InfiniBand; 0 unknown
  uint32_t vendor = 0, device = 0;   ///< 0 unknown
  std::string description;
  std::string parent;                ///< bus id of the bridge above; "" directly under `root`
  std::string root;                  ///< host bridge: "pci0000:00", or "numa0" in files that name only the CPU; "" unknown
  int numa = -1;
  double gb_per_s = 0;               ///< of its link, the lower of both ends; 0 unknown
  std::string physical_function;     ///< bus id of the PF if this is a virtual function
  std::optional<bool> acs_redirect;  ///< request or completion redirect is on
  bool operator==(const PciDevice&) const = default;
};

/// Distance that a source states outright (a matrix); what follows from the PCI tree is not listed.
struct Path {
  std::string a, b;  ///< labels of GPUs, names of HCAs
  PathKind kind = PathKind::unknown;
  int nvlinks = 0;   ///< for PathKind::nvlink
  bool operator==(const Path&) const = default;
};

struct NumaNode {
  int id = 0;
  std::string cpus;          ///< "0-13,28-41"
  int64_t memory_bytes = 0;
  bool operator==(const NumaNode&) const = default;
};

/// The host itself. Empty text, 0 and nullopt are unknown.
struct Host {
  std::string name;  ///< host name
  std::string id;    ///< equal means: the same running kernel (boot id)
  std::string os, kernel, arch, cpu_model;
  int packages = 0, cores = 0, logical_cpus = 0;
  std::vector<NumaNode> numa;
  int64_t memory_bytes = 0, shm_bytes = 0;
  double cgroup_cpus = 0;               ///< CPUs that the control group grants; 0 = no limit known
  int64_t cgroup_memory_bytes = 0;      ///< 0 = no limit known
  std::optional<int64_t> memlock_bytes; ///< -1 = unlimited
  std::optional<bool> virtual_machine, container;
  std::optional<std::vector<std::string>> uverbs;  ///< character devices in /dev/infiniband
  std::optional<bool> rdma_cm;
  std::optional<bool> peer_memory;      ///< nvidia-peermem (or its predecessor) is loaded
  std::optional<bool> dma_buf;          ///< kernel and driver can do DMA-BUF
  std::string iommu;                    ///< "off", "passthrough", "translated"
  std::optional<bool> fabric_manager;   ///< nvidia-fabricmanager runs
  std::string driver_version, cuda_driver_version;  ///< "570.133.20", "12.8"
  std::string nccl_version, nccl_path, nccl_hash;   ///< of the library that would be loaded; hash: SHA-256 of its size and of blocks spread over it
  std::string net_plugin;               ///< libnccl-net*.so that would be loaded
  std::string verbs_library;            ///< libibverbs that was opened
  std::vector<std::string> fabric_providers;        ///< libfabric providers: "efa"
  bool operator==(const Host&) const = default;
};

/// A variable that somebody set: the process environment, a file, a platform.
struct Setting {
  std::string name, value, origin;
  bool operator==(const Setting&) const = default;
};

/// Why something was taken, dropped or set. Codes are stable.
struct Reason {
  std::string subject;   ///< "mlx5_5:1", "docker0", "NCCL_IB_HCA"
  std::string code;      ///< "port-down"
  std::string text;      ///< "DOWN/Polling (ibstat.txt)"
  bool dropped = false;
  bool operator==(const Reason&) const = default;
};

struct EnvironmentVariable {
  std::string name, value;
  std::string reason;
  bool users = false;  ///< the user's own value, kept
  bool operator==(const EnvironmentVariable&) const = default;
};

/// A port that was chosen.
struct ChosenPort {
  std::string hca;            ///< verbs name; its bus id where no name is known
  int port = 1;
  int rail = 0;               ///< position in PCI order; equal rails of all nodes belong together
  double rate_gbps = 0;
  std::string netdev, subnet; ///< RoCE: "10.32.16.0/24"; "" unknown
  std::optional<int> gid_index;  ///< RoCE: what detection gives
  bool operator==(const ChosenPort&) const = default;
};

/// What choose_network() decided for one node. Unknown stays unknown: nullopt where the facts do not say.
struct Network {
  Transport transport = Transport::unknown;
  LinkLayer link_layer = LinkLayer::unknown;
  std::optional<std::vector<std::string>> hcas;  ///< names, PCI order; nullopt: unknown, or their names are
  std::optional<int> hca_count;
  std::vector<ChosenPort> ports;
  std::vector<std::string> hcas_excluded, hcas_seen;
  std::optional<int> gid_index;            ///< one number for all chosen ports (or the user's); nullopt: leave it to NCCL
  std::optional<int> gid_index_if_forced;  ///< what the rule gives for a device that was refused for another reason
  std::string socket_ifname;               ///< "" unknown
  std::optional<std::map<std::string, std::vector<std::string>>> gpu_nic_affinity;  ///< label → nearest NICs; empty list: all across sockets
  std::optional<bool> gdr_by_default, rails_isolated;
  std::map<std::string, std::string> ports_down;                ///< HCA → physical state
  std::map<std::string, std::vector<std::string>> mixed_ports;  ///< HCA whose ports differ in link layer → netdevs
  std::optional<int> nic_count, efa_count;
  std::optional<int> qps_per_connection, ib_tc, ib_sl, ib_timeout;  ///< user's settings
  bool topo_file = false;                  ///< the XML is a provider's, for NCCL_TOPO_FILE
  std::string fallback_reason;             ///< why socket; ""
  std::string plugin_fabric;               ///< "efa", "tcpx", "tcpxo"; ""
  double gb_per_s_per_gpu = 0;             ///< expected between nodes; 0 unknown
  bool judged = false;                     ///< a rule of thumb decided somewhere (slow-class, management-nic, a name)
  std::vector<EnvironmentVariable> environment;
  std::vector<Reason> reasons;
  bool operator==(const Network&) const = default;
};

/// A link of the node, for the plan solver and the picture.
struct Link {
  std::string a, b;      ///< labels; "network" outside, "nvswitch", "cpu0" (NUMA node)
  std::string kind;      ///< "nvlink", "pcie", "ib", "roce", "socket", "cpu"
  double gb_per_s = 0;   ///< one direction; 0 unknown
  bool stated = false;   ///< measured or printed by a tool; false: from a table of models
  bool operator==(const Link&) const = default;
};

struct Node {
  std::string name;                    ///< unique in the cluster: the host's, or the folder's
  Host host;
  std::vector<Gpu> gpus;
  std::vector<Hca> hcas;
  std::vector<Interface> interfaces;
  std::vector<PciDevice> pci;
  std::vector<Path> paths;
  std::vector<Setting> settings;
  std::vector<std::string> sources;    ///< "ibstat.txt (ibstat)", "live: sysfs"
  bool gpus_complete = false;          ///< some source lists all GPUs: none in `gpus` means none there
  bool hcas_complete = false;          ///< likewise verbs devices
  bool rdma_absent = false;            ///< a source says outright that NCCL or verbs found no device
  bool interfaces_complete = false;
  bool pci_complete = false;           ///< `pci` lists all devices that matter
  std::optional<bool> nvlink;          ///< some pair of GPUs has NVLink
  std::vector<Link> links;
  Network network;
  std::vector<Finding> findings;       ///< about this node alone
  bool operator==(const Node&) const = default;
};

/// How far one node reached another over the chosen interfaces.
struct Reach {
  int from = 0, to = 0;        ///< indexes in Cluster::nodes
  std::string over;            ///< "socket eth0 → 10.0.0.2", "rdma mlx5_0:1 → mlx5_0:1"
  bool ok = false;
  double round_trip_us = 0;
  std::string error;
  bool operator==(const Reach&) const = default;
};

struct DSINFER_API Cluster {
  std::vector<Node> nodes;
  std::vector<int> node_of_rank;   ///< empty when nobody gathered it
  std::vector<Finding> findings;   ///< between nodes
  std::vector<Reach> reach;

  /// Versioned, stable JSON: everything. from_json(to_json()) is equal. Throws bad_format naming the key.
  std::string to_json() const;
  static Cluster from_json(std::string_view json);
  /// For a terminal: a tree of nodes, GPUs, NICs and links, the choice and its reasons, then findings. `color`: ANSI.
  std::string text(bool color = false) const;
  /// Graphviz.
  std::string dot() const;
  /// A self-contained picture.
  std::string svg() const;
  /// Lines for `eval` of a shell: export NAME='value', each after a comment with its reason. Node by index.
  std::string environment(int node = 0) const;
  bool operator==(const Cluster&) const = default;
};

struct ProbeOptions {
  std::string root = "/";                             ///< below it: sys, proc, dev, etc. Anything but "/" also leaves out the live sources
  std::string nvml_library = "libnvidia-ml.so.1";     ///< opened at run time; "" = do not ask
  std::string verbs_library = "libibverbs.so.1";      ///< likewise
  std::string nccl_library = "libnccl.so.2";          ///< looked for, hashed, never initialised; "" = do not look
  bool netlink = true;                                ///< interfaces, addresses and routes from the kernel
  std::optional<std::vector<std::string>> environment;  ///< "NAME=value"; nullopt = the process's own
};

/// Facts and choice of the machine that this process runs on. Any thread. Never throws for something absent.
DSINFER_API Node probe_node(const ProbeOptions& options = {});

/// The machines that captured files describe: a folder (its files and archives, all joined; several machines where names or subfolders
/// say so), an archive or one file. Files are known by content; what no importer knows is listed in a finding and left out. With choice
/// and checks. Throws not_found or io naming the path, unsupported for a stored cluster of more than 512 MiB.
DSINFER_API Cluster import_machines(const std::string& path);
/// The machine that pasted text describes: the output of one tool or of several, one after the other.
DSINFER_API Cluster import_text(std::string_view text, const std::string& name = "pasted");

/// Decides Node::network, links and the node's own findings from its facts; then what must agree between nodes (socket interface,
/// one transport), and Cluster::findings. Pure and repeatable: earlier decisions are replaced, reach is kept.
DSINFER_API void choose_network(Cluster& cluster);

struct GatherOptions {  // of the reach test rank 0's word counts for all
  ProbeOptions probe;
  bool check_reach = true;                         ///< prove the chosen interfaces pair by pair
  std::chrono::milliseconds reach_timeout{3000};   ///< for one pair
};
/// Collective: every rank probes, ranks of one host become one node, all get the same Cluster, chosen and checked.
/// Throws group_failed or stalled as World does.
DSINFER_API Cluster gather(World& world, const GatherOptions& options = {});

/// Sets the network's environment in this process, except what is set already. The one function of the library that does so;
/// call it before MPI and NCCL start, while no other thread reads the environment. Returns how many it set.
DSINFER_API int apply_environment(const Network& network);

}  // namespace dsinfer
