#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "dsinfer/cluster.hpp"
#include "dsinfer/error.hpp"
#include "filled.hpp"

namespace dsinfer {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json json_of(const Cluster& cluster) { return Json::parse(cluster.to_json()); }

std::string refusal(const std::string& json, Error::Code code = Error::bad_format) {
  try {
    Cluster::from_json(json);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "not refused: " << json;
  return "";
}

std::string wrap(const std::string& nodes) { return R"({"format": "dsinfer-cluster", "version": 1, "nodes": )" + nodes + "}"; }

// The sizes of the structs on x86-64 with libstdc++: whoever adds a field meets this line, adds it to cluster_fields.hpp, and the size here.
#if defined(__x86_64__) && defined(__GLIBCXX__) && !defined(_GLIBCXX_DEBUG)
static_assert(sizeof(Finding) == 152 && sizeof(NvLink) == 56 && sizeof(Gpu) == 232 && sizeof(Gid) == 88 && sizeof(HcaPort) == 128);
static_assert(sizeof(Hca) == 288 && sizeof(Address) == 40 && sizeof(Interface) == 264 && sizeof(PciDevice) == 200 && sizeof(Path) == 72);
static_assert(sizeof(NumaNode) == 48 && sizeof(Host) == 616 && sizeof(Setting) == 96 && sizeof(Reason) == 104 && sizeof(EnvironmentVariable) == 104);
static_assert(sizeof(ChosenPort) == 120 && sizeof(Network) == 512 && sizeof(Link) == 112 && sizeof(Node) == 1384 && sizeof(Reach) == 88);
#endif

TEST(ClusterJson, ComesBackEqualWithEveryFieldSet) {
  const Cluster cluster = filled_cluster();
  ASSERT_EQ(cluster.nodes.size(), 2u);
  EXPECT_NE(cluster.nodes[0], cluster.nodes[1]);
  EXPECT_EQ(Cluster::from_json(cluster.to_json()), cluster);
}

TEST(ClusterJson, ComesBackEqualWhenNothingIsKnown) {
  EXPECT_EQ(Cluster::from_json(Cluster().to_json()), Cluster());
  Cluster bare;
  bare.nodes.resize(2);
  bare.nodes[1].gpus.resize(1);
  bare.nodes[1].hcas.resize(1);
  bare.nodes[1].hcas[0].ports.resize(1);
  bare.nodes[1].interfaces.resize(1);
  bare.nodes[1].pci.resize(1);
  bare.nodes[1].network.hcas.emplace();
  bare.nodes[1].network.gpu_nic_affinity.emplace();
  bare.nodes[1].host.uverbs.emplace();
  EXPECT_EQ(Cluster::from_json(bare.to_json()), bare);
}

TEST(ClusterJson, IsTheSameTextEachTime) {
  const std::string text = filled_cluster().to_json();
  EXPECT_EQ(filled_cluster().to_json(), text);
  EXPECT_EQ(Cluster::from_json(text).to_json(), text);
}

TEST(ClusterJson, GivesUnknownAsNull) {
  Cluster cluster;
  cluster.nodes.resize(1);
  cluster.nodes[0].name = "n1";
  const Json node = json_of(cluster)["nodes"][0], network = node["network"];
  for (const char* key : {"gpu_count", "nvlink"}) EXPECT_TRUE(node.at(key).is_null()) << key;
  for (const char* key : {"transport", "link_layer", "hcas", "hca_count", "gid_index", "socket_ifname", "gpu_nic_affinity", "fallback_reason", "plugin_fabric",
                          "gdr_by_default", "rails_isolated", "nic_count", "efa_count", "qps_per_connection", "ib_tc", "ib_sl", "ib_timeout"}) {
    EXPECT_TRUE(network.at(key).is_null()) << key;
  }
  for (const char* key : {"hcas_excluded", "hcas_seen", "reasons", "ports"}) EXPECT_EQ(network.at(key), Json::array()) << key;
  for (const char* key : {"ports_down", "mixed_ports", "environment"}) EXPECT_EQ(network.at(key), Json::object()) << key;
  for (const char* key : {"memory_bytes", "packages", "memlock_bytes", "iommu", "nccl_version"}) EXPECT_TRUE(node["host"].at(key).is_null()) << key;
  EXPECT_EQ(network.at("topo_file"), false);
}

TEST(ClusterJson, CountsGpusOnlyWhereTheyAreKnown) {
  Cluster cluster;
  cluster.nodes.resize(3);
  cluster.nodes[1].gpus_complete = true;
  cluster.nodes[2].gpus.resize(4);
  const Json json = json_of(cluster);
  EXPECT_TRUE(json["nodes"][0]["gpu_count"].is_null());
  EXPECT_EQ(json["nodes"][1]["gpu_count"], 0);
  EXPECT_EQ(json["nodes"][2]["gpu_count"], 4);
}

TEST(ClusterJson, NamesTheChoiceAsThePublishedShapeDoes) {
  Cluster cluster;
  Node& node = cluster.nodes.emplace_back();
  node.nvlink = true;
  Network& network = node.network;
  network.transport = Transport::roce;
  network.link_layer = LinkLayer::ethernet;
  network.hcas = {"mlx5_0", "mlx5_1"};
  network.gid_index = 3;
  network.socket_ifname = "eth0";
  network.gpu_nic_affinity = {{"GPU0", {"mlx5_0"}}, {"GPU1", {}}};
  network.ports_down = {{"mlx5_5", "Disabled"}};
  network.mixed_ports = {{"mlx4_0", {"ib0", "eth2"}}};
  network.environment = {{"NCCL_SOCKET_IFNAME", "=eth0", "carries the default route", false}, {"NCCL_IB_TC", "41", "nccl.conf", true}};
  network.reasons = {{"mlx5_5:1", "port-down", "DOWN/Disabled", true}};
  const Json json = json_of(cluster)["nodes"][0]["network"];
  EXPECT_EQ(json["transport"], "roce");
  EXPECT_EQ(json["link_layer"], "Ethernet");
  EXPECT_EQ(json["hcas"], (Json{"mlx5_0", "mlx5_1"}));
  EXPECT_EQ(json["gid_index"], 3);
  EXPECT_EQ(json["socket_ifname"], "eth0");
  EXPECT_EQ(json["gpu_nic_affinity"], Json::parse(R"({"GPU0": ["mlx5_0"], "GPU1": []})"));
  EXPECT_EQ(json["ports_down"], Json::parse(R"({"mlx5_5": "Disabled"})"));
  EXPECT_EQ(json["mixed_ports"], Json::parse(R"({"mlx4_0": ["ib0", "eth2"]})"));
  EXPECT_EQ(json["environment"], Json::parse(R"({"NCCL_SOCKET_IFNAME": "=eth0", "NCCL_IB_TC": "41"})"));
  EXPECT_EQ(json["environment_reasons"][1], Json::parse(R"({"name": "NCCL_IB_TC", "reason": "nccl.conf", "users": true})"));
  EXPECT_EQ(json["reasons"][0], Json::parse(R"({"subject": "mlx5_5:1", "code": "port-down", "text": "DOWN/Disabled", "dropped": true})"));
}

TEST(ClusterJson, ListsEachNetworkCardOnce) {
  Cluster cluster;
  Node& node = cluster.nodes.emplace_back();
  Hca& hca = node.hcas.emplace_back();
  hca.name = "mlx5_bond_0", hca.bus_id = "0000:0e:00.0";
  HcaPort& port = hca.ports.emplace_back();
  port.rate_gbps = 400, port.state = PortState::active, port.link_layer = LinkLayer::ethernet, port.netdevs = {"bond0"};
  const auto add = [&](const char* name, const char* kind, const char* bus_id, int64_t speed) {
    Interface& interface = node.interfaces.emplace_back();
    interface.name = name, interface.kind = kind, interface.bus_id = bus_id, interface.speed_mbps = speed;
  };
  add("lo", "loopback", "", 0);
  add("eth0", "physical", "0000:01:00.0", 25000);
  add("p0", "physical", "0000:0e:00.0", 200000);
  add("p1", "physical", "0000:0e:00.1", 200000);
  add("bond0", "bond", "", 400000);
  node.interfaces.back().lower = {"p0", "p1"};
  for (const char* bus_id : {"0000:0e:00.0", "0000:0e:00.1", "0000:01:00.0", "0000:99:00.0"}) {
    PciDevice& device = node.pci.emplace_back();
    device.bus_id = bus_id, device.class_code = 0x020000;
  }
  const Json nics = json_of(cluster)["nodes"][0]["nics"];
  ASSERT_EQ(nics.size(), 3u) << nics.dump(1);
  EXPECT_EQ(nics[0]["name"], "mlx5_bond_0");
  EXPECT_EQ(nics[0]["kind"], "hca");
  EXPECT_EQ(nics[0]["rate_gbps"], 400);
  EXPECT_EQ(nics[0]["netdevs"], Json{"bond0"});
  EXPECT_EQ(nics[1]["name"], "eth0");
  EXPECT_EQ(nics[1]["kind"], "interface");
  EXPECT_EQ(nics[1]["rate_gbps"], 25);
  EXPECT_TRUE(nics[2]["name"].is_null());
  EXPECT_EQ(nics[2]["bus_id"], "0000:99:00.0");
}

TEST(ClusterJson, KeepsAVariableThatStandsThereTwice) {
  Cluster cluster;
  cluster.nodes.resize(1);
  cluster.nodes[0].network.environment = {{"B", "1", "first", false}, {"A", "2", "", true}, {"B", "3", "second", true}};
  EXPECT_EQ(Cluster::from_json(cluster.to_json()), cluster);
}

TEST(ClusterJson, TakesAHandWrittenClusterWithWhatMattersAlone) {
  const Cluster cluster = Cluster::from_json(wrap(R"([{"name": "a", "gpus": [{"label": "GPU0", "memory_bytes": 85899345920, "future": {"x": 1}}],
    "network": {"transport": "ib", "environment": {"NCCL_DEBUG": "INFO"}}, "unheard": [1, 2]}])"));
  ASSERT_EQ(cluster.nodes.size(), 1u);
  EXPECT_EQ(cluster.nodes[0].gpus[0].memory_bytes, 85899345920);
  EXPECT_EQ(cluster.nodes[0].gpus[0].index, -1);
  EXPECT_EQ(cluster.nodes[0].network.transport, Transport::ib);
  EXPECT_EQ(cluster.nodes[0].network.environment.at(0).value, "INFO");
}

TEST(ClusterJson, NamesTheWrongKey) {
  EXPECT_THAT(refusal(wrap(R"([{"gpus": [{}, {"index": "x"}]}])")), AllOf(HasSubstr("cluster.nodes[0].gpus[1]"), HasSubstr("\"index\""), HasSubstr("\"x\"")));
  EXPECT_THAT(refusal(wrap(R"([{"sources": ["a", 5]}])")), AllOf(HasSubstr("cluster.nodes[0]"), HasSubstr("\"sources[1]\""), HasSubstr("a string")));
  EXPECT_THAT(refusal(wrap(R"([{"network": {"transport": "smoke"}}])")), AllOf(HasSubstr("cluster.nodes[0].network"), HasSubstr("\"transport\"")));
  EXPECT_THAT(refusal(wrap(R"([{"network": {"gpu_nic_affinity": {"GPU0": [null]}}}])")), HasSubstr("\"gpu_nic_affinity.GPU0[0]\""));
  EXPECT_THAT(refusal(wrap(R"([{"network": {"environment_reasons": [{"name": "A"}]}}])")), HasSubstr("\"A\""));
  EXPECT_THAT(refusal(wrap(R"([{"nvlink": 1}])")), AllOf(HasSubstr("\"nvlink\""), HasSubstr("true or false")));
  EXPECT_THAT(refusal(wrap(R"([{"host": {"packages": 3000000000}}])")), AllOf(HasSubstr("cluster.nodes[0].host"), HasSubstr("\"packages\"")));
  EXPECT_THAT(refusal(wrap(R"([{"host": {"memory_bytes": 1.5}}])")), HasSubstr("\"memory_bytes\""));
  EXPECT_THAT(refusal(wrap(R"([{"host": {"memory_bytes": 18446744073709551615}}])")), HasSubstr("\"memory_bytes\""));
  EXPECT_THAT(refusal(wrap(R"([{"hcas": [{"vendor_id": "0xzz"}]}])")), HasSubstr("\"vendor_id\""));
  EXPECT_THAT(refusal(wrap(R"([{"hcas": [{"vendor_id": -1}]}])")), HasSubstr("\"vendor_id\""));
  EXPECT_THAT(refusal(wrap("5")), AllOf(HasSubstr("\"nodes\""), HasSubstr("an array")));
  EXPECT_THAT(refusal(wrap("[5]")), HasSubstr("\"nodes[0]\""));
  EXPECT_THAT(refusal(R"({"format": "dsinfer-cluster", "version": 1, "nodes": [], "node_of_rank": [0]})"), HasSubstr("node_of_rank[0]"));
  EXPECT_THAT(refusal(R"({"format": "dsinfer-cluster", "version": 1, "nodes": [{}], "reach": [{"from": 0, "to": -1}]})"), HasSubstr("reach[0]"));
}

TEST(ClusterJson, RefusesWhatIsNoClusterOrANewerOne) {
  EXPECT_THAT(refusal("{}"), HasSubstr("\"format\""));
  EXPECT_THAT(refusal(R"({"format": "lstopo", "version": 1, "nodes": []})"), HasSubstr("\"lstopo\""));
  EXPECT_THAT(refusal(R"({"format": "dsinfer-cluster", "version": 1})"), HasSubstr("\"nodes\""));
  EXPECT_THAT(refusal(R"({"format": "dsinfer-cluster", "version": 2, "nodes": []})", Error::unsupported), AllOf(HasSubstr("\"version\" is 2"), HasSubstr("update")));
  EXPECT_THAT(refusal("[]"), HasSubstr("object"));
  EXPECT_THAT(refusal("not json"), HasSubstr("cluster"));
}

TEST(ClusterJson, TakesNoTerminalEscapeFromAFile) {
  const Cluster cluster = Cluster::from_json(wrap(R"([{"name": "n\u001b[31m1", "sources": ["a\u009b2J", "b\u0007"],
    "network": {"ports_down": {"mlx5\u001b_0": "Down\u007f"}, "environment": {"A\u001b": "1\u001b]0;t"}, "environment_reasons": [{"name": "A\u001b"}]},
    "findings": [{"code": "c", "severity": "error", "nodes": ["n\u001b"], "text": "\u001b[2J", "evidence": ["\u001b[H"], "advice": "\u001b"}]}])"));
  const Node& node = cluster.nodes.at(0);
  EXPECT_EQ(node.name, "n[31m1");
  EXPECT_THAT(node.sources, ElementsAre("a2J", "b"));
  EXPECT_EQ(node.network.ports_down, (std::map<std::string, std::string>{{"mlx5_0", "Down"}}));
  ASSERT_EQ(node.network.environment.size(), 1u);
  EXPECT_EQ(node.network.environment[0].name, "A");
  EXPECT_EQ(node.network.environment[0].value, "1]0;t");
  EXPECT_EQ(node.findings.at(0).text, "[2J");
  EXPECT_THAT(node.findings[0].evidence, ElementsAre("[H"));
  EXPECT_THAT(refusal(wrap(R"([{"network": {"ports_down": {"\u009bx": 1}}}])")), HasSubstr("\"ports_down.x\""));
  EXPECT_THAT(refusal(wrap(R"([{"nvlink": "\u009b2J"}])")), HasSubstr("\"2J\""));
}

TEST(ClusterJson, SurvivesNamesThatAreNoUtf8) {
  Cluster cluster;
  cluster.nodes.resize(1);
  cluster.nodes[0].name = "n\xff\xc3(";
  cluster.nodes[0].network.environment = {{"A\xff", "\xf0\x9f", "\x80", false}};
  cluster.nodes[0].network.ports_down["\xfe"] = "\xfd";
  const Cluster back = Cluster::from_json(cluster.to_json());
  EXPECT_EQ(back.nodes[0].name, "n\xef\xbf\xbd\xef\xbf\xbd(");
  EXPECT_EQ(back.nodes[0].network.environment[0].name, "A\xef\xbf\xbd");
}

}  // namespace
}  // namespace dsinfer
