// Known GPUs and links, and fleets of them: described in words, or discovered.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "dsinfer/error.hpp"
#include "dsinfer/solver.hpp"
#include "plan/shape.hpp"

namespace dsinfer {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const Catalogue& shipped() { return Catalogue::shipped(); }

template <class Call> std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    return std::string(code_name(e.code())) + ": " + e.what();
  }
  return "no error";
}

class CatalogueFile {
 public:
  explicit CatalogueFile(const std::string& text) : path_(testing::TempDir() + "/catalogue-" + std::to_string(::getpid()) + ".json") { std::ofstream(path_) << text; }
  ~CatalogueFile() { std::filesystem::remove(path_); }
  Catalogue load() const { return Catalogue::with_file(path_); }

 private:
  std::string path_;
};

TEST(Catalogue, KnowsTheGpusWithTheMemoryThatDriversReport) {
  const std::pair<const char*, int64_t> mib[] = {{"h100-80g", 81559}, {"h800-80g", 81559}, {"h200-141g", 143771}, {"h20-96g", 97871}, {"a100-40g", 40960}, {"a100-80g", 81920}, {"a800-80g", 81920},
                                                 {"l20-48g", 46068}, {"l40s-48g", 46068}, {"b200-180g", 183359}, {"gb200-186g", 189471}, {"gb300-288g", 284208}, {"rtx4090-24g", 24564}, {"gcu-48g", 49152}};
  for (const auto& [id, memory] : mib) EXPECT_EQ(shipped().gpu(id).memory_bytes, memory << 20) << id;
  for (const char* id : {"cpu", "a10-24g", "l4-24g", "b300-288g", "rtx3090-24g", "v100-32g", "h20-141g"}) EXPECT_EQ(shipped().gpu(id).id, id);
  EXPECT_EQ(shipped().gpu("H20-96G").id, "h20-96g");
}

TEST(Catalogue, HasPlausibleFiguresAndASourceForEach) {
  const std::set<std::string> curves = {"hopper", "ampere", "ada", "blackwell", "other", "cpu"};
  for (const GpuKind& kind : shipped().gpus) {
    SCOPED_TRACE(kind.id);
    EXPECT_FALSE(kind.source.empty());
    EXPECT_TRUE(curves.contains(kind.curves)) << kind.curves;
    EXPECT_GT(kind.memory_gb_per_s, 100);
    EXPECT_GT(kind.pcie_gb_per_s, 10);
    EXPECT_EQ(kind.fp8_units, kind.fp8_tflops > 0);
    EXPECT_EQ(kind.fp8_units, kind.compute_capability >= 8.9);
    if (kind.fp8_units) { EXPECT_NEAR(kind.fp8_tflops / kind.bf16_tflops, 2, 0.05); }
  }
  for (const LinkKind& kind : shipped().links) EXPECT_FALSE(kind.source.empty()) << kind.id;
  EXPECT_EQ(shipped().gpu("h800-80g").nvlink_gb_per_s, 200);
  EXPECT_EQ(shipped().gpu("h20-96g").nvlink_gb_per_s, 450);
}

