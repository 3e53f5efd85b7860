// Folders, archives and pastes as clusters: which files are whose.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>

#include "dsinfer/cluster.hpp"
#include "dsinfer/error.hpp"
#include "scratch_folder.hpp"

namespace dsinfer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

const std::string kList = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)\n";
const std::string kPci = "00:00.0 Host bridge: Intel Corporation Device\n19:00.0 3D controller: NVIDIA Corporation GH100 [H100 SXM5 80GB]\n";
std::string ibstat(const std::string& name) {
  return "CA '" + name + "'\n\tCA type: MT4129\n\tNumber of ports: 1\n\tPort 1:\n\t\tState: Active\n\t\tPhysical state: LinkUp\n\t\tRate: 400\n"
         "\t\tBase lid: 7\n\t\tSM lid: 1\n\t\tLink layer: InfiniBand\n";
}

std::vector<std::string> names(const Cluster& cluster) {
  std::vector<std::string> all;
  for (const Node& node : cluster.nodes) all.push_back(node.name);
  return all;
}
const Finding* finding(const std::vector<Finding>& findings, const std::string& code) {
  const auto found = std::find_if(findings.begin(), findings.end(), [&](const Finding& f) { return f.code == code; });
  return found == findings.end() ? nullptr : &*found;
}

TEST(Machines, JoinsTheFilesOfAFolder) {
  const ScratchFolder f;
  f.file("one", ibstat("mlx5_0"));
  f.file("two.dat", kList);
  f.file("more/pci", kPci);
  f.file("SOURCE.md", "# A machine\n\nIt has nvidia-smi, ibstat and lspci output from a `GPU0 X` matrix.\n");
  f.file("expected.json", "{\"gpu_count\": 2, \"hcas\": [\"mlx5_0\"], \"link_layer\": \"InfiniBand\"}");
  f.file("picture.png", std::string("\x89PNG\0\0\0", 7));
  f.file(".git/ibstat", ibstat("mlx5_9"));
  const Cluster cluster = import_machines(f.path());
  ASSERT_EQ(cluster.nodes.size(), 1u);
  const Node& node = cluster.nodes[0];
  EXPECT_EQ(node.gpus.size(), 2u);
  EXPECT_EQ(node.hcas.size(), 1u);
  EXPECT_EQ(node.network.transport, Transport::ib);
  const Finding* left_out = finding(cluster.findings, "file-not-known");
  ASSERT_TRUE(left_out);
  EXPECT_THAT(left_out->evidence, UnorderedElementsAre(HasSubstr("SOURCE.md"), HasSubstr("expected.json"), HasSubstr("picture.png")));
}

TEST(Machines, TellsMachinesByTheirFolders) {
  const ScratchFolder f;
  f.file("n1/ibstat.txt", ibstat("mlx5_0"));
  f.file("n2/ibstat.txt", ibstat("mlx5_3"));
  f.file("n10/a.txt", ibstat("mlx5_0"));
  f.file("nccl.conf", "NCCL_DEBUG=WARN\nNCCL_SOCKET_IFNAME==eth0\n");
  const Cluster cluster = import_machines(f.path());
  EXPECT_THAT(names(cluster), ElementsAre("n1", "n2", "n10"));
  EXPECT_EQ(cluster.nodes[2].settings.size(), 2u);
  EXPECT_TRUE(finding(cluster.findings, "hca-names-differ"));
}

TEST(Machines, TakesFoldersOfTopicsAsOneMachine) {
  const ScratchFolder f;
  f.file("box/gpu/list.txt", kList);
  f.file("box/network/ibstat.txt", ibstat("mlx5_0"));
  EXPECT_THAT(names(import_machines(f.path("box"))), ElementsAre("box"));
}

