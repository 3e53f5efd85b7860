// Captured machines: what import_machines() makes of them, against what a person read from the same files (data/topology/README.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "dsinfer/cluster.hpp"
#include "topology/names.hpp"

using namespace dsinfer;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

const fs::path kFolder = fs::path(DSINFER_TEST_DATA) / "topology";

std::vector<std::string> machines() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    if (fs::exists(entry.path() / "expected.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Lists compare as sets, also inside of objects.
json as_set(json value) {
  if (value.is_array()) std::sort(value.begin(), value.end());
  if (value.is_object()) {
    for (auto& [key, item] : value.items()) item = as_set(item);
  }
  return value;
}

template <class T>
json known(const std::optional<T>& value) { return value ? json(*value) : json(nullptr); }
json text(std::string_view value) { return value.empty() ? json(nullptr) : json(std::string(value)); }

json all_codes(const Cluster& cluster) {
  std::set<std::string> codes;
  for (const Finding& finding : cluster.findings) codes.insert(finding.code);
  for (const Node& node : cluster.nodes) {
    for (const Finding& finding : node.findings) codes.insert(finding.code);
  }
  return codes;
}

json field(const Node& node, const std::string& name) {
  const Network& network = node.network;
  if (name == "transport") return text(topology::word(network.transport));
  if (name == "link_layer") return text(topology::word(network.link_layer));
  if (name == "hcas") return known(network.hcas);
  if (name == "hca_count") return known(network.hca_count);
  if (name == "hcas_excluded") return network.hcas_excluded;
  if (name == "hcas_seen") return network.hcas_seen;
  if (name == "nic_count") return known(network.nic_count);
  if (name == "efa_count") return known(network.efa_count);
  if (name == "ports_down") return network.ports_down;
  if (name == "mixed_ports") return network.mixed_ports;
  if (name == "gid_index") return known(network.gid_index);
  if (name == "gid_index_if_forced") return known(network.gid_index_if_forced);
  if (name == "socket_ifname") return text(network.socket_ifname);
  if (name == "gpu_count") return node.gpus_complete ? json(node.gpus.size()) : json(nullptr);
  if (name == "nvlink") return known(node.nvlink);
  if (name == "gpu_nic_affinity") return known(network.gpu_nic_affinity);
  if (name == "gdr_by_default") return known(network.gdr_by_default);
  if (name == "rails_isolated") return known(network.rails_isolated);
  if (name == "qps_per_connection") return known(network.qps_per_connection);
  if (name == "ib_tc") return known(network.ib_tc);
  if (name == "ib_sl") return known(network.ib_sl);
  if (name == "ib_timeout") return known(network.ib_timeout);
  if (name == "topo_file") return network.topo_file;
  if (name == "fallback_reason") return text(network.fallback_reason);
  if (name == "plugin_fabric") return text(network.plugin_fabric);
  return "no such field";
}

// Whether what we found is what the person wrote. A person's list of excluded HCAs need not be whole: none of them may be chosen.
bool agrees(const Node& node, const std::string& name, const json& expected) {
  const json found = field(node, name);
  if (name == "hcas_excluded") {
    const auto chosen = node.network.hcas.value_or(std::vector<std::string>());
    return std::none_of(expected.begin(), expected.end(), [&](const json& hca) { return std::find(chosen.begin(), chosen.end(), hca.get<std::string>()) != chosen.end(); });
  }
  return as_set(found) == as_set(expected);
}

const Node* find_node(const Cluster& cluster, const std::string& name) {
  const auto it = std::find_if(cluster.nodes.begin(), cluster.nodes.end(), [&](const Node& n) { return n.name == name; });
  return it == cluster.nodes.end() ? nullptr : &*it;
}

class Machine : public testing::TestWithParam<std::string> {};

}  // namespace

TEST_P(Machine, IsUnderstoodAsAPersonReadsIt) {
  const fs::path folder = kFolder / GetParam();
  const json expected = json::parse(std::ifstream(folder / "expected.json"));
  const Cluster cluster = import_machines(folder.string());
  ASSERT_FALSE(cluster.nodes.empty());
  std::set<std::string> certain;
  for (const json& name : expected.value("certain", json::array())) certain.insert(name);
  for (const auto& [name, value] : expected.items()) {
    if (name == "certain" || name == "check" || name == "hcas_optional") continue;
    const bool asserted = certain.contains(name);
    if (name == "nodes") {
      for (const auto& [node_name, fields] : value.items()) {
        const Node* node = find_node(cluster, node_name);
        ASSERT_TRUE(node) << node_name;
        for (const auto& [inner, item] : fields.items()) EXPECT_TRUE(agrees(*node, inner, item)) << node_name << " " << inner << ": found " << field(*node, inner) << ", expected " << item;
      }
    } else if (name == "findings" || name == "warnings") {
      const json codes = all_codes(cluster);
      for (const json& code : value) EXPECT_TRUE(std::find(codes.begin(), codes.end(), code) != codes.end()) << code << " is not among " << codes;
    } else if (asserted) {
      EXPECT_TRUE(agrees(cluster.nodes.front(), name, value)) << name << ": found " << field(cluster.nodes.front(), name) << ", expected " << value;
    } else if (!agrees(cluster.nodes.front(), name, value)) {
      std::cout << "  judgement: " << GetParam() << " " << name << ": found " << field(cluster.nodes.front(), name) << ", a person wrote " << value << "\n";
    }
  }
}

TEST_P(Machine, IsChosenForTheSameWayTwice) {
  Cluster cluster = import_machines((kFolder / GetParam()).string());
  const Cluster once = cluster;
  choose_network(cluster);
  EXPECT_TRUE(cluster == once);
}

INSTANTIATE_TEST_SUITE_P(Captured, Machine, testing::ValuesIn(machines()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});