TEST(Catalogue, RecognisesWhatDriversAndBusesPrint) {
  const std::tuple<const char*, int64_t, const char*> names[] = {
      {"NVIDIA H100 80GB HBM3", 81559, "h100-80g"}, {"NVIDIA H100 PCIe", 81559, "h100-pcie-80g"}, {"NVIDIA H100 NVL", 95830, "h100-nvl-94g"}, {"NVIDIA H800", 81559, "h800-80g"},
      {"NVIDIA H200", 143771, "h200-141g"}, {"NVIDIA H20", 97871, "h20-96g"}, {"NVIDIA H20-3e", 143771, "h20-141g"}, {"NVIDIA H20", 143771, "h20-141g"}, {"NVIDIA H20-SXM5-96GB", 0, "h20-96g"},
      {"NVIDIA A100-SXM4-40GB", 40536, "a100-40g"}, {"NVIDIA A100-SXM4-80GB", 81251, "a100-80g"}, {"NVIDIA A100 80GB PCIe", 81920, "a100-pcie-80g"}, {"A100-PCIE-40GB", 40960, "a100-40g"},
      {"NVIDIA A800-SXM4-80GB", 81920, "a800-80g"}, {"NVIDIA Corporation GA100 [A100 SXM4 80GB] (rev a1)", 0, "a100-80g"}, {"NVIDIA L20", 46068, "l20-48g"}, {"NVIDIA L40S", 46068, "l40s-48g"},
      {"NVIDIA L4", 23034, "l4-24g"}, {"NVIDIA A10", 23028, "a10-24g"}, {"NVIDIA A10G", 23028, "a10-24g"}, {"NVIDIA B200", 183359, "b200-180g"}, {"NVIDIA GB200", 189471, "gb200-186g"},
      {"NVIDIA GeForce RTX 4090", 24564, "rtx4090-24g"}, {"Tesla V100-SXM2-32GB", 32510, "v100-32g"}, {"NVIDIA GH200 480GB", 97871, "gh200-96g"}, {"NVIDIA GB10", 0, "gb10-128g"},
  };
  for (const auto& [name, mib, id] : names) {
    const GpuKind* kind = shipped().match(name, mib << 20);
    ASSERT_TRUE(kind) << name;
    EXPECT_EQ(kind->id, id) << name;
  }
  for (const char* name : {"", "NVIDIA", "Matrox G200", "NVIDIA H1000", "NVIDIA T4", "ASPEED Graphics Family"}) EXPECT_EQ(shipped().match(name, 0), nullptr) << name;
}

// Numbers as pci.ids (2023, 2026) and NVIDIA's list of supported GPUs (open-gpu-kernel-modules, README) give them.
TEST(Catalogue, RecognisesNumbersOnTheBus) {
  const std::pair<uint32_t, const char*> devices[] = {{0x2330, "h100-80g"}, {0x2331, "h100-pcie-80g"}, {0x2335, "h200-141g"}, {0x2329, "h20-96g"}, {0x20b0, "a100-40g"}, {0x20b2, "a100-80g"},
                                                      {0x20f3, "a800-80g"}, {0x26b9, "l40s-48g"}, {0x26ba, "l20-48g"}, {0x2684, "rtx4090-24g"}, {0x2901, "b200-180g"}};
  for (const auto& [device, id] : devices) {
    ASSERT_TRUE(shipped().match_pci(0x10de, device)) << id;
    EXPECT_EQ(shipped().match_pci(0x10de, device)->id, id);
  }
  EXPECT_EQ(shipped().match_pci(0x10de, 0x1234), nullptr);
  EXPECT_EQ(shipped().match_pci(0x1002, 0x2330), nullptr);
  std::set<std::string> seen;
  for (const GpuKind& kind : shipped().gpus)
    for (const std::string& id : kind.pci) EXPECT_TRUE(seen.insert(id).second) << id;
}

TEST(Catalogue, TakesTheSmallestVariantWhereMemoryIsUnknown) { EXPECT_EQ(shipped().match("NVIDIA A100", 0)->id, "a100-40g"); }

TEST(Catalogue, NamesWhatThereIsWhenAskedForSomethingElse) {
  EXPECT_THAT(error_of([] { shipped().gpu("h300"); }), AllOf(HasSubstr("not_found: gpu \"h300\" is unknown"), HasSubstr("h20-96g"), HasSubstr("cpu")));
  EXPECT_THAT(error_of([] { shipped().link("token-ring", 8); }), AllOf(HasSubstr("not_found: link \"token-ring\""), HasSubstr("roce400x8")));
  for (const char* word : {"ib", "roce", "roce400y8", "roce400x", "roce400x0", "roce400x65", "roce-400x8", "rocex8", "ib1e9999", "ibnan", "ib0x8", "nvlink4", "socket25x1x2"})
    EXPECT_THAT(error_of([&] { shipped().link(word, 8); }), HasSubstr("not_found: link")) << word;
  EXPECT_THAT(error_of([] { shipped().link("ib400x8", 0); }), HasSubstr("invalid_argument: gpus_per_node is 0"));
}

