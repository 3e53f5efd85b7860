// Any bytes as an archive of a machine: refused as Error, or a tree that is read like a machine's /sys.
#include "dsinfer/cluster.hpp"
#include "dsinfer/error.hpp"
#include "topology/machines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsinfer::topology;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const std::shared_ptr<const Tree> tree = archive_tree(bytes, "input.tar");
    dsinfer::Cluster cluster;
    cluster.nodes.push_back(read_sysfs(*tree, "input"));
    const std::vector<std::string> top = tree->list("");
    if (top.size() == 1) cluster.nodes.push_back(read_sysfs(*sub_tree(tree, top[0]), "input"));
    for (Machine& machine : scan_tree(tree, "input").machines) {
      for (Imported& part : machine.parts) cluster.nodes.push_back(std::move(part.node));
    }
    for (dsinfer::Node& node : cluster.nodes) node.name = "n" + std::to_string(&node - cluster.nodes.data());
    dsinfer::Cluster::from_json(cluster.to_json());
  } catch (const dsinfer::Error& error) {
    if (error.code() != dsinfer::Error::bad_format && error.code() != dsinfer::Error::unsupported) throw;
  }
  return 0;
}
