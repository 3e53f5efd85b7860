// The GID index that NCCL takes on a RoCE port.
#include <gtest/gtest.h>

#include <random>

#include "topology/choice.hpp"

using namespace dsinfer;
using namespace dsinfer::topology;

namespace {

struct Row {
  int index;
  const char* address;
  int version;
};

HcaPort port_with(std::initializer_list<Row> rows) {
  HcaPort port;
  port.link_layer = LinkLayer::ethernet;
  port.gid_table = true;
  for (const Row& row : rows) {
    Gid gid;
    gid.index = row.index;
    gid.address = row.address;
    gid.roce_version = row.version;
    port.gids.push_back(gid);
  }
  return port;
}

Node node_with(std::initializer_list<Setting> settings) {
  Node node;
  node.settings = settings;
  return node;
}

int index_of(const HcaPort& port, const Node& node = {}) {
  const auto choice = choose_gid(node, port);
  return choice ? choice->index : -1;
}

bool usable(const HcaPort& port, const Node& node = {}) { return choose_gid(node, port).value_or(GidChoice{}).usable; }

const char* kLocal = "fe80::1";

// The rule as NCCL's source has it, on a table without gaps: what the library must agree with on any table.
struct Plain {
  bool ipv4 = false, valid = false;
  int version = 0;
};
int plain_rule(const std::vector<Plain>& table, bool want_ipv4, int want_version) {
  size_t cur = 0;
  for (size_t next = 1; next < table.size(); ++next) {
    if (table[next].ipv4 != table[cur].ipv4 && table[next].ipv4 == want_ipv4) {
      cur = next;
      continue;
    }
    if (table[next].ipv4 != want_ipv4 || !table[next].valid) continue;
    if ((table[next].version != table[cur].version || !table[cur].valid) && table[next].version == want_version) cur = next;
  }
  return static_cast<int>(cur);
}

}  // namespace

TEST(Gid, IsTheFirstRoutableRoceV2AddressOfUsualTables) {
  EXPECT_EQ(index_of(port_with({{0, kLocal, 1}, {1, kLocal, 2}, {2, "::ffff:10.0.0.1", 1}, {3, "::ffff:10.0.0.1", 2}})), 3);  // ConnectX
  EXPECT_EQ(index_of(port_with({{0, kLocal, 2}, {1, "::ffff:10.0.0.1", 2}})), 1);                                             // irdma, eRDMA, rxe
  EXPECT_EQ(index_of(port_with({{4, kLocal, 1}, {5, kLocal, 2}, {6, "::ffff:10.0.0.1", 1}, {7, "::ffff:10.0.0.1", 2}})), 7);  // pod with macvlan
  EXPECT_EQ(index_of(port_with({{0, kLocal, 1}, {1, kLocal, 2}, {2, "::ffff:10.0.0.1", 1}, {3, "::ffff:10.0.0.1", 2}, {4, "::ffff:10.0.0.2", 1}, {5, "::ffff:10.0.0.2", 2}})), 3);
  EXPECT_EQ(index_of(port_with({{0, kLocal, 1}, {1, kLocal, 2}})), 0);
}

TEST(Gid, OfAPortWithoutAnAddressIsNotUsable) {
  EXPECT_FALSE(usable(port_with({{0, kLocal, 1}, {1, kLocal, 2}})));
  EXPECT_FALSE(usable(port_with({})));
  EXPECT_FALSE(usable(port_with({{0, "::", 1}, {1, "::", 2}})));
  EXPECT_FALSE(usable(port_with({{0, kLocal, 1}, {2, "::ffff:10.0.0.1", 1}})));  // RoCE v1 only
  EXPECT_TRUE(usable(port_with({{0, kLocal, 1}, {2, "::ffff:10.0.0.1", 1}, {3, "::ffff:10.0.0.1", 2}})));
}

TEST(Gid, OfASingleEntryWithoutTableIsUnknown) {
  HcaPort port = port_with({{0, kLocal, 2}});
  port.gid_table = false;
  EXPECT_EQ(choose_gid({}, port), std::nullopt);
}