TEST(Machines, TellsMachinesByATableOfThem) {
  const ScratchFolder f;
  f.file("versions.csv", "node,kernel,nvidia_driver,cuda_driver\ns1,6.1,570.133.20,12.8\ns10,6.2,550.144.03,12.4\ns3,6.2,550.144.03,12.4\n");
  f.file("s1-ibstat.txt", ibstat("mlx5_0"));
  f.file("s10-ibstat.txt", ibstat("rocep1s0"));
  f.file("s1-gpus.txt", kList);
  const Cluster cluster = import_machines(f.path());
  EXPECT_THAT(names(cluster), UnorderedElementsAre("s1", "s10", "s3"));
  const auto node = [&](const std::string& name) {
    return *std::find_if(cluster.nodes.begin(), cluster.nodes.end(), [&](const Node& n) { return n.name == name; });
  };
  EXPECT_EQ(node("s1").gpus.size(), 2u);
  EXPECT_EQ(node("s1").host.driver_version, "570.133.20");
  EXPECT_EQ(node("s10").hcas.at(0).name, "rocep1s0");
}

TEST(Machines, TellsMachinesByPrefixesAlone) {
  const ScratchFolder f;
  f.file("all/gpu-01_ibstat.txt", ibstat("mlx5_0"));
  f.file("all/gpu-02_ibstat.txt", ibstat("mlx5_0"));
  f.file("all/gpu-02_list.txt", kList);
  EXPECT_THAT(names(import_machines(f.path("all"))), ElementsAre("gpu-01", "gpu-02"));
  f.file("one/ibv_devinfo-excerpt.txt", "hca_id:\tmlx5_0\n\ttransport:\t\t\tInfiniBand (0)\n\tphys_port_cnt:\t\t\t1\n");
  f.file("one/ibv_devinfo-v-excerpt.txt", "hca_id:\tmlx5_0\n\ttransport:\t\t\tInfiniBand (0)\n\tphys_port_cnt:\t\t\t1\n");
  EXPECT_THAT(names(import_machines(f.path("one"))), ElementsAre("one"));
  f.file("two/host-ibstat.txt", ibstat("mlx5_0"));
  f.file("two/container-ibstat.txt", ibstat("mlx5_0"));
  EXPECT_THAT(names(import_machines(f.path("two"))), ElementsAre("two"));
}

