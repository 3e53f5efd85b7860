#include <expat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "dsinfer/cluster.hpp"
#include "dsinfer/error.hpp"
#include "filled.hpp"
#include "machines.hpp"
#include "topology/node_classes.hpp"
#include "topology/picture.hpp"
#include "topology/wording.hpp"

namespace dsinfer {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

Cluster one(Node node) {
  Cluster cluster;
  cluster.nodes.push_back(std::move(node));
  return cluster;
}

// Sixty-four machines of one kind but for one, which lost a port.
Cluster many() {
  Cluster cluster;
  for (int i = 1; i <= 64; ++i) cluster.nodes.push_back(dgx_node(fmt::format("n{}", i), i));
  Node& broken = cluster.nodes[5];
  broken.hcas[3].ports[0].state = PortState::down;
  broken.network.ports.erase(broken.network.ports.begin() + 3);
  broken.network.reasons.push_back({"mlx5_3:1", "port-down", "DOWN/Polling", true});
  cluster.findings = {{"hca-count-differs", Severity::error, {"n6"}, "n6 uses 7 HCAs, the others 8", {"n6: mlx5_3:1 is DOWN/Polling"}, "check the cable"}};
  cluster.reach = {{0, 1, "socket eth0 → 10.0.0.2", true, 87, ""}, {1, 0, "socket eth0 → 10.0.0.1", false, 0, "no answer in 3 s"}};
  return cluster;
}

// Names that a hostile machine might have.
Cluster hostile() {
  Node node = dgx_node("<n&1>\"'\x1b[31m\xff\n--\x01" + std::string(300, 'w'));
  node.host.os = "</svg><script>alert(1)</script>";
  node.gpus[0].name = "]]>&lt;\x1b]0;title\x07";
  node.gpus[0].label = "GPU\"0\\";
  node.hcas[0].name = "mlx\"5\\_0\n<b>";
  node.interfaces[1].name = std::string(5000, '\x02');
  node.network.reasons.push_back({"\xc3\x28", "\x7f", std::string(100000, 'x'), true});
  node.findings = {{"code\r\n", Severity::error, {"\x1b"}, "\x1b[2J", {"\x1b[H"}, "\x9b\xc2\x9b""1m"}};
  return one(node);
}

// Only what a terminal, an editor and XML take: printable characters and line ends, in UTF-8.
void expect_clean(const std::string& text, bool color = false) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    ASSERT_TRUE(byte >= 0x20 || c == '\n' || (color && c == '\x1b')) << "byte " << int(byte);
    ASSERT_NE(byte, 0x7f);
  }
  EXPECT_EQ(text.find("\xff"), std::string::npos);
  EXPECT_EQ(text.find("\xc2\x9b"), std::string::npos);  // the one-byte form of ESC [
}

size_t widest(const std::string& text) {
  std::istringstream lines(text);
  size_t width = 0;
  for (std::string line; std::getline(lines, line);) width = std::max(width, topology::width_of(line));
  return width;
}

// ---- text ----

TEST(ClusterText, ShowsWhatTheMachineHasAndWhatWasChosen) {
  const std::string text = one(dgx_node("n1")).text();
  EXPECT_THAT(text, HasSubstr("2 × Intel(R) Xeon(R) Platinum 8480C · 112 cores · 224 threads · 2 TiB memory"));
  EXPECT_THAT(text, HasSubstr("8 × NVIDIA H100 80GB HBM3, 80 GiB · NVLink · driver 550.90.07"));
  EXPECT_THAT(text, HasSubstr("NVLink ×18 to NVSwitch (450 GB/s)  → mlx5_0 PIX"));
  EXPECT_THAT(text, HasSubstr("● mlx5_0:1  ACTIVE         400 Gb/s  InfiniBand"));
  EXPECT_THAT(text, HasSubstr("○ mlx5_9:1  DOWN/Disabled"));
  EXPECT_THAT(text, HasSubstr("● eth0  up"));
  EXPECT_THAT(text, HasSubstr("InfiniBand over 8 ports of 400 Gb/s"));
  EXPECT_THAT(text, HasSubstr("48.5 GB/s per GPU"));
  EXPECT_THAT(text, HasSubstr("NCCL_SOCKET_IFNAME==eth0"));
  EXPECT_THAT(text, HasSubstr("NCCL_IB_TIMEOUT=22  # /etc/nccl.conf"));
  EXPECT_THAT(text, HasSubstr("mixed-link-layer  Ethernet beside eight InfiniBand ports"));
}