TEST(Catalogue, SharesNicsBetweenTheGpusOfANode) {
  const std::tuple<const char*, int, double, const char*, int> links[] = {{"roce400x8", 8, 50, "roce", 8}, {"ib200x1", 8, 3.125, "ib", 1}, {"IB400x4", 8, 25, "ib", 4}, {"socket25x1", 8, 0.390625, "socket", 1},
                                                                          {"roce200", 4, 6.25, "roce", 1}, {"erdma", 8, 2.5, "roce", 1}, {"erdma200x2", 8, 6.25, "roce", 2}, {"ib2.5x1", 1, 0.3125, "ib", 1}};
  for (const auto& [word, gpus, rate, transport, nics] : links) {
    const LinkKind link = shipped().link(word, gpus);
    EXPECT_DOUBLE_EQ(link.gb_per_s, rate) << word;
    EXPECT_EQ(link.transport, transport) << word;
    EXPECT_EQ(link.nics, nics) << word;
    EXPECT_GT(link.latency_us, 0) << word;
  }
}

TEST(Catalogue, TakesAUsersFile) {
  const Catalogue mine = CatalogueFile(R"({"format": "dsinfer-catalogue-1",
    "gpus": [{"id": "h20-96g", "like": "h20-96g", "memory_mib": 97000}, {"id": "mine-32g", "like": "l20-48g", "names": ["Mine One"], "memory_mib": 32000, "source": "me"}],
    "links": [{"id": "backbone", "transport": "roce", "gb_per_s": 12.5, "latency_us": 7}]})").load();
  EXPECT_EQ(mine.gpus.size(), shipped().gpus.size() + 1);
  EXPECT_EQ(mine.gpu("h20-96g").memory_bytes, int64_t{97000} << 20);
  EXPECT_EQ(mine.gpu("h20-96g").memory_gb_per_s, 4000);
  EXPECT_EQ(mine.match("ACME Mine One rev 2", 0)->id, "mine-32g");
  EXPECT_EQ(mine.gpu("mine-32g").bf16_tflops, shipped().gpu("l20-48g").bf16_tflops);
  EXPECT_EQ(mine.link("backbone", 8).gb_per_s, 12.5);
  EXPECT_EQ(shipped().gpu("h20-96g").memory_bytes, int64_t{97871} << 20);
}

TEST(Catalogue, NamesFileAndKeyOfABadEntry) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"gpus": []})", "key \"format\" is missing"},
      {R"({"format": "other"})", "key \"format\" is \"other\""},
      {R"({"format": "dsinfer-catalogue-1", "gpu": []})", "key \"gpu\" is unknown"},
      {R"({"format": "dsinfer-catalogue-1", "gpus": {}})", "key \"gpus\" is object, expected a list"},
      {R"({"format": "dsinfer-catalogue-1", "gpus": [1]})", "gpus[0]: expected an object"},
      {R"({"format": "dsinfer-catalogue-1", "gpus": [{"id": "a", "memory_gb_per_s": 1}]})", "gpus[0]: key \"memory_mib\" is missing"},
      {R"({"format": "dsinfer-catalogue-1", "gpus": [{"id": "a", "memory_mib": -1, "memory_gb_per_s": 1}]})", "key \"memory_mib\" is -1"},
      {R"({"format": "dsinfer-catalogue-1", "gpus": [{"id": "a", "memory_mib": 9000000000000000000, "memory_gb_per_s": 1}]})", "key \"memory_mib\" is 9000000000000000000"},
      {R"({"format": "dsinfer-catalogue-1", "gpus": [{"id": "a", "memory_mib": 1, "memory_gb_per_s": -2}]})", "key \"memory_gb_per_s\" is -2"},
      {R"({"format": "dsinfer-catalogue-1", "gpus": [{"id": "a", "memory_mib": 1, "memory_gbps": 2}]})", "key \"memory_gbps\" is unknown; expected one of: bf16_tflops"},
      {R"({"format": "dsinfer-catalogue-1", "gpus": [{"id": "A", "memory_mib": 1, "memory_gb_per_s": 2}]})", "expected a name in lower case"},
      {R"({"format": "dsinfer-catalogue-1", "gpus": [{"id": "a", "pci": ["2330"]}]})", "key \"pci\" is \"2330\""},
      {R"({"format": "dsinfer-catalogue-1", "gpus": [{"id": "a", "like": "b"}]})", "key \"like\" is \"b\""},
      {R"({"format": "dsinfer-catalogue-1", "gpus": [{"id": "a", "like": "l4-24g"}, {"id": "a", "like": "l4-24g"}]})", "gpus[1]: key \"id\" is \"a\", expected an id that no other"},
      {R"({"format": "dsinfer-catalogue-1", "links": [{"id": "a", "transport": "smoke"}]})", "key \"transport\" is \"smoke\""},
      {R"({"format": "dsinfer-catalogue-1", "links": [{"id": "a", "transport": "ib", "latency_us": -1}]})", "key \"latency_us\" is -1"},
      {R"({"format": "dsinfer-catalogue-1", "links": [{"id": "a", "transport": "ib", "nics": 1000}]})", "key \"nics\" is 1000"},
      {"{", "not valid JSON"},
  };
  for (const auto& [text, error] : cases) EXPECT_THAT(error_of([&] { CatalogueFile(text).load(); }), AllOf(HasSubstr("bad_format: "), HasSubstr("catalogue-"), HasSubstr(error))) << text;
  EXPECT_THAT(error_of([] { Catalogue::with_file("/nowhere/catalogue.json"); }), HasSubstr("not_found: /nowhere/catalogue.json"));
}