TEST(Machines, ReadsASysfsTreeWhereverItStands) {
  const ScratchFolder f;
  f.file("a/root/sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
  f.file("a/root/sys/class/infiniband/mlx5_0/ports/1/link_layer", "InfiniBand\n");
  f.file("a/root/etc/hostname", "node7\n");
  f.file("a/root/etc/passwd", "root:x:0\n");
  f.file("b/class/infiniband/mlx5_1/ports/1/link_layer", "InfiniBand\n");
  EXPECT_THAT(names(import_machines(f.path("a/root"))), ElementsAre("node7"));
  EXPECT_THAT(names(import_machines(f.path("a"))), ElementsAre("node7"));
  const Cluster inner = import_machines(f.path("b"));
  ASSERT_EQ(inner.nodes.size(), 1u);
  EXPECT_EQ(inner.nodes[0].hcas.at(0).name, "mlx5_1");
}

#ifdef DSINFER_ARCHIVES
TEST(Machines, LooksIntoArchives) {
  const ScratchFolder f;
  f.file("n1/sys/class/infiniband/mlx5_0/ports/1/link_layer", "InfiniBand\n");
  f.file("n1/listing.txt", kList);
  f.file("n2/ibstat.txt", ibstat("mlx5_0"));
  ASSERT_EQ(0, std::system(("cd " + f.path() + " && mkdir out && tar czf out/n1.tar.gz n1 && tar cjf out/n2.tar.bz2 -C n2 . && tar cf all.tar out").c_str()));
  const Cluster one = import_machines(f.path("out/n1.tar.gz"));
  EXPECT_THAT(names(one), ElementsAre("n1"));
  EXPECT_EQ(one.nodes[0].gpus.size(), 2u);
  EXPECT_EQ(one.nodes[0].hcas.size(), 1u);
  EXPECT_THAT(names(import_machines(f.path("out"))), ElementsAre("n1", "n2"));
  EXPECT_THAT(names(import_machines(f.path("all.tar"))), ElementsAre("n1", "n2"));
  f.file("bad.tar.gz", "\x1f\x8b no archive at all");
  const Cluster bad = import_machines(f.path("bad.tar.gz"));
  EXPECT_TRUE(bad.nodes.empty());
  EXPECT_TRUE(finding(bad.findings, "file-not-known"));
}

TEST(Machines, TellsAnArchivesDamageAlsoWithoutAMachine) {
  const ScratchFolder f;
  f.file("notes.txt", std::string(4000, 'x'));
  ASSERT_EQ(0, std::system(("cd " + f.path() + " && tar cf - notes.txt | head -c 1500 > cut.tar").c_str()));
  const Cluster cluster = import_machines(f.path("cut.tar"));
  EXPECT_TRUE(cluster.nodes.empty());
  const Finding* left_out = finding(cluster.findings, "file-not-known");
  ASSERT_TRUE(left_out);
  EXPECT_THAT(left_out->evidence, ::testing::Contains(HasSubstr("truncated")));
}
#endif

TEST(Machines, TakesAnEmptyNvlinkStatusByItsName) {
  const ScratchFolder f;
  f.file("nvidia-smi-nvlink-status.txt", "");
  f.file("empty.txt", "\n");
  f.file("lspci.txt", kPci + "1a:00.0 3D controller: NVIDIA Corporation GH100 [H100 PCIe]\n");
  const Cluster cluster = import_machines(f.path());
  ASSERT_EQ(cluster.nodes.size(), 1u);
  EXPECT_EQ(cluster.nodes[0].nvlink, false);
}

TEST(Machines, ReadsAPasteOfSeveralTools) {
  const Cluster cluster = import_text("user@n1:~$ nvidia-smi -L\n" + kList + "user@n1:~$ ibstat\n" + ibstat("mlx5_0") + "user@n1:~$ lspci | grep -i host\n" + kPci);
  ASSERT_EQ(cluster.nodes.size(), 1u);
  EXPECT_EQ(cluster.nodes[0].name, "pasted");
  EXPECT_EQ(cluster.nodes[0].gpus.size(), 2u);
  EXPECT_EQ(cluster.nodes[0].hcas.size(), 1u);
  EXPECT_TRUE(import_text("nothing of this is known").nodes.empty());
  EXPECT_TRUE(import_text("").nodes.empty());
}

TEST(Machines, TellsTheHostsOfALogApart) {
  const std::string log = "n1:77:99 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.1<0>\nn2:78:98 [0] NCCL INFO Bootstrap : Using ens3:10.0.0.2<0>\n"
                          "n1:77:99 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0:10.0.0.1<0>\n"
                          "n2:78:98 [0] NCCL INFO NET/IB : No device found.\n";
  const Cluster cluster = import_text(log);
  ASSERT_THAT(names(cluster), ElementsAre("n1", "n2"));
  EXPECT_EQ(cluster.nodes[0].hcas.at(0).name, "mlx5_0");
  EXPECT_TRUE(cluster.nodes[1].rdma_absent);
  const ScratchFolder f;
  f.file("box/nccl.log", log);
  f.file("box/gpus.txt", kList);
  const Cluster one = import_machines(f.path("box"));
  ASSERT_EQ(one.nodes.size(), 1u);
  EXPECT_EQ(one.nodes[0].hcas.size(), 1u);
  EXPECT_THAT(finding(one.findings, "file-not-known")->evidence, ElementsAre(HasSubstr("n2")));
  f.file("both/nccl.log", log);
  f.file("both/n1/gpus.txt", kList);
  f.file("both/n2/gpus.txt", kList);
  const Cluster both = import_machines(f.path("both"));
  ASSERT_THAT(names(both), ElementsAre("n1", "n2"));
  EXPECT_EQ(both.nodes[0].hcas.size(), 1u);
  EXPECT_TRUE(both.nodes[1].rdma_absent);
}

TEST(Machines, TakesStoredClustersAsTheyAre) {
  const Cluster stored = import_text(ibstat("mlx5_0"), "n1");
  const ScratchFolder f;
  f.file("cluster.json", stored.to_json());
  EXPECT_EQ(import_machines(f.path("cluster.json")), stored);
  EXPECT_EQ(import_text(stored.to_json()), stored);
  f.file("n2/ibstat.txt", ibstat("mlx5_1"));
  EXPECT_THAT(names(import_machines(f.path())), UnorderedElementsAre("n1", "n2"));
}

TEST(Machines, NamesDifferWhereHostNamesDoNot) {
  const ScratchFolder f;
  for (const std::string node : {"a", "b"}) {
    f.file(node + "/sys/class/infiniband/mlx5_0/ports/1/link_layer", "InfiniBand\n");
    f.file(node + "/etc/hostname", "localhost\n");
  }
  EXPECT_THAT(names(import_machines(f.path())), ElementsAre("localhost", "b"));
}

TEST(Machines, RefusesWhatIsNotThere) {
  try {
    import_machines("/nonexistent/folder");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Error::not_found);
    EXPECT_THAT(error.what(), HasSubstr("/nonexistent/folder"));
  }
  const ScratchFolder f;
  EXPECT_TRUE(import_machines(f.path()).nodes.empty());
}

