/// What files say, sorted by machine: the way from a folder or an archive to the parts that join() brings together.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "topology/importers.hpp"

namespace dsinfer::topology {

/// The parts of one machine.
struct Machine {
  std::string name;             ///< of its folder, file or prefix
  bool named_by_files = false;  ///< the prefix of its files: goes before its host name
  bool of_log = false;          ///< one host of a log that several hosts wrote
  std::vector<Imported> parts{};
};

/// What a scan found: machines, stored clusters' nodes, and what no importer knew.
struct Machines {
  std::vector<Machine> machines;
  std::vector<Node> stored;          ///< nodes of Cluster JSON, as they were
  std::vector<std::string> unknown;  ///< "notes.pdf: no importer knows it"
};

DSINFER_INTERNAL Machines scan_tree(const std::shared_ptr<const Tree>& tree, const std::string& name);                  ///< scan_tree.cpp
DSINFER_INTERNAL Machines scan_file(std::string content, const std::string& name);                                      ///< scan_tree.cpp
/// Splits files of one folder by the machines that versions.csv or their names' prefixes tell: file names and their parts → machines; empty if they
/// are one machine's.
struct FileParts { std::string file; std::vector<Imported> parts; };
DSINFER_INTERNAL std::vector<Machine> split_by_name(std::vector<FileParts>& files, const std::vector<std::string>& nodes);  ///< split_by_name.cpp

}  // namespace dsinfer::topology
