// Live sources against libraries that answer as NVML and libibverbs do, and against what this machine's own tools say.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/cgroup.hpp"
#include "core/json.hpp"
#include "fakes/fake_verbs.hpp"
#include "topology/probes.hpp"
#include "topology/shared_library.hpp"

namespace dsinfer::topology {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// What a command prints; nothing if it fails or does not exist.
std::string output_of(const std::string& command) {
  std::string text;
  std::FILE* pipe = ::popen((command + " 2>/dev/null").c_str(), "r");
  if (!pipe) return text;
  char buffer[4096];
  for (size_t got; (got = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, got);
  return ::pclose(pipe) == 0 ? text : "";
}

// ---- NVML

Node nvml_of(const char* machine) {
  ::setenv("FAKE_NVML", machine, 1);
  return probe_nvml(DSINFER_FAKE_NVML);
}

const Path* path_between(const Node& node, const std::string& a, const std::string& b) {
  for (const Path& path : node.paths)
    if ((path.a == a && path.b == b) || (path.a == b && path.b == a)) return &path;
  return nullptr;
}

TEST(Nvml, CardsOnSwitchesAreJoinedByTheirLinks) {
  const Node node = nvml_of("nvswitch4");
  EXPECT_TRUE(node.gpus_complete);
  EXPECT_THAT(node.findings, IsEmpty());
  EXPECT_EQ(node.host.driver_version, "570.133.20");
  EXPECT_EQ(node.host.cuda_driver_version, "12.8");
  ASSERT_EQ(node.gpus.size(), 4u);
  const Gpu& gpu = node.gpus[1];
  EXPECT_EQ(gpu.label, "GPU1");
  EXPECT_EQ(gpu.index, 1);
  EXPECT_EQ(gpu.bus_id, "0000:39:00.0");
  EXPECT_EQ(gpu.name, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(gpu.memory_bytes, 85520809984);
  EXPECT_EQ(gpu.compute_major, 9);
  EXPECT_EQ(gpu.mig, std::optional(false));
  EXPECT_EQ(gpu.fabric_state, "completed");
  EXPECT_NEAR(gpu.pcie_gb_per_s, 63, 0.1);  // Gen5 × 16
  ASSERT_EQ(gpu.nvlinks.size(), 4u);        // four switches: 5, 5, 4, 4 links
  EXPECT_EQ(gpu.nvlinks[0].remote, NvLink::Remote::nvswitch);
  EXPECT_EQ(gpu.nvlinks[0].remote_bus_id, "0000:05:00.0");
  EXPECT_EQ(gpu.nvlinks[0].count, 5);
  EXPECT_NEAR(gpu.nvlinks[0].gb_per_s, 5 * 26.562, 1e-6);
  EXPECT_EQ(node.paths.size(), 6u);
  ASSERT_TRUE(path_between(node, "GPU0", "GPU2"));
  EXPECT_EQ(path_between(node, "GPU0", "GPU2")->kind, PathKind::nvlink);
  EXPECT_EQ(path_between(node, "GPU0", "GPU2")->nvlinks, 18);
  EXPECT_EQ(path_between(node, "GPU0", "GPU3")->nvlinks, 17);  // one of GPU3's is down
}

TEST(Nvml, BridgesJoinPairsAndTheRestGoesOverPci) {
  const Node node = nvml_of("pairs4");
  ASSERT_EQ(node.gpus.size(), 4u);
  ASSERT_EQ(node.gpus[0].nvlinks.size(), 1u);
  EXPECT_EQ(node.gpus[0].nvlinks[0].remote, NvLink::Remote::gpu);
  EXPECT_EQ(node.gpus[0].nvlinks[0].remote_bus_id, node.gpus[1].bus_id);
  EXPECT_EQ(path_between(node, "GPU0", "GPU1")->nvlinks, 12);
  EXPECT_EQ(path_between(node, "GPU2", "GPU3")->nvlinks, 12);
  EXPECT_EQ(path_between(node, "GPU1", "GPU2")->kind, PathKind::sys);
  EXPECT_EQ(node.gpus[0].fabric_state, "");
}

TEST(Nvml, LinksWhoseFarEndIsHiddenLeadToOneSwitch) {
  const Node node = nvml_of("hidden2");
  ASSERT_EQ(node.gpus.size(), 2u);
  ASSERT_EQ(node.gpus[0].nvlinks.size(), 1u);
  EXPECT_EQ(node.gpus[0].nvlinks[0].remote, NvLink::Remote::nvswitch);
  EXPECT_EQ(node.gpus[0].nvlinks[0].remote_bus_id, "");
  EXPECT_EQ(path_between(node, "GPU0", "GPU1")->nvlinks, 18);
}

TEST(Nvml, RefusedPeerAccessIsTold) {
  const Node node = nvml_of("pcie2");
  ASSERT_EQ(node.gpus.size(), 2u);
  EXPECT_THAT(node.gpus[0].nvlinks, IsEmpty());
  EXPECT_EQ(node.gpus[0].mig, std::nullopt);
  EXPECT_EQ(path_between(node, "GPU0", "GPU1")->kind, PathKind::node);
  ASSERT_EQ(node.findings.size(), 1u);
  EXPECT_EQ(node.findings[0].code, "p2p-refused");
  EXPECT_EQ(node.findings[0].severity, Severity::info);
  EXPECT_THAT(node.findings[0].evidence.at(0), HasSubstr("GPU not supported"));
}

TEST(Nvml, ALostCardLeavesTheOthers) {
  const Node node = nvml_of("one-lost");
  ASSERT_EQ(node.gpus.size(), 1u);
  EXPECT_FALSE(node.gpus_complete);
  ASSERT_EQ(node.findings.size(), 1u);
  EXPECT_THAT(node.findings[0].evidence.at(0), HasSubstr("GPU is lost"));
}

TEST(Nvml, NoCardIsNoNewsAndAFailingStartIsTold) {
  const Node none = nvml_of("none");
  EXPECT_TRUE(none.gpus_complete);
  EXPECT_THAT(none.gpus, IsEmpty());
  EXPECT_THAT(none.findings, IsEmpty());
  const Node mismatch = nvml_of("mismatch");
  ASSERT_EQ(mismatch.findings.size(), 1u);
  EXPECT_EQ(mismatch.findings[0].code, "nvml-failed");
  EXPECT_THAT(mismatch.findings[0].text, HasSubstr("Driver/library version mismatch"));
  EXPECT_FALSE(mismatch.findings[0].advice.empty());
  EXPECT_EQ(nvml_of("unloaded").findings.at(0).severity, Severity::info);
}

TEST(Nvml, IsShutDownEachTime) {
  const SharedLibrary library(DSINFER_FAKE_NVML);
  int (*opened)() = nullptr;
  library.find(opened, "fake_nvml_opened");
  ASSERT_TRUE(opened);
  for (const char* machine : {"nvswitch4", "none", "one-lost"}) nvml_of(machine);
  EXPECT_EQ(opened(), 0);
}

TEST(Nvml, AbsentLibraryIsQuietAndABrokenOneIsNot) {
  EXPECT_EQ(probe_nvml(""), Node());
  EXPECT_EQ(probe_nvml("libno-such-thing.so.1"), Node());
  const std::string broken = ::testing::TempDir() + "dsinfer_broken.so";
  std::ofstream(broken) << "no library";
  EXPECT_EQ(probe_nvml(broken).findings.size(), 1u);
  EXPECT_EQ(probe_verbs("libno-such-thing.so.1"), Node());
  std::filesystem::remove(broken);
  EXPECT_THAT(probe_nvml("libc.so.6").gpus, IsEmpty());  // a library without its functions
}

// ---- libibverbs

#ifdef DSINFER_TEST_VERBS
class Verbs : public ::testing::Test {
 protected:
  SharedLibrary library{DSINFER_FAKE_VERBS};
  FakeVerbs& fake = state();
  void SetUp() override { fake = FakeVerbs(); }
  void TearDown() override { EXPECT_EQ(fake.open_objects, 0); }

 private:
  FakeVerbs& state() {
    FakeVerbs* (*get)() = nullptr;
    library.find(get, "fake_verbs");
    return *get();
  }
};

TEST_F(Verbs, DevicesPortsAndGidsAreRead) {
  fake.devices = 2;
  for (const bool old_kernel : {false, true}) {
    fake.old_kernel = old_kernel;
    const Node node = probe_verbs(DSINFER_FAKE_VERBS);
    EXPECT_TRUE(node.hcas_complete);
    EXPECT_THAT(node.host.verbs_library, HasSubstr("fake_verbs"));
    ASSERT_EQ(node.hcas.size(), 2u);
    const Hca& hca = node.hcas[1];
    EXPECT_EQ(hca.name, "fake_1");
    EXPECT_EQ(hca.node_type, Hca::NodeType::ca);
    EXPECT_EQ(hca.vendor_id, 0x02c9u);
    EXPECT_EQ(hca.part_id, 4129u);
    EXPECT_EQ(hca.firmware, "28.39.1002");
    EXPECT_EQ(hca.node_guid, "b8ce:f603:00ab:cdef");
    EXPECT_EQ(hca.openable, std::optional(true));
    EXPECT_EQ(hca.port_count, std::optional(1));
    ASSERT_EQ(hca.ports.size(), 1u);
    const HcaPort& port = hca.ports[0];
    EXPECT_EQ(port.state, PortState::active);
    EXPECT_EQ(port.phys_state, "LinkUp");
    EXPECT_EQ(port.link_layer, LinkLayer::ethernet);
    EXPECT_EQ(port.rate_gbps, 400);
    EXPECT_EQ(port.active_mtu, 4096);
    EXPECT_TRUE(port.gid_table);
    ASSERT_EQ(port.gids.size(), 4u);
    EXPECT_EQ(port.gids[3].index, 3);
    EXPECT_EQ(port.gids[3].address, "::ffff:10.0.1.2");
    EXPECT_EQ(port.gids[3].roce_version, 2);
    EXPECT_EQ(port.gids[2].roce_version, 1);
    EXPECT_EQ(port.gids[0].address, "fe80::2");
  }
}

TEST_F(Verbs, InfinibandHasLidsAndNoRoceVersion) {
  fake.devices = 1;
  fake.ethernet = false;
  const Node node = probe_verbs(DSINFER_FAKE_VERBS);
  const HcaPort& port = node.hcas.at(0).ports.at(0);
  EXPECT_EQ(port.link_layer, LinkLayer::infiniband);
  EXPECT_EQ(port.lid, 1);
  EXPECT_EQ(port.sm_lid, 1);
  ASSERT_EQ(port.gids.size(), 1u);
  EXPECT_EQ(port.gids[0].roce_version, 0);
}

TEST_F(Verbs, KernelWithoutRdmaHasNoDeviceAndARefusedOneIsTold) {
  fake.devices = -1;
  const Node none = probe_verbs(DSINFER_FAKE_VERBS);
  EXPECT_TRUE(none.hcas_complete);
  EXPECT_THAT(none.findings, IsEmpty());
  fake.devices = 2;
  fake.refuse_open = true;
  const Node refused = probe_verbs(DSINFER_FAKE_VERBS);
  ASSERT_EQ(refused.hcas.size(), 2u);
  EXPECT_EQ(refused.hcas[0].openable, std::optional(true));
  EXPECT_EQ(refused.hcas[1].openable, std::optional(false));
  ASSERT_EQ(refused.findings.size(), 1u);
  EXPECT_EQ(refused.findings[0].code, "device-not-openable");
  EXPECT_THAT(refused.findings[0].evidence.at(0), HasSubstr("Operation not permitted"));
}
#endif

// ---- the kernel

TEST(Netlink, SaysWhatIpSays) {
  const std::string text = output_of("ip -j addr");
  if (text.empty()) GTEST_SKIP() << "no ip tool that prints JSON here";
  const Json expected = Json::parse(text);
  const Node node = probe_netlink();
  EXPECT_TRUE(node.interfaces_complete);
  ASSERT_EQ(node.interfaces.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const Interface& found = node.interfaces[i];
    const Json& link = expected[i];
    EXPECT_EQ(found.name, link.at("ifname"));
    EXPECT_EQ(found.mtu, link.at("mtu"));
    EXPECT_EQ(found.mac, link.at("address"));
    const auto flags = link.at("flags").get<std::vector<std::string>>();
    const auto has = [&](const char* flag) { return std::find(flags.begin(), flags.end(), flag) != flags.end(); };
    EXPECT_EQ(found.up, std::optional(has("UP") && has("LOWER_UP"))) << found.name;
    EXPECT_EQ(found.kind == "loopback", has("LOOPBACK"));
    std::vector<Address> addresses;
    for (const Json& address : link.at("addr_info")) addresses.push_back({address.at("local"), address.at("prefixlen")});
    EXPECT_EQ(found.addresses, addresses) << found.name;
  }
}

TEST(Netlink, FindsTheDefaultRouteThatIpFinds) {
  const std::string text = output_of("ip -j route show default");
  if (text.empty()) GTEST_SKIP() << "no ip tool that prints JSON here";
  const Json routes = Json::parse(text);
  std::string expected;
  int least = 0;
  for (const Json& route : routes) {
    const int metric = route.value("metric", 0);
    if (expected.empty() || metric < least) expected = route.value("dev", ""), least = metric;
  }
  if (expected.empty()) GTEST_SKIP() << "this machine has no default route";
  std::string found;
  for (const Interface& interface : probe_netlink().interfaces)
    if (interface.default_route) found += interface.name;
  EXPECT_EQ(found, expected);
}

// ---- the process

ProbeOptions without_libraries() {
  ProbeOptions options;
  options.nvml_library = options.verbs_library = options.nccl_library = "";
  options.environment = std::vector<std::string>{};
  return options;
}

TEST(Process, TakesTheSettingsThatCountAndWhereTheyComeFrom) {
  const std::string conf = ::testing::TempDir() + "dsinfer_nccl.conf";
  std::ofstream(conf) << "# site\nNCCL_IB_TC=106\nNCCL_DEBUG=WARN\n";
  ProbeOptions options = without_libraries();
  options.environment = {"PATH=/bin", "NCCL_IB_HCA==mlx5_0:1", "UCX_TLS=rc", "GLOO_SOCKET_IFNAME=eth0", "NCCL_CONF_FILE=" + conf, "SECRET=1"};
  const Node node = probe_process(options);
  std::vector<std::string> found;
  for (const Setting& s : node.settings) found.push_back(s.name + "=" + s.value + " " + (s.origin == conf ? "conf" : s.origin));
  EXPECT_THAT(found, ::testing::IsSupersetOf({"GLOO_SOCKET_IFNAME=eth0 environment", "NCCL_IB_HCA==mlx5_0:1 environment", "UCX_TLS=rc environment"}));
  EXPECT_THAT(found, ::testing::Not(::testing::Contains(HasSubstr("SECRET"))));
  EXPECT_THAT(found, ::testing::Contains("NCCL_IB_TC=106 conf"));
  std::filesystem::remove(conf);
}

TEST(Process, LeavesOutWhatTheLauncherSets) {
  ProbeOptions options = without_libraries();
  options.environment = {"OMPI_MCA_orte_ess_vpid=3", "OMPI_MCA_ess_base_jobid=77", "OMPI_MCA_pmix=^s1", "OMPI_MCA_initial_wdir=/home/x", "OMPI_MCA_shmem_RUNTIME_QUERY_hint=mmap",
                         "OMPI_MCA_mpi_oversubscribe=0", "OMPI_MCA_plm=rsh", "OMPI_MCA_rmaps_ppr_n_pernode=8", "OMPI_MCA_btl_tcp_if_include=eth0",
                         "OMPI_MCA_oob_tcp_if_include=eth0", "OMPI_MCA_pml=ob1", "OMPI_MCA_mtl=^ofi"};
  std::vector<std::string> found;
  for (const Setting& s : probe_process(options).settings) {
    if (s.origin == "environment") found.push_back(s.name);
  }
  EXPECT_THAT(found, ElementsAre("OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_mtl", "OMPI_MCA_oob_tcp_if_include", "OMPI_MCA_pml"));
}

TEST(Process, KnowsItsLimits) {
  const Node node = probe_process(without_libraries());
  EXPECT_TRUE(node.host.memlock_bytes);
  EXPECT_GE(node.host.cgroup_cpus, 0);
  std::error_code none;
  if (std::filesystem::exists("/dev/shm", none)) {
    EXPECT_GT(node.host.shm_bytes, 0);
  }
}

TEST(Process, AnotherMachinesFilesAreNotJudgedByThisOne) {
  ProbeOptions options = without_libraries();
  options.root = "/nonexistent";
  EXPECT_EQ(probe_process(options), Node());
}

// ---- the whole machine

// lscpu prints a tree of {field, data, children}.
std::string lscpu_field(const Json& rows, const std::string& field) {
  for (const Json& row : rows) {
    if (row.value("field", "") == field + ":") return row.value("data", "");
    if (row.contains("children")) {
      if (const std::string found = lscpu_field(row.at("children"), field); !found.empty()) return found;
    }
  }
  return "";
}

// "0-2,8" → 0 1 2 8; lscpu writes two neighbours as "0,1".
std::vector<int> cpus_of(const std::string& list) {
  std::vector<int> cpus;
  std::istringstream text(list);
  for (std::string part; std::getline(text, part, ',');) {
    const size_t dash = part.find('-');
    const int first = std::stoi(part), last = dash == part.npos ? first : std::stoi(part.substr(dash + 1));
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

TEST(ProbeNode, SaysWhatLscpuSays) {
  const std::string text = output_of("lscpu -J");
  if (text.empty()) GTEST_SKIP() << "no lscpu that prints JSON here";
  const Json rows = Json::parse(text).at("lscpu");
  const Node node = probe_node(without_libraries());
  EXPECT_EQ(node.host.arch, lscpu_field(rows, "Architecture"));
  EXPECT_EQ(std::to_string(node.host.logical_cpus), lscpu_field(rows, "CPU(s)"));
  if (const std::string model = lscpu_field(rows, "Model name"); !model.empty() && model != "-") {
    EXPECT_EQ(node.host.cpu_model, model);
  }
  const std::string sockets = lscpu_field(rows, "Socket(s)"), cores = lscpu_field(rows, "Core(s) per socket");
  if (!sockets.empty() && !cores.empty() && sockets != "-" && cores != "-") {
    EXPECT_EQ(std::to_string(node.host.packages), sockets);
    EXPECT_EQ(node.host.cores, std::stoi(sockets) * std::stoi(cores));
  }
  for (const NumaNode& numa : node.host.numa) EXPECT_EQ(cpus_of(numa.cpus), cpus_of(lscpu_field(rows, "NUMA node" + std::to_string(numa.id) + " CPU(s)")));
}

TEST(ProbeNode, IsWholeWithoutGpusVerbsAndNccl) {
  const Node node = probe_node(without_libraries());
  EXPECT_EQ(node.name, node.host.name);
  EXPECT_FALSE(node.host.name.empty());
  EXPECT_GT(node.host.memory_bytes, 0);
  EXPECT_TRUE(node.interfaces_complete);
  std::vector<std::string> names, kernels;
  for (const Interface& interface : node.interfaces) names.push_back(interface.name);
  for (const Interface& interface : probe_netlink().interfaces) kernels.push_back(interface.name);
  EXPECT_EQ(names, kernels);
  Cluster cluster;
  cluster.nodes.push_back(node);
  EXPECT_EQ(Cluster::from_json(cluster.to_json()), cluster);
}

TEST(ProbeNode, GpusAndVerbsDevicesOfTheLibrariesAreInIt) {
  ::setenv("FAKE_NVML", "pairs4", 1);
  ProbeOptions options = without_libraries();
  options.nvml_library = DSINFER_FAKE_NVML;
  const Node node = probe_node(options);
  ASSERT_EQ(node.gpus.size(), 4u);
  EXPECT_EQ(node.gpus[2].label, "GPU2");
  EXPECT_EQ(node.nvlink, std::optional(true));
  EXPECT_EQ(node.host.driver_version, "570.133.20");
}

TEST(ProbeNode, AFailureNamesTheNode) {
  ::setenv("FAKE_NVML", "mismatch", 1);
  ProbeOptions options = without_libraries();
  options.nvml_library = DSINFER_FAKE_NVML;
  const Node node = probe_node(options);
  const auto found = std::find_if(node.findings.begin(), node.findings.end(), [](const Finding& f) { return f.code == "nvml-failed"; });
  ASSERT_NE(found, node.findings.end());
  EXPECT_THAT(found->nodes, ElementsAre(node.name));
}

TEST(ProbeNode, AnotherRootIsReadAlone) {
  const std::filesystem::path root = std::filesystem::temp_directory_path() / ("dsinfer_probe_" + std::to_string(::getpid()));
  std::filesystem::create_directories(root / "proc/sys/kernel/random");
  std::ofstream(root / "proc/sys/kernel/hostname") << "far-away\n";
  ProbeOptions options;
  options.root = root.string();
  options.environment = {"NCCL_SOCKET_IFNAME=eth7"};
  options.nvml_library = DSINFER_FAKE_NVML;
  ::setenv("FAKE_NVML", "pairs4", 1);
  const Node node = probe_node(options);
  EXPECT_EQ(node.name, "far-away");
  EXPECT_THAT(node.gpus, IsEmpty());
  EXPECT_THAT(node.interfaces, IsEmpty());
  ASSERT_EQ(node.settings.size(), 1u);
  EXPECT_EQ(node.settings[0].value, "eth7");
  std::filesystem::remove_all(root);
}

TEST(Probe, LeavesOutGpusThatAContainerWasNotGiven) {
  Node nvml, tree;
  for (const char* bus : {"0000:19:00.0", "0000:3b:00.0"}) tree.gpus.emplace_back().bus_id = bus;
  tree.gpus_complete = true;
  keep_given_gpus(nvml, tree);  // no NVML: what sysfs has is all that is known
  EXPECT_EQ(tree.gpus.size(), 2u);
  nvml.gpus.emplace_back().bus_id = "0000:3b:00.0";
  nvml.gpus_complete = true;
  keep_given_gpus(nvml, tree);
  ASSERT_EQ(tree.gpus.size(), 1u);
  EXPECT_EQ(tree.gpus[0].bus_id, "0000:3b:00.0");
  ASSERT_EQ(tree.findings.size(), 1u);
  EXPECT_EQ(tree.findings[0].code, "gpus-not-given");
}

// ---- NCCL

class Loader : public ::testing::Test {
 protected:
  std::filesystem::path folder = std::filesystem::temp_directory_path() / ("dsinfer_loader_" + std::to_string(::getpid()));
  std::string before = ::getenv("LD_LIBRARY_PATH") ? ::getenv("LD_LIBRARY_PATH") : "";
  void SetUp() override {
    std::filesystem::create_directories(folder);
    ::setenv("LD_LIBRARY_PATH", ("/nonexistent:" + folder.string() + ":" + before).c_str(), 1);
  }
  void TearDown() override {
    ::setenv("LD_LIBRARY_PATH", before.c_str(), 1);
    std::filesystem::remove_all(folder);
  }
  void write(const std::string& name, const std::string& text) { std::ofstream(folder / name) << text; }
};

TEST_F(Loader, VersionAndHashAreReadFromTheFileThatWouldBeLoaded) {
  const std::string text = std::string((4 << 20) - 20, 'x') + "NCCL version 2.27.3+cuda12.9" + std::string(1000, 'y');  // across two reads
  write("libnccl_test.so.2", text);
  write("libnccl-net.so", "plugin");
  Node node;
  find_nccl("libnccl_test.so.2", node);
  EXPECT_EQ(node.host.nccl_path, (folder / "libnccl_test.so.2").string());
  EXPECT_EQ(node.host.nccl_version, "2.27.3");
  EXPECT_EQ(node.host.nccl_hash.size(), 64u);
  const auto hash_of = [&](const std::string& bytes) {
    write("libnccl_other.so.2", bytes);
    Node other;
    find_nccl("libnccl_other.so.2", other);
    return other.host.nccl_hash;
  };
  EXPECT_EQ(hash_of(text), node.host.nccl_hash);
  EXPECT_NE(hash_of(text + "y"), node.host.nccl_hash);
  EXPECT_NE(hash_of("z" + text.substr(1)), node.host.nccl_hash);
  EXPECT_EQ(node.host.net_plugin, (folder / "libnccl-net.so").string());
}

TEST_F(Loader, PluginFollowsTheUsersWord) {
  write("libnccl-net.so", "plugin");
  write("libnccl-net-gib.so", "plugin");
  Node node;
  node.settings.push_back({"NCCL_NET_PLUGIN", "gib", "environment"});
  find_nccl("libno-such-nccl.so", node);
  EXPECT_EQ(node.host.net_plugin, (folder / "libnccl-net-gib.so").string());
  EXPECT_EQ(node.host.nccl_path, "");
  node.settings[0].value = "none";
  find_nccl("libno-such-nccl.so", node);
  EXPECT_EQ(node.host.net_plugin, "");
}

TEST_F(Loader, FindsWhatIsLoadedAndWhatTheCacheLists) {
  EXPECT_THAT(loader_path("libc.so.6"), HasSubstr("libc.so.6"));
  EXPECT_EQ(loader_path("libno-such-thing.so.9"), "");
  EXPECT_EQ(loader_path(""), "");
  // Some library that this process has not loaded, by the loader's own listing.
  const std::string listing = output_of("/sbin/ldconfig -p");
  for (size_t at = listing.find("\tlib"); at != listing.npos; at = listing.find("\tlib", at + 1)) {
    const std::string line = listing.substr(at + 1, listing.find('\n', at) - at - 1);
    const std::string name = line.substr(0, line.find(' '));
    const size_t arrow = line.find("=> ");
    if (line.find("x86-64") == line.npos || arrow == line.npos || ::dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD)) continue;
    if (listing.find("\t" + name + " ") != at) continue;  // the first of its name counts
    EXPECT_EQ(loader_path(name), line.substr(arrow + 3)) << line;
    return;
  }
}

}  // namespace
}  // namespace dsinfer::topology