TEST(Machines, FollowsTheLinkThatIsGiven) {
  const ScratchFolder f;
  f.file("far/ibstat.txt", ibstat("mlx5_0"));
  f.link("near/absolute.txt", f.path("far/ibstat.txt"));
  f.link("near/outside.txt", "../far/ibstat.txt");
  f.link("near/folder", f.path("far"));
  EXPECT_THAT(names(import_machines(f.path("near/absolute.txt"))), ElementsAre("absolute"));
  EXPECT_THAT(names(import_machines(f.path("near/outside.txt"))), ElementsAre("outside"));
  EXPECT_THAT(names(import_machines(f.path("near/folder"))), ElementsAre("folder"));
}

TEST(Machines, SaysHowToReadAPipe) {
  const ScratchFolder f;
  ASSERT_EQ(0, mkfifo(f.path("pipe").c_str(), 0600));
  try {
    import_machines(f.path("pipe"));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Error::io);
    EXPECT_THAT(error.what(), ::testing::AllOf(HasSubstr(f.path("pipe")), HasSubstr("--from -")));
  }
}

TEST(Machines, CutsNoStoredClusterSilently) {
  const ScratchFolder f;
  f.file("huge.json", "{\"format\": \"dsinfer-cluster\", \"version\": 1, ");
  std::filesystem::resize_file(f.path("huge.json"), uintmax_t{513} << 20);  // a hole: takes no room
  try {
    import_machines(f.path("huge.json"));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Error::unsupported);
    EXPECT_THAT(error.what(), ::testing::AllOf(HasSubstr("537919488"), HasSubstr("512 MiB"), HasSubstr("fewer nodes")));
  }
  const Cluster folder = import_machines(f.path());
  const Finding* left_out = finding(folder.findings, "file-not-known");
  ASSERT_TRUE(left_out);
  EXPECT_THAT(left_out->evidence, ElementsAre(::testing::AllOf(HasSubstr("huge.json"), HasSubstr("64 MiB"))));
  f.file("huge.json", import_text(ibstat("mlx5_0"), "n1").to_json() + std::string(size_t{17} << 20, '\n'));  // more than a text may have
  EXPECT_THAT(names(import_machines(f.path())), ElementsAre("n1"));
}

TEST(Machines, SurvivesHostileFolders) {
  const ScratchFolder f;
  f.link("loop", ".");
  f.link("out", "/etc/hostname");
  f.link("dangling", "nowhere");
  f.file("deep/1/2/3/4/5/6/7/8/9/10/ibstat.txt", ibstat("mlx5_0"));
  f.file("junk", std::string(100000, '\xff'));
  f.file("utf16.txt", std::string("\xff\xfe" "C\0A\0", 6));
  f.file("\xff\xfe.txt", ibstat("mlx5_1"));
  f.file("bad.json", "{\"format\": \"dsinfer-cluster\", \"nodes\": 7}");
  const Cluster cluster = import_machines(f.path());
  EXPECT_EQ(cluster.nodes.size(), 1u);
  EXPECT_TRUE(finding(cluster.findings, "file-not-known"));
  EXPECT_NO_THROW(Cluster::from_json(cluster.to_json()));
}

}  // namespace
}  // namespace dsinfer
