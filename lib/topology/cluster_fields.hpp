/// Every field of a Cluster with its name in JSON, said once for reading and writing: a Form is given each key with its value, and the value
/// that means unknown (null in JSON) where the type has no other way to say so. A new field of cluster.hpp needs one line here.
#pragma once
#include "topology/names.hpp"

namespace dsinfer::topology {

/// What a Form sees a T as: const when it writes, not when it reads.
template <class Form, class T>
using Seen = typename Form::template Seen<T>;

inline const std::string kNoText;

template <class Form>
void fields(Form& f, Seen<Form, Finding>& v) {
  f("code", v.code), f("severity", v.severity), f("nodes", v.nodes), f("text", v.text), f("evidence", v.evidence), f("advice", v.advice);
}

template <class Form>
void fields(Form& f, Seen<Form, NvLink>& v) {
  f("remote", v.remote), f("remote_bus_id", v.remote_bus_id, kNoText), f("count", v.count), f("gb_per_s", v.gb_per_s, 0.0);
}

template <class Form>
void fields(Form& f, Seen<Form, Gpu>& v) {
  f("label", v.label), f("index", v.index, -1), f("bus_id", v.bus_id, kNoText), f("name", v.name, kNoText), f("uuid", v.uuid, kNoText);
  f("memory_bytes", v.memory_bytes, int64_t{0}), f("compute_major", v.compute_major, 0), f("compute_minor", v.compute_minor), f("numa", v.numa, -1);
  f("mig", v.mig), f("gdr", v.gdr), f("dma_buf", v.dma_buf), f("pcie_gb_per_s", v.pcie_gb_per_s, 0.0), f("nvlinks", v.nvlinks);
  f("fabric_state", v.fabric_state, kNoText);
}

template <class Form>
void fields(Form& f, Seen<Form, Gid>& v) {
  f("index", v.index), f("address", v.address), f("roce_version", v.roce_version, 0), f("netdev", v.netdev, kNoText), f("readable", v.readable);
}

template <class Form>
void fields(Form& f, Seen<Form, HcaPort>& v) {
  f("number", v.number), f("state", v.state), f("phys_state", v.phys_state, kNoText), f("link_layer", v.link_layer), f("rate_gbps", v.rate_gbps, 0.0);
  f("lid", v.lid, -1), f("sm_lid", v.sm_lid, -1), f("active_mtu", v.active_mtu, 0), f("gid_table", v.gid_table), f("gids", v.gids);
  f("netdevs", v.netdevs), f("netdev_up", v.netdev_up);
}

template <class Form>
void fields(Form& f, Seen<Form, Hca>& v) {
  f("name", v.name, kNoText), f("bus_id", v.bus_id, kNoText), f("node_type", v.node_type), f.hex("vendor_id", v.vendor_id, 4);
  f("part_id", v.part_id, uint32_t{0}), f("node_guid", v.node_guid, kNoText), f("sys_image_guid", v.sys_image_guid, kNoText);
  f("board_id", v.board_id, kNoText), f("firmware", v.firmware, kNoText), f("numa", v.numa, -1);
  f("physical_function", v.physical_function, kNoText), f("device_link", v.device_link), f("openable", v.openable);
  f("sysfs_missing", v.sysfs_missing), f("named_only", v.named_only), f("port_count", v.port_count), f("ports", v.ports);
}

template <class Form>
void fields(Form& f, Seen<Form, Address>& v) {
  f("ip", v.ip), f("prefix_len", v.prefix_len, -1);
}

template <class Form>
void fields(Form& f, Seen<Form, Interface>& v) {
  f("name", v.name), f("kind", v.kind, kNoText), f("type", v.type, kNoText), f("up", v.up), f("mtu", v.mtu, 0), f("speed_mbps", v.speed_mbps, int64_t{0});
  f("mac", v.mac, kNoText), f("bus_id", v.bus_id, kNoText), f("master", v.master, kNoText), f("lower", v.lower), f("addresses", v.addresses);
  f("default_route", v.default_route), f("bootstrap", v.bootstrap), f("out_of_band", v.out_of_band);
}

template <class Form>
void fields(Form& f, Seen<Form, PciDevice>& v) {
  f("bus_id", v.bus_id), f.hex("class_code", v.class_code, 6), f.hex("vendor", v.vendor, 4), f.hex("device", v.device, 4);
  f("description", v.description, kNoText), f("parent", v.parent, kNoText), f("root", v.root, kNoText), f("numa", v.numa, -1);
  f("gb_per_s", v.gb_per_s, 0.0), f("physical_function", v.physical_function, kNoText), f("acs_redirect", v.acs_redirect);
}

template <class Form>
void fields(Form& f, Seen<Form, Path>& v) {
  f("a", v.a), f("b", v.b), f("kind", v.kind), f("nvlinks", v.nvlinks);
}

template <class Form>
void fields(Form& f, Seen<Form, NumaNode>& v) {
  f("id", v.id), f("cpus", v.cpus, kNoText), f("memory_bytes", v.memory_bytes, int64_t{0});
}

template <class Form>
void fields(Form& f, Seen<Form, Host>& v) {
  f("name", v.name, kNoText), f("id", v.id, kNoText), f("os", v.os, kNoText), f("kernel", v.kernel, kNoText), f("arch", v.arch, kNoText);
  f("cpu_model", v.cpu_model, kNoText), f("packages", v.packages, 0), f("cores", v.cores, 0), f("logical_cpus", v.logical_cpus, 0), f("numa", v.numa);
  f("memory_bytes", v.memory_bytes, int64_t{0}), f("shm_bytes", v.shm_bytes, int64_t{0}), f("cgroup_cpus", v.cgroup_cpus, 0.0);
  f("cgroup_memory_bytes", v.cgroup_memory_bytes, int64_t{0}), f("memlock_bytes", v.memlock_bytes), f("virtual_machine", v.virtual_machine);
  f("container", v.container), f("uverbs", v.uverbs), f("rdma_cm", v.rdma_cm), f("peer_memory", v.peer_memory), f("dma_buf", v.dma_buf);
  f("iommu", v.iommu, kNoText), f("fabric_manager", v.fabric_manager), f("driver_version", v.driver_version, kNoText);
  f("cuda_driver_version", v.cuda_driver_version, kNoText), f("nccl_version", v.nccl_version, kNoText), f("nccl_path", v.nccl_path, kNoText);
  f("nccl_hash", v.nccl_hash, kNoText), f("net_plugin", v.net_plugin, kNoText), f("verbs_library", v.verbs_library, kNoText);
  f("fabric_providers", v.fabric_providers);
}

template <class Form>
void fields(Form& f, Seen<Form, Setting>& v) {
  f("name", v.name), f("value", v.value), f("origin", v.origin);
}

template <class Form>
void fields(Form& f, Seen<Form, Reason>& v) {
  f("subject", v.subject), f("code", v.code), f("text", v.text), f("dropped", v.dropped);
}

/// One line of "environment_reasons"; the value stands in "environment" unless that has another one of the same name.
struct VariableReason {
  std::string name, reason;
  bool users = false;
  std::optional<std::string> value;
};
template <class Form>
void fields(Form& f, Seen<Form, VariableReason>& v) {
  f("name", v.name), f("reason", v.reason), f("users", v.users), f("value", v.value);
}

template <class Form>
void fields(Form& f, Seen<Form, ChosenPort>& v) {
  f("hca", v.hca), f("port", v.port), f("rail", v.rail), f("rate_gbps", v.rate_gbps, 0.0), f("netdev", v.netdev, kNoText);
  f("subnet", v.subnet, kNoText), f("gid_index", v.gid_index);
}

template <class Form>
void fields(Form& f, Seen<Form, Network>& v) {
  f("transport", v.transport), f("link_layer", v.link_layer), f("hcas", v.hcas), f("hca_count", v.hca_count), f("hcas_excluded", v.hcas_excluded);
  f("hcas_seen", v.hcas_seen), f("gid_index", v.gid_index), f("gid_index_if_forced", v.gid_index_if_forced);
  f("socket_ifname", v.socket_ifname, kNoText), f("fallback_reason", v.fallback_reason, kNoText), f("plugin_fabric", v.plugin_fabric, kNoText);
  f("gb_per_s_per_gpu", v.gb_per_s_per_gpu, 0.0), f("gpu_nic_affinity", v.gpu_nic_affinity), f("gdr_by_default", v.gdr_by_default);
  f("rails_isolated", v.rails_isolated), f("ports_down", v.ports_down), f("mixed_ports", v.mixed_ports), f("nic_count", v.nic_count);
  f("efa_count", v.efa_count), f("qps_per_connection", v.qps_per_connection), f("ib_tc", v.ib_tc), f("ib_sl", v.ib_sl), f("ib_timeout", v.ib_timeout);
  f("topo_file", v.topo_file), f("judged", v.judged), f("ports", v.ports), f.environment(v.environment), f("reasons", v.reasons);
}

template <class Form>
void fields(Form& f, Seen<Form, Link>& v) {
  f("a", v.a), f("b", v.b), f("kind", v.kind), f("gb_per_s", v.gb_per_s, 0.0), f("stated", v.stated);
}

/// What a reader wants first comes first; the listings that only repeat facts for readers are not read back.
template <class Form>
void fields(Form& f, Seen<Form, Node>& v) {
  f("name", v.name), f.gpu_count(v), f("nvlink", v.nvlink), f("network", v.network), f("findings", v.findings), f("gpus", v.gpus), f.nics(v);
  f("host", v.host), f("hcas", v.hcas), f("interfaces", v.interfaces), f("pci", v.pci), f("paths", v.paths), f("links", v.links), f("settings", v.settings);
  f("sources", v.sources), f("gpus_complete", v.gpus_complete), f("hcas_complete", v.hcas_complete), f("rdma_absent", v.rdma_absent);
  f("interfaces_complete", v.interfaces_complete), f("pci_complete", v.pci_complete);
}

template <class Form>
void fields(Form& f, Seen<Form, Reach>& v) {
  f("from", v.from), f("to", v.to), f("over", v.over), f("ok", v.ok), f("round_trip_us", v.round_trip_us, 0.0), f("error", v.error, kNoText);
}

template <class Form>
void fields(Form& f, Seen<Form, Cluster>& v) {
  f("nodes", v.nodes), f("findings", v.findings), f("reach", v.reach), f("node_of_rank", v.node_of_rank);
}

}  // namespace dsinfer::topology