TEST(Gid, LinkLocalIPv4IsUsableAndMarked) {
  const auto choice = choose_gid({}, port_with({{0, kLocal, 1}, {1, kLocal, 2}, {2, "::ffff:169.254.3.4", 1}, {3, "::ffff:169.254.3.4", 2}}));
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->index, 3);
  EXPECT_TRUE(choice->usable);
  EXPECT_TRUE(choice->link_local_ipv4);
}

TEST(Gid, EntriesOfAnotherNamespaceAreSkipped) {
  HcaPort port = port_with({{0, kLocal, 1}, {1, kLocal, 2}, {2, "::ffff:10.0.0.1", 0}, {3, "::ffff:10.0.0.1", 0}, {6, "::ffff:10.9.0.1", 1}, {7, "::ffff:10.9.0.1", 2}});
  port.gids[2].readable = port.gids[3].readable = false;
  EXPECT_EQ(index_of(port), 7);
}

TEST(Gid, FollowsTheUsersFamilyVersionAndRange) {
  const HcaPort port = port_with({{0, kLocal, 1}, {1, kLocal, 2}, {2, "::ffff:10.0.0.1", 1}, {3, "::ffff:10.0.0.1", 2}, {4, "fd00::1", 1}, {5, "fd00::1", 2}, {6, "::ffff:10.7.0.1", 1}, {7, "::ffff:10.7.0.1", 2}});
  EXPECT_EQ(index_of(port, node_with({{"NCCL_IB_ADDR_FAMILY", "AF_INET6", "environment"}})), 5);
  EXPECT_EQ(index_of(port, node_with({{"NCCL_IB_ROCE_VERSION_NUM", "1", "environment"}})), 2);
  EXPECT_EQ(index_of(port, node_with({{"NCCL_IB_ADDR_RANGE", "10.7.0.0/16", "environment"}})), 7);
  EXPECT_EQ(index_of(port, node_with({{"NCCL_IB_ADDR_RANGE", "fd00::/8", "environment"}})), 3);  // of the other family: no range
  EXPECT_EQ(index_of(port, node_with({{"NCCL_IB_ADDR_RANGE", "not an address", "environment"}})), 3);
}

TEST(Gid, IsUnknownWhereNoToolTellsTheVersionsOfTwins) {
  EXPECT_EQ(choose_gid({}, port_with({{0, kLocal, 0}, {1, kLocal, 0}, {2, "::ffff:10.0.0.1", 0}, {3, "::ffff:10.0.0.1", 0}})), std::nullopt);
  EXPECT_EQ(index_of(port_with({{0, kLocal, 0}, {1, "::ffff:10.0.0.1", 0}})), 1);
}

TEST(Gid, AgreesWithThePlainRuleOnRandomTables) {
  std::mt19937 random(4);
  const std::vector<std::pair<const char*, Plain>> kinds = {{"::", {false, false, 0}},         {"fe80::1", {false, false, 1}},      {"fe80::1", {false, false, 2}},
                                                            {"fd00::1", {false, true, 1}},     {"fd00::1", {false, true, 2}},       {"::ffff:10.0.0.1", {true, true, 1}},
                                                            {"::ffff:10.0.0.1", {true, true, 2}}, {"::ffff:169.254.0.1", {true, true, 2}}};
  for (int round = 0; round < 4000; ++round) {
    HcaPort port;
    port.gid_table = true;
    std::vector<Plain> plain;
    const size_t length = 1 + random() % 10;
    for (size_t i = 0; i < length; ++i) {
      const auto& [address, entry] = kinds[random() % kinds.size()];
      plain.push_back(entry);
      if (std::string_view(address) == "::" && random() % 2 && i + 1 < length) continue;  // left out of the listing
      Gid gid;
      gid.index = static_cast<int>(i);
      gid.address = address;
      gid.roce_version = entry.version;
      if (std::string_view(address) == "::") gid.roce_version = 3;  // of no version that anyone asks for
      port.gids.push_back(gid);
    }
    for (const bool ipv4 : {true, false}) {
      const Node node = node_with({{"NCCL_IB_ADDR_FAMILY", ipv4 ? "AF_INET" : "AF_INET6", "environment"}});
      const int expected = plain_rule(plain, ipv4, 2);
      ASSERT_EQ(index_of(port, node), expected) << "round " << round;
    }
  }
}