TEST(Fleet, IsDescribedInWords) {
  const Fleet fleet = describe_fleet(shipped(), 2, 8, "h20-96g", "roce400x8");
  EXPECT_EQ(fleet.num_gpus(), 16);
  EXPECT_EQ(fleet.gpus.size(), 16u);
  EXPECT_EQ(fleet.gpus[11], (FleetGpu{1, "GPU3", 0}));
  EXPECT_THAT(fleet.node_names, ElementsAre("node0", "node1"));
  EXPECT_EQ(fleet.inside.transport, "nvlink");
  EXPECT_EQ(fleet.inside.gb_per_s, 450);
  EXPECT_EQ(fleet.between.gb_per_s, 50);
  EXPECT_EQ(fleet.nics_per_node, 8);
  EXPECT_TRUE(fleet.notes.empty());
}

TEST(Fleet, JoinsGpusWithoutNvlinkByPcie) {
  const Fleet fleet = describe_fleet(shipped(), 1, 4, "l20-48g", "");
  EXPECT_EQ(fleet.inside.transport, "pcie");
  EXPECT_EQ(fleet.inside.gb_per_s, 31.5);
  EXPECT_EQ(fleet.gpus[3].island, 3);
  EXPECT_EQ(fleet.between.transport, "socket");
  EXPECT_EQ(fleet.notes.size(), 1u);
  EXPECT_EQ(describe_fleet(shipped(), 1, 8, "h100-80g", "ib400x8", "pcie").inside.gb_per_s, 63);
  EXPECT_EQ(describe_fleet(shipped(), 4, 4, "gb200-186g", "nvlink").between.gb_per_s, 900);
  const Fleet cpus = describe_fleet(shipped(), 1, 2, "cpu", "");
  EXPECT_EQ(cpus.inside.transport, "memory");
  EXPECT_EQ(cpus.gpus[1].label, "CPU1");
}