TEST(ClusterText, SaysThatSomethingIsUnknown) {
  Cluster cluster;
  cluster.nodes.resize(1);
  const std::string text = cluster.text();
  for (const char* name : {"GPUs        unknown", "HCAs        unknown", "Interfaces  unknown", "Network     unknown"}) EXPECT_THAT(text, HasSubstr(name));
  cluster.nodes[0].gpus_complete = cluster.nodes[0].hcas_complete = cluster.nodes[0].interfaces_complete = true;
  for (const char* name : {"GPUs        none", "HCAs        none", "Interfaces  none"}) EXPECT_THAT(cluster.text(), HasSubstr(name));
}

TEST(ClusterText, FitsAHundredColumns) {
  for (const Cluster& cluster : {one(dgx_node("n1")), one(workstation("ws")), many(), filled_cluster(), hostile(), Cluster()}) {
    EXPECT_LE(widest(cluster.text()), 100u) << cluster.text();
  }
}

TEST(ClusterText, FoldsNodesThatAreAlike) {
  const std::string text = many().text();
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 150);
  EXPECT_THAT(text, HasSubstr("n2, n3 … n64 (62)  are like n1"));
  EXPECT_THAT(text, HasSubstr("error    hca-count-differs (n6)  n6 uses 7 HCAs, the others 8"));
  EXPECT_THAT(text, HasSubstr("→ check the cable"));
  EXPECT_THAT(text, AllOf(HasSubstr("1 of 2 ways proven"), HasSubstr("n2 → n1"), HasSubstr("no answer in 3 s")));
}

TEST(ClusterText, FoldsNodesThatDifferInIdentityAlone) {
  Cluster cluster;
  for (int i = 1; i <= 3; ++i) {
    Node& node = cluster.nodes.emplace_back(dgx_node(fmt::format("n{}", i), i));
    node.network.environment.push_back({"OMPI_MCA_orte_ess_vpid", std::to_string(i), "", true});
    node.network.environment.push_back({"NCCL_HOSTID", fmt::format("h{}", i), "", true});
    Interface bridge;
    bridge.name = fmt::format("docker{}", i);
    bridge.kind = "bridge";
    node.interfaces.push_back(bridge);
    node.network.reasons.push_back({bridge.name, "virtual", "bridge", true});
  }
  EXPECT_EQ(topology::node_classes(cluster).size(), 1u);
  cluster.nodes[1].network.environment.push_back({"OMPI_MCA_btl_tcp_if_include", "eth7", "", true});
  EXPECT_EQ(topology::node_classes(cluster).size(), 2u);
}

TEST(ClusterText, HasColourOnlyIfAsked) {
  EXPECT_THAT(many().text(), Not(HasSubstr("\x1b")));
  const std::string colored = many().text(true);
  EXPECT_THAT(colored, AllOf(HasSubstr("\x1b[1m"), HasSubstr("\x1b[0m")));
  std::string without;
  for (size_t i = 0; i < colored.size(); ++i) {
    if (colored[i] == '\x1b') i = colored.find('m', i); else without += colored[i];
  }
  EXPECT_EQ(without, many().text());
}

TEST(ClusterText, LetsNoControlCharacterThrough) {
  expect_clean(hostile().text());
  expect_clean(hostile().text(true), true);
  EXPECT_THAT(hostile().text(true), AllOf(Not(HasSubstr("\x1b[31m")), Not(HasSubstr("\x1b[2J")), Not(HasSubstr("\x1b]"))));
}

TEST(ClusterText, TellsSomeOfManyAlike) {
  Node node;
  for (int i = 0; i < 64; ++i) {
    Hca& hca = node.hcas.emplace_back();
    hca.name = fmt::format("mlx5_{}", i);
    node.network.reasons.push_back({hca.name, "virtual-function", "its PF is visible", true});
  }
  for (int i = 0; i < 300; ++i) node.interfaces.emplace_back().name = fmt::format("veth{}", i);
  const std::string text = one(node).text();
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 50) << text;
  EXPECT_THAT(text, AllOf(HasSubstr("64 devices"), HasSubstr("and 56 more, virtual-function"), HasSubstr("and 284 more")));
}

// ---- environment ----

// What /bin/sh has in `name` after it evaluated the lines.
std::string in_shell(const std::string& lines, const std::string& name) {
  const std::string path = ::testing::TempDir() + "/dsinfer_environment.sh";
  std::ofstream(path, std::ios::binary) << lines;
  const std::string command = "env -u " + name + " sh -euc 'eval \"$(cat " + path + ")\"; printf %sX \"${" + name + "-unset}\"'";
  FILE* pipe = popen(command.c_str(), "r");
  std::string out;
  for (int c; pipe && (c = std::fgetc(pipe)) != EOF;) out += static_cast<char>(c);
  EXPECT_EQ(pipe ? pclose(pipe) : -1, 0) << lines;
  std::remove(path.c_str());
  if (!out.empty()) out.pop_back();  // the X keeps newlines at the end
  return out;
}

