// Folders and archives as trees: links inside, nothing from outside, and what damaged or hostile ones give.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "dsinfer/error.hpp"
#include "scratch_folder.hpp"
#include "topology/importers.hpp"
#include "topology/tree.hpp"

namespace dsinfer::topology {
namespace {

// The ustar format: headers of 512 bytes, content padded to 512.
class Tar {
 public:
  Tar& file(const std::string& name, const std::string& content) { return add(name, '0', "", content); }
  Tar& link(const std::string& name, const std::string& target) { return add(name, '2', target, ""); }
  Tar& hard_link(const std::string& name, const std::string& target) { return add(name, '1', target, ""); }
  // GNU's way: the target stands in an entry before.
  Tar& long_link(const std::string& name, const std::string& target) { return add("././@LongLink", 'K', "", target + '\0').add(name, '2', target.substr(0, 99), ""); }
  std::string bytes() const { return bytes_ + std::string(1024, '\0'); }

 private:
  Tar& add(const std::string& name, char type, const std::string& target, const std::string& content) {
    char header[512] = {};
    std::strncpy(header, name.c_str(), 99);
    std::snprintf(header + 100, 8, "%07o", 0644u);
    std::snprintf(header + 124, 12, "%011zo", content.size());
    header[156] = type;
    std::strncpy(header + 157, target.c_str(), 99);
    std::memcpy(header + 257, "ustar\00000", 8);
    std::memset(header + 148, ' ', 8);
    unsigned sum = 0;
    for (const char c : header) sum += static_cast<unsigned char>(c);
    std::snprintf(header + 148, 8, "%06o", sum);
    bytes_.append(header, sizeof header).append(content);
    bytes_.append((512 - content.size() % 512) % 512, '\0');
    return *this;
  }
  std::string bytes_;
};

TEST(NaturalOrder, CountsNumbersByValue) {
  EXPECT_TRUE(natural_less("mlx5_2", "mlx5_10"));
  EXPECT_FALSE(natural_less("mlx5_10", "mlx5_2"));
  EXPECT_TRUE(natural_less("mlx5_1", "mlx5_bond_0"));
  EXPECT_TRUE(natural_less("a", "b"));
  EXPECT_TRUE(natural_less("eth", "eth0"));
  EXPECT_TRUE(natural_less("01", "1"));
  EXPECT_FALSE(natural_less("x7", "x7"));
  EXPECT_TRUE(natural_less("n99999999999999999999998", "n99999999999999999999999"));
}

TEST(FolderTree, ReadsFilesAndFollowsLinksInside) {
  const ScratchFolder folder;
  folder.file("sys/devices/pci0000:00/0000:00:01.0/class", "0x020000\n");
  folder.file("sys/devices/pci0000:00/0000:00:01.0/empty", "");
  folder.link("sys/bus/pci/devices/0000:00:01.0", "../../../devices/pci0000:00/0000:00:01.0");
  folder.link("sys/absolute", "/sys/devices/pci0000:00");
  const auto tree = folder_tree(folder.path());
  EXPECT_EQ(tree->read("sys/bus/pci/devices/0000:00:01.0/class"), "0x020000\n");
  EXPECT_EQ(tree->number("sys/bus/pci/devices/0000:00:01.0/class"), 0x020000);
  EXPECT_EQ(tree->line("sys/bus/pci/devices/0000:00:01.0/empty"), std::nullopt);
  EXPECT_EQ(tree->resolve("sys/bus/pci/devices/0000:00:01.0"), "sys/devices/pci0000:00/0000:00:01.0");
  EXPECT_EQ(tree->link("sys/bus/pci/devices/0000:00:01.0"), "../../../devices/pci0000:00/0000:00:01.0");
  EXPECT_EQ(tree->link("sys/devices"), std::nullopt);
  EXPECT_EQ(tree->list("sys/absolute"), std::vector<std::string>{"0000:00:01.0"});
  EXPECT_EQ(tree->read("sys/bus/pci/devices/0000:00:01.0/class", 4), "0x02");
  EXPECT_FALSE(tree->read("sys/bus"));
  EXPECT_FALSE(tree->exists("sys/none"));
}

TEST(FolderTree, NeverShowsWhatLiesOutside) {
  const ScratchFolder folder;
  folder.file("secret", "outside");
  folder.file("root/inside", "x");
  folder.link("root/up", "../secret");
  folder.link("root/absolute", "/etc/hostname");
  folder.link("root/folder", "..");
  const auto tree = folder_tree(folder.path("root"));
  EXPECT_FALSE(tree->read("up"));
  EXPECT_FALSE(tree->read("../secret"));
  EXPECT_FALSE(tree->read("absolute"));
  EXPECT_FALSE(tree->read("folder/secret"));
  EXPECT_TRUE(tree->list("folder").empty());
  EXPECT_FALSE(tree->resolve("up"));
}

TEST(FolderTree, EndsInCirclesOfLinks) {
  const ScratchFolder folder;
  folder.link("a", "b");
  folder.link("b", "a");
  folder.link("c", "c/c");
  folder.link("d", ".");
  folder.file("f", "x");
  const auto tree = folder_tree(folder.path());
  EXPECT_FALSE(tree->read("a"));
  EXPECT_FALSE(tree->exists("c"));
  EXPECT_EQ(tree->read("d/d/d/f"), "x");
}

TEST(FolderTree, SaysWhatCannotBeRead) {
  if (geteuid() == 0) GTEST_SKIP() << "root reads everything";
  const ScratchFolder folder;
  folder.file("closed", "x");
  std::filesystem::permissions(folder.path("closed"), std::filesystem::perms::none);
  const auto tree = folder_tree(folder.path());
  EXPECT_FALSE(tree->read("closed"));
  EXPECT_TRUE(tree->unreadable("closed"));
  EXPECT_FALSE(tree->unreadable("none"));
}

TEST(FolderTree, NeverWaitsForPipes) {
  const ScratchFolder folder;
  ASSERT_EQ(0, std::system(("mkfifo " + folder.path("pipe")).c_str()));
  EXPECT_FALSE(folder_tree(folder.path())->read("pipe"));
}

TEST(FolderTree, ReadsTheMachineItself) {
  const auto tree = folder_tree("/");
  EXPECT_TRUE(tree->exists("proc/self/status"));
  EXPECT_TRUE(tree->line("proc/sys/kernel/ostype"));
}

TEST(SubTree, KeepsLinksInItself) {
  const ScratchFolder folder;
  folder.file("top/sys/devices/x/value", "7");
  folder.link("top/sys/class/x", "../devices/x");
  folder.link("top/out", "../other");
  folder.file("other", "y");
  const std::shared_ptr<const Tree> whole = folder_tree(folder.path());
  const auto tree = sub_tree(whole, "top");
  EXPECT_EQ(tree->number("sys/class/x/value"), 7);
  EXPECT_EQ(tree->resolve("sys/class/x"), "sys/devices/x");
  EXPECT_FALSE(tree->read("out"));
  EXPECT_EQ(tree->list(""), (std::vector<std::string>{"out", "sys"}));
}

#ifdef DSINFER_ARCHIVES

TEST(ArchiveTree, ReadsATarWithItsLinks) {
  const auto tree = archive_tree(Tar()
                                     .file("./top/sys/devices/pci0000:80/0000:82:00.0/vendor", "0x15b3\n")
                                     .link("top/sys/class/infiniband/mlx4_0", "../../devices/pci0000:80/0000:82:00.0")
                                     .hard_link("top/copy", "top/sys/devices/pci0000:80/0000:82:00.0/vendor")
                                     .bytes(),
                                 "machine.tar");
  EXPECT_EQ(tree->number("top/sys/class/infiniband/mlx4_0/vendor"), 0x15b3);
  EXPECT_EQ(tree->number("top/copy"), 0x15b3);
  EXPECT_EQ(tree->resolve("top/sys/class/infiniband/mlx4_0"), "top/sys/devices/pci0000:80/0000:82:00.0");
  EXPECT_EQ(tree->list("top"), (std::vector<std::string>{"copy", "sys"}));
  EXPECT_EQ(tree->damage(), "");
}

TEST(ArchiveTree, IgnoresNamesThatLeadOut) {
  const auto tree = archive_tree(Tar()
                                     .file("../../etc/passwd", "x")
                                     .file("a/../../b", "x")
                                     .file("/absolute", "y")
                                     .link("l", "../../../../etc/hostname")
                                     .link("down", "/")
                                     .file("down/through", "x")
                                     .bytes(),
                                 "hostile.tar");
  EXPECT_EQ(tree->list(""), (std::vector<std::string>{"a", "absolute", "down", "l"}));
  EXPECT_EQ(tree->read("absolute"), "y");
  EXPECT_FALSE(tree->exists("l"));
  EXPECT_FALSE(tree->exists("down/through"));
}

TEST(ArchiveTree, RefusesLinksLongerThanAPath) {
  const auto tree = archive_tree(Tar().file("a", "1").long_link("long", std::string(4000, 'x')).long_link("longer", std::string(5000, 'x')).file("z", "2").bytes(), "links.tar");
  EXPECT_EQ(tree->list(""), (std::vector<std::string>{"a", "long", "z"}));
  EXPECT_EQ(tree->link("long"), std::string(4000, 'x'));
  EXPECT_EQ(tree->read("z"), "2");
}

TEST(ArchiveTree, KeepsWhatCameBeforeTheCut) {
  std::string bytes = Tar().file("first", "1").file("second", std::string(2000, 'x')).bytes();
  bytes.resize(512 * 3 + 300);
  const auto tree = archive_tree(bytes, "cut.tar");
  EXPECT_EQ(tree->read("first"), "1");
  EXPECT_NE(tree->damage(), "");
}

TEST(ArchiveTree, RefusesWhatIsNone) {
  for (const std::string& bytes : {std::string(), std::string("plain text, no archive"), std::string(600, '\0'), std::string("\x1f\x8b junk")}) {
    try {
      archive_tree(bytes, "x.tar");
      ADD_FAILURE() << "taken as an archive";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Error::bad_format);
      EXPECT_NE(std::string(error.what()).find("x.tar"), std::string::npos);
    }
  }
}

TEST(ArchiveTree, ReadsEveryCompression) {
  const ScratchFolder folder;
  folder.file("run/sys/class/net/eth0/mtu", "1500\n");
  for (const std::string packer : {"cat", "gzip", "bzip2", "xz", "zstd"}) {
    if (std::system(("command -v " + packer + " > /dev/null").c_str()) != 0) continue;
    const std::string file = folder.path("run.tar." + packer);
    ASSERT_EQ(0, std::system(("cd " + folder.path() + " && tar cf - run | " + packer + " > " + file).c_str()));
    std::ifstream in(file, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    EXPECT_TRUE(is_archive(bytes)) << packer;
    EXPECT_EQ(archive_tree(bytes, file)->number("run/sys/class/net/eth0/mtu"), 1500) << packer;
  }
}

TEST(ArchiveTree, OpensOneCompressedFile) {
  const ScratchFolder folder;
  folder.file("ibstat.txt", "CA 'mlx5_0'\n");
  ASSERT_EQ(0, std::system(("gzip " + folder.path("ibstat.txt")).c_str()));
  std::ifstream in(folder.path("ibstat.txt.gz"), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  EXPECT_EQ(archive_tree(bytes, "run/ibstat.txt.gz")->read("ibstat.txt"), "CA 'mlx5_0'\n");
}

#else

TEST(ArchiveTree, SaysThatThisBuildReadsNone) {
  try {
    archive_tree(Tar().file("a", "b").bytes(), "x.tar");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Error::unsupported);
  }
}

#endif

TEST(TidyText, UndoesWhatTerminalsAndShellsDo) {
  EXPECT_EQ(tidy_text("\x1b[4mGPU0\tGPU1\x1b[0m\r\nGPU0\t X \r\n"), "GPU0\tGPU1\nGPU0\t X \n");
  EXPECT_EQ(tidy_text("\xef\xbb\xbfname,x"), "name,x");
  EXPECT_EQ(tidy_text(std::string_view("\xff\xfe" "C\0A\0\n\0", 8)), "CA\n");
  EXPECT_EQ(tidy_text(std::string_view("\xfe\xff\0C\0A", 6)), "CA");
  EXPECT_EQ(tidy_text("a\x1b]0;title\ab"), "ab");
  EXPECT_EQ(tidy_text("\x1b["), "");
  EXPECT_EQ(tidy_text("\x1b"), "");
  EXPECT_EQ(tidy_text("bad \xff byte"), "bad \xef\xbf\xbd byte");
}

TEST(Importers, KnowNothingOfProse) {
  EXPECT_TRUE(import_capture("", "empty").empty());
  EXPECT_TRUE(import_capture("# a remark\n\n- Source: somebody's notes on nvidia-smi and ibstat\n", "SOURCE.md").empty());
}

}  // namespace
}  // namespace dsinfer::topology
