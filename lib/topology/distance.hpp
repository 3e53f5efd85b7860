/// Distances between the devices of one node, looked up many times.
#pragma once
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "topology/names.hpp"

namespace dsinfer::topology {

/// Borrows the node.
class DSINFER_INTERNAL Distances {
 public:
  explicit Distances(const Node& node);
  /// Between labels of GPUs, names of HCAs or bus ids. What a source states goes first, then the PCI tree; unknown where neither tells.
  PathKind between(const std::string& a, const std::string& b) const;
  /// NUMA node of a PCI function: its own, that of the nearest bridge that has one, -1.
  int numa_of(const std::string& bus_id) const;

 private:
  struct Place {
    std::string bus_id;
    int numa = -1;
  };
  Place place_of(const std::string& name) const;
  std::vector<std::string> ancestors(const std::string& bus_id) const;
  std::string root_of(const std::string& bus_id) const;
  PathKind by_tree(const Place& a, const Place& b) const;
  PathKind by_numa(const Place& a, const Place& b) const;

  const Node& node_;
  std::unordered_map<std::string, const PciDevice*> pci_;
  std::unordered_map<std::string, Place> places_;
  std::map<std::pair<std::string, std::string>, PathKind> stated_;
};

}  // namespace dsinfer::topology