TEST(ClusterEnvironment, GivesAShellTheExactValues) {
  for (const std::string value : {"0", "=mlx5_0:1,mlx5_1:1", "", "two words", "it's", "''", "'", "$HOME `id` $(id) \\ \"q\" !x", "line\nline\n", "tab\there", "#no",
                                  "\xff\x01", "-n", "*", "~", "a;b&c|d<e>f"}) {
    Cluster cluster = one({});
    cluster.nodes[0].network.environment = {{"BEFORE", "1", "", false}, {"NCCL_X", value, "be'cause\nof this; false", false}, {"AFTER", "2", "", false}};
    const std::string lines = cluster.environment();
    EXPECT_EQ(in_shell(lines, "NCCL_X"), value) << lines;
    EXPECT_EQ(in_shell(lines, "AFTER"), "2") << lines;
  }
}

TEST(ClusterEnvironment, SaysTheReasonAndLeavesTheUsersOwnAlone) {
  const std::string lines = one(dgx_node("n1")).environment();
  EXPECT_THAT(lines, HasSubstr("# NCCL_SOCKET_IFNAME: carries the default route\nexport NCCL_SOCKET_IFNAME='=eth0'\n"));
  EXPECT_THAT(lines, HasSubstr("# NCCL_IB_TIMEOUT='22' is set already and kept: /etc/nccl.conf\n"));
  EXPECT_THAT(lines, Not(HasSubstr("export NCCL_IB_TIMEOUT")));
}

TEST(ClusterEnvironment, ExportsNothingThatIsNoName) {
  Cluster cluster = one({});
  for (const std::string name : {"", "A B", "A;false", "1A", "A\nfalse\n", "A=B", "Ä", "$(false)"}) cluster.nodes[0].network.environment.push_back({name, "x", "r", false});
  cluster.nodes[0].network.environment.push_back({"NUL", std::string("a\0b", 3), "", false});
  cluster.nodes[0].network.environment.push_back({"USERS", "a\nfalse\n", "b\nfalse\n", true});
  const std::string lines = cluster.environment();
  EXPECT_THAT("\n" + lines, Not(HasSubstr("\nexport")));
  EXPECT_EQ(in_shell(lines, "USERS"), "unset");
}

TEST(ClusterEnvironment, RefusesANodeThatIsNotThere) {
  for (const int node : {-1, 1, 1000}) EXPECT_THROW(one({}).environment(node), Error);
  EXPECT_EQ(one({}).environment(0), "");
}

// ---- pictures ----

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

void expect_well_formed(const std::string& svg) {
  const XML_Parser parser = XML_ParserCreate(nullptr);
  EXPECT_EQ(XML_Parse(parser, svg.data(), static_cast<int>(svg.size()), 1), XML_STATUS_OK) << XML_ErrorString(XML_GetErrorCode(parser)) << " at line " << XML_GetCurrentLineNumber(parser);
  XML_ParserFree(parser);
}

Cluster unknown() {
  Cluster cluster;
  cluster.nodes.resize(1);
  return cluster;
}

TEST(ClusterSvg, IsWellFormedAndStandsAlone) {
  for (const Cluster& cluster : {one(dgx_node("n1")), one(workstation("ws")), many(), filled_cluster(), hostile(), unknown(), Cluster()}) {
    const std::string svg = cluster.svg();
    expect_well_formed(svg);
    expect_clean(svg);
    for (const char* foreign : {"<script", "href", "url(", "@import", "<image", "<foreignObject"}) EXPECT_THAT(svg, Not(HasSubstr(foreign)));
  }
}

TEST(ClusterSvg, HoldsNoCharacterThatXmlForbids) {
  EXPECT_EQ(topology::clean_text("a\xef\xbf\xbe" "b\xef\xbf\xbf" "c\xef\xbf\xbd"), "a\xef\xbf\xbd" "b\xef\xbf\xbd" "c\xef\xbf\xbd");
  Node node = dgx_node("n\xef\xbf\xbe" "1");
  node.gpus[0].name = "\xef\xbf\xbf";
  expect_well_formed(one(node).svg());
}

TEST(ClusterSvg, ShowsDevicesLinksAndReasons) {
  const std::string svg = one(dgx_node("n1")).svg();
  for (const char* text : {">n1<", ">GPU7<", ">mlx5_7<", ">NVSwitch · 18 NVLinks · 450 GB/s for each GPU<", ">63 GB/s<", ">50 GB/s<", ">400 Gb/s IB<", ">mixed-link-layer<",
                           ">port-down<", ">bootstrap<", "InfiniBand · 8 × 400 Gb/s · 48.5 GB/s per GPU", "NUMA 1 · 1 TiB"}) {
    EXPECT_THAT(svg, HasSubstr(text));
  }
}