TEST(Fleet, RefusesNonsenseByName) {
  const auto refusal = [](int nodes, int gpus, const char* gpu, const char* between, const char* inside = "") { return error_of([&] { describe_fleet(shipped(), nodes, gpus, gpu, between, inside); }); };
  EXPECT_THAT(refusal(0, 8, "h20-96g", "ib400x8"), HasSubstr("invalid_argument: nodes is 0, expected 1 … 131072"));
  EXPECT_THAT(refusal(-3, 8, "h20-96g", "ib400x8"), HasSubstr("nodes is -3"));
  EXPECT_THAT(refusal(1'000'000'000, 8, "h20-96g", "ib400x8"), HasSubstr("nodes is 1000000000"));
  EXPECT_THAT(refusal(2, 65, "h20-96g", "ib400x8"), HasSubstr("gpus_per_node is 65, expected 1 … 64"));
  EXPECT_THAT(refusal(1 << 17, 64, "h20-96g", "ib400x8"), HasSubstr("nodes · gpus_per_node = 131072 · 64 = 8388608, expected at most 131072"));
  EXPECT_THAT(refusal(2, 8, "h21", "ib400x8"), HasSubstr("not_found: gpu \"h21\""));
  EXPECT_THAT(refusal(2, 8, "h20-96g", ""), HasSubstr("invalid_argument: link: 2 nodes have to be joined"));
  EXPECT_THAT(refusal(2, 8, "l20-48g", "ib400x8", "nvlink"), HasSubstr("invalid_argument: link \"nvlink\": gpu \"l20-48g\" has no NVLink"));
  EXPECT_EQ(describe_fleet(shipped(), 16384, 8, "h20-96g", "ib400x8").gpus.size(), 131072u);
}

// A node as discovery leaves it: eight GPUs on an NVSwitch, eight HCAs of 400 Gb/s.
Node dgx(const std::string& name) {
  Node node;
  node.name = name;
  for (int i = 0; i < 8; ++i) {
    Gpu gpu;
    gpu.label = "GPU" + std::to_string(i);
    gpu.name = "NVIDIA H100 80GB HBM3";
    gpu.memory_bytes = int64_t{81559} << 20;
    node.gpus.push_back(gpu);
    node.links.push_back({gpu.label, "nvswitch", "nvlink", 450, false});
    node.network.ports.push_back({"mlx5_" + std::to_string(i), 1, i, 400, "", "", {}});
  }
  node.gpus_complete = true;
  node.nvlink = true;
  node.network.transport = Transport::ib;
  node.network.hca_count = 8;
  node.network.gb_per_s_per_gpu = 50;
  node.network.environment = {{"NCCL_IB_HCA", "=mlx5_0", "", false}};
  return node;
}

Cluster cluster_of(std::vector<Node> nodes) {
  Cluster cluster;
  cluster.nodes = std::move(nodes);
  return cluster;
}

Fleet fleet_from(std::vector<Node> nodes) { return fleet_of(shipped(), cluster_of(std::move(nodes))); }

TEST(FleetOfCluster, TakesGpusLinksAndNetworkAsDiscovered) {
  const Fleet fleet = fleet_from({dgx("alpha"), dgx("beta")});
  EXPECT_EQ(fleet.nodes, 2);
  EXPECT_EQ(fleet.gpus_per_node, 8);
  EXPECT_EQ(fleet.gpu.id, "h100-80g");
  EXPECT_EQ(fleet.gpus[9], (FleetGpu{1, "GPU1", 0}));
  EXPECT_EQ(fleet.inside.transport, "nvlink");
  EXPECT_EQ(fleet.inside.gb_per_s, 450);
  EXPECT_EQ(fleet.between.transport, "ib");
  EXPECT_EQ(fleet.between.gb_per_s, 50);
  EXPECT_EQ(fleet.nics_per_node, 8);
  EXPECT_THAT(fleet.node_names, ElementsAre("alpha", "beta"));
  EXPECT_EQ(fleet.environment.at("NCCL_IB_HCA"), "=mlx5_0");
  EXPECT_TRUE(fleet.notes.empty()) << fleet.notes.front();
}

TEST(FleetOfCluster, CountsTheMemoryThatTheMachineReports) {
  Node node = dgx("alpha");
  for (Gpu& gpu : node.gpus) gpu.memory_bytes = int64_t{81079} << 20;
  EXPECT_EQ(fleet_from({node}).gpu.memory_bytes, int64_t{81079} << 20);
  node.gpus[5].memory_bytes = int64_t{70000} << 20;
  const Fleet least = fleet_from({node});
  EXPECT_EQ(least.gpu.memory_bytes, int64_t{70000} << 20);
  EXPECT_THAT(least.notes, ElementsAre(HasSubstr("70000 MiB, the catalogue says 81559 MiB")));
  for (Gpu& gpu : node.gpus) gpu.memory_bytes = 0;
  EXPECT_THAT(fleet_from({node}).notes, ElementsAre(HasSubstr("81559 MiB is assumed")));
}

TEST(FleetOfCluster, KnowsNamelessGpusByTheirNumberOnTheBus) {
  Node node = dgx("alpha");
  for (Gpu& gpu : node.gpus) {
    gpu.name.clear(), gpu.memory_bytes = 0, gpu.bus_id = "0000:1" + std::to_string(&gpu - node.gpus.data()) + ":00.0";
    PciDevice device;
    device.bus_id = gpu.bus_id, device.class_code = 0x030200, device.vendor = 0x10de, device.device = 0x2330;
    node.pci.push_back(device);
  }
  const Fleet fleet = fleet_from({node});
  EXPECT_EQ(fleet.gpu.id, "h100-80g");
  EXPECT_EQ(fleet.gpus_per_node, 8);
  EXPECT_THAT(fleet.notes, testing::Contains(HasSubstr("10de:2330 is h100-80g")));
  for (PciDevice& device : node.pci) device.device = 0x1234;
  EXPECT_THAT(error_of([&] { fleet_from({node}); }), AllOf(HasSubstr("plan_refused"), HasSubstr("10de:1234"), HasSubstr("pci")));
}

TEST(FleetOfCluster, TellsWhyOfEachVariable) {
  Node node = dgx("alpha");
  node.network.environment = {{"NCCL_IB_HCA", "=mlx5_0", "nearest to each GPU", false}};
  EXPECT_EQ(fleet_from({node}).environment_reasons.at("NCCL_IB_HCA"), "nearest to each GPU");
}

TEST(FleetOfCluster, SeesIslandsOfBridgedGpus) {
  Node node = dgx("alpha");
  node.links.clear();
  for (const auto& [a, b] : {std::pair{"GPU0", "GPU1"}, {"GPU2", "GPU3"}, {"GPU4", "GPU5"}, {"GPU6", "GPU7"}}) node.links.push_back({a, b, "nvlink", 300, true});
  const Fleet fleet = fleet_from({node});
  EXPECT_EQ(fleet.gpus[2].island, fleet.gpus[3].island);
  EXPECT_NE(fleet.gpus[2].island, fleet.gpus[4].island);
  EXPECT_EQ(fleet.inside.transport, "pcie");
  EXPECT_EQ(fleet.gpu.nvlink_gb_per_s, 300);
  EXPECT_THAT(fleet.notes, ElementsAre(HasSubstr("8 GPUs of node alpha in 4 islands"), HasSubstr("PCIe counts")));
  node.links.clear();
  node.nvlink = false;
  const Fleet none = fleet_from({node});
  EXPECT_EQ(none.inside.transport, "pcie");
  EXPECT_EQ(none.gpu.nvlink_gb_per_s, 0);
  EXPECT_NE(none.gpus[0].island, none.gpus[1].island);
  node.nvlink.reset();
  const Fleet unknown = fleet_from({node});
  EXPECT_EQ(unknown.inside.transport, "nvlink");
  EXPECT_THAT(unknown.notes, ElementsAre(HasSubstr("no source shows the NVLinks")));
}

TEST(FleetOfCluster, ReadsTheMatrixWhereNoChoiceWasMade) {
  Node node = dgx("alpha");
  node.links.clear();
  for (int i = 1; i < 8; ++i) node.paths.push_back({"GPU0", "GPU" + std::to_string(i), PathKind::nvlink, 12});
  const Fleet fleet = fleet_from({node});
  EXPECT_EQ(fleet.inside.transport, "nvlink");
  EXPECT_EQ(fleet.inside.gb_per_s, 450);
}

TEST(FleetOfCluster, TakesTheLeastOfMixedGpus) {
  Node a800 = dgx("beta");
  for (Gpu& gpu : a800.gpus) gpu.name = "NVIDIA A800-SXM4-80GB", gpu.memory_bytes = int64_t{81920} << 20;
  for (Link& link : a800.links) link.gb_per_s = 200;
  a800.gpus.resize(4);
  const Fleet fleet = fleet_from({dgx("alpha"), a800});
  EXPECT_EQ(fleet.gpu.id, "a800-80g+h100-80g");
  EXPECT_EQ(fleet.gpu.memory_bytes, int64_t{81559} << 20);
  EXPECT_EQ(fleet.gpu.bf16_tflops, 312);
  EXPECT_FALSE(fleet.gpu.fp8_units);
  EXPECT_EQ(fleet.gpu.curves, "ampere");
  EXPECT_EQ(fleet.gpus_per_node, 4);
  EXPECT_EQ(fleet.inside.gb_per_s, 200);
  EXPECT_THAT(fleet.notes, ElementsAre(HasSubstr("4 to 8 GPUs"), HasSubstr("several kinds")));
}

TEST(FleetOfCluster, LeavesOutWhatItDoesNotKnowAndSaysSo) {
  Node strange = dgx("gamma");
  for (Gpu& gpu : strange.gpus) gpu.name = "Matrox G200";
  const Fleet fleet = fleet_from({dgx("alpha"), strange});
  EXPECT_EQ(fleet.nodes, 1);
  EXPECT_THAT(fleet.notes, ElementsAre(HasSubstr("node gamma is left out"), HasSubstr("\"Matrox G200\" is left out")));
  EXPECT_THAT(error_of([&] { fleet_from({strange}); }), AllOf(HasSubstr("plan_refused: no GPU of the cluster is in the catalogue: Matrox G200")));
  EXPECT_THAT(error_of([&] { fleet_from({}); }), HasSubstr("invalid_argument: the cluster has no nodes"));
}

TEST(FleetOfCluster, FallsBackToWhatAllNodesCanSpeak) {
  Node roce = dgx("beta");
  roce.network.transport = Transport::roce;
  for (Node* node : {&roce}) node->interfaces.push_back({}), node->interfaces.back().name = "eth0", node->interfaces.back().speed_mbps = 25000, node->network.socket_ifname = "eth0";
  const Fleet mixed = fleet_from({dgx("alpha"), roce});
  EXPECT_EQ(mixed.between.transport, "socket");
  EXPECT_DOUBLE_EQ(mixed.between.gb_per_s, 10.0 / 8 / 8);  // alpha's interface is unknown
  Node unknown = dgx("alpha");
  unknown.network = {};
  const Fleet fleet = fleet_from({unknown});
  EXPECT_EQ(fleet.between.transport, "socket");
  EXPECT_THAT(fleet.notes, ElementsAre(HasSubstr("transport between nodes is unknown"), HasSubstr("10 Gb/s a node is assumed")));
  Node ports = dgx("alpha");
  ports.network.gb_per_s_per_gpu = 0;
  EXPECT_EQ(fleet_from({ports}).between.gb_per_s, 50);
}

TEST(FleetOfCluster, MakesARankOfEachNumaNodeWhereThereAreNoGpus) {
  Node node;
  node.name = "cpus";
  node.gpus_complete = true;
  node.host.cpu_model = "AMD EPYC 9654";
  node.host.memory_bytes = int64_t{768} << 30;
  node.host.numa = {{0, "0-95", int64_t{384} << 30}, {1, "96-191", int64_t{380} << 30}, {2, "", int64_t{4} << 30}};
  const Fleet fleet = fleet_from({node});
  EXPECT_EQ(fleet.gpu.id, "cpu");
  EXPECT_TRUE(is_host(fleet.gpu));
  EXPECT_EQ(fleet.gpus_per_node, 2);
  EXPECT_EQ(fleet.gpu.memory_bytes, int64_t{380} << 30);
  EXPECT_THAT(fleet.gpu.names, ElementsAre("AMD EPYC 9654"));
  EXPECT_EQ(fleet.inside.transport, "memory");
  node.host = {};
  node.gpus_complete = false;
  EXPECT_EQ(fleet_from({node}).gpus_per_node, 1);
  EXPECT_EQ(fleet_from({node}).gpu.memory_bytes, shipped().gpu("cpu").memory_bytes);
}

TEST(FleetOfCluster, CarriesTheErrorsOfDiscovery) {
  Cluster cluster = cluster_of({dgx("alpha"), dgx("beta")});
  cluster.findings.push_back({"fabric-manager", Severity::error, {"alpha"}, "fabric manager does not run", {}, ""});
  cluster.findings.push_back({"mtu-differs", Severity::warning, {}, "MTU differs", {}, ""});
  EXPECT_THAT(fleet_of(shipped(), cluster).notes, ElementsAre("fabric-manager: fabric manager does not run"));
}

}  // namespace
}  // namespace dsinfer