TEST(ClusterSvg, DrawsFewNodesOneByOneAndManyByTheirKind) {
  Cluster cluster;
  for (int i = 0; i < 16; ++i) cluster.nodes.push_back(dgx_node(fmt::format("n{}", i), i));
  EXPECT_EQ(count(cluster.svg(), ">GPU0<"), 16u);
  const std::string svg = many().svg();
  EXPECT_EQ(count(svg, ">GPU0<"), 2u);
  EXPECT_THAT(svg, AllOf(HasSubstr("63 × n1, n2 … n64 (63)"), HasSubstr(">n6<"), HasSubstr("hca-count-differs")));
}

TEST(ClusterPictures, ShortenAModelHoweverOftenItsMakerIsNamed) {
  EXPECT_EQ(topology::short_model("NVIDIA H100 80GB HBM3"), "H100 80GB HBM3");
  EXPECT_EQ(topology::short_model("NVIDIA GeForce RTX 4090"), "RTX 4090");
  EXPECT_EQ(topology::short_model("NVIDIA"), "NVIDIA");
  std::string name;
  for (int i = 0; i < 100000; ++i) name += "NVIDIA ";
  EXPECT_EQ(topology::short_model(name + "L4"), "L4");
}

TEST(ClusterDot, IsTakenByGraphviz) {
  const bool installed = std::system("command -v dot > /dev/null 2>&1") == 0;
  for (const Cluster& cluster : {one(dgx_node("n1")), one(workstation("ws")), many(), filled_cluster(), hostile(), unknown(), Cluster()}) {
    const std::string dot = cluster.dot();
    expect_clean(dot);
    if (!installed) continue;
    FILE* pipe = popen("dot -Tplain > /dev/null", "w");
    ASSERT_NE(pipe, nullptr);
    std::fwrite(dot.data(), 1, dot.size(), pipe);
    EXPECT_EQ(pclose(pipe), 0) << dot;
  }
  if (!installed) GTEST_SKIP() << "Graphviz is not installed: its syntax is not checked";
}

TEST(ClusterDot, LabelsLinksWithTheirSpeed) {
  const std::string dot = one(dgx_node("n1")).dot();
  EXPECT_EQ(count(dot, "18×NVLink 450 GB/s"), 8u);
  EXPECT_EQ(count(dot, "-- network [label=\"50 GB/s\""), 8u);
  EXPECT_THAT(dot, AllOf(HasSubstr("mlx5_9\\ndown Ethernet\\nport-down"), HasSubstr("network\\nInfiniBand"), HasSubstr("63 GB/s")));
}

TEST(ClusterPictures, SurviveAPciTreeThatIsNoTree) {
  Node node = dgx_node("loop");
  for (PciDevice& device : node.pci) device.parent = device.bus_id;  // its own parent
  node.pci[0].parent = node.pci[1].bus_id, node.pci[1].parent = node.pci[0].bus_id;
  node.gpus[0].nvlinks = {{NvLink::Remote::gpu, node.gpus[0].bus_id, 4, 100}, {NvLink::Remote::gpu, "ffff:ff:1f.7", 4, 100}};
  node.paths.push_back({"GPU0", "GPU99", PathKind::nvlink, 4});
  expect_well_formed(one(node).svg());
  EXPECT_FALSE(one(node).dot().empty());
}

TEST(ClusterPictures, DrawAMeshOfNvlinks) {
  Node node = workstation("mesh");
  node.gpus.clear();
  for (int i = 0; i < 4; ++i) {
    node.gpus.emplace_back().label = fmt::format("GPU{}", i);
    for (int k = 0; k < i; ++k) node.paths.push_back({fmt::format("GPU{}", k), fmt::format("GPU{}", i), PathKind::nvlink, 4});
  }
  EXPECT_EQ(count(one(node).svg(), "4×NVLink"), 6u);
  EXPECT_EQ(count(one(node).dot(), "4×NVLink"), 6u);
}

TEST(ClusterPictures, LeaveOutWhatWouldFillThePage) {
  Node node = workstation("vfs");
  for (int i = 0; i < 64; ++i) {
    Hca& hca = node.hcas.emplace_back();
    hca.name = fmt::format("mlx5_{}", i), hca.bus_id = fmt::format("0000:0c:{:02x}.{}", i / 8, i % 8);
    node.network.reasons.push_back({hca.name, "virtual-function", "its PF is visible", true});
  }
  EXPECT_THAT(one(node).svg(), AllOf(HasSubstr("+ 56 more"), HasSubstr(">virtual-function<")));
  EXPECT_THAT(one(node).dot(), HasSubstr("56 more NICs"));
}

}  // namespace
}  // namespace dsinfer
